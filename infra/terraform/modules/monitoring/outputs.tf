output "alert_policies" {
  description = "The ids of the alert policies, by alert."
  value = merge(
    { for key, policy in google_monitoring_alert_policy.promql : key => policy.id },
    { for policy in google_monitoring_alert_policy.unreachable : "unreachable" => policy.id },
    { for policy in google_monitoring_alert_policy.update_read : "update_read" => policy.id },
  )
}

output "dashboard" {
  description = "The dashboard's id."
  value       = google_monitoring_dashboard.muster.id
}

output "metrics" {
  description = "The types of the metrics from the coordinator's log, by name, for your own charts and alerts. Monitoring may know them only ten minutes after the first apply."
  value       = local.metric
}

output "budget" {
  description = "The budget's id, or null."
  value       = one(google_billing_budget.monthly[*].id)
}

output "objectives" {
  description = "The names of the service level objectives, by objective."
  value = merge(
    { check_ins = google_monitoring_slo.check_ins.name },
    { for objective in google_monitoring_slo.rounds : "rounds" => objective.name },
  )
}

output "uptime_check" {
  description = "The id of the uptime check of client_api, or null."
  value       = one(google_monitoring_uptime_check_config.health[*].id)
}
