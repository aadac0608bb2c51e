output "alert_policies" {
  description = "The ids of the alert policies, by alert."
  value = merge(
    { for key, policy in google_monitoring_alert_policy.threshold : key => policy.id },
    { for function, policy in google_monitoring_alert_policy.errors : "errors_${function}" => policy.id },
    { rounds_abandoned = google_monitoring_alert_policy.abandoned.id },
  )
}

output "dashboard" {
  description = "The dashboard's id."
  value       = google_monitoring_dashboard.muster.id
}

output "metrics" {
  description = "The types of the metrics from the coordinator's log, by name, for your own charts and alerts."
  value       = local.metric
}

output "budget" {
  description = "The budget's id, or null."
  value       = one(google_billing_budget.monthly[*].id)
}
