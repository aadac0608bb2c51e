# What must hold of the alerts: each says what to do, reaches the channels, and counts what the coordinator logs.

mock_provider "google" {}

variables {
  project_id            = "some-project"
  project_number        = "42424242"
  name                  = "muster"
  queue                 = "muster-work"
  firestore_database    = "muster"
  notification_channels = ["projects/some-project/notificationChannels/1"]
  labels                = { team = "learning" }
  buckets               = { updates = "muster-updates", partials = "muster-partials", blobs = "muster-blobs" }
  services = {
    client_api   = "muster-client-api"
    operator_api = "muster-operator-api"
    aggregator   = "muster-aggregator"
    committer    = "muster-committer"
  }
}

run "alerts" {
  command = plan

  assert {
    condition     = toset(keys(google_monitoring_alert_policy.threshold)) == toset(["round_stuck", "updates_old", "refused_updates", "queue_depth"])
    error_message = "an alert is missing: round stuck, old updates, refused updates and queue depth are wanted"
  }
  assert {
    condition     = toset(keys(google_monitoring_alert_policy.errors)) == toset(["client_api", "operator_api", "aggregator", "committer"])
    error_message = "each function needs an alert on 5xx"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.abandoned.conditions[0].condition_prometheus_query_language[0].query, "> 0.3")
    error_message = "the alert on abandoned rounds must compare with the threshold"
  }
  assert {
    condition = alltrue([for policy in concat(values(google_monitoring_alert_policy.threshold), values(google_monitoring_alert_policy.errors), [google_monitoring_alert_policy.abandoned]) :
    length(policy.documentation[0].content) > 100])
    error_message = "each alert must say what it means and what to do"
  }
  assert {
    condition = alltrue([for policy in concat(values(google_monitoring_alert_policy.threshold), values(google_monitoring_alert_policy.errors), [google_monitoring_alert_policy.abandoned]) :
    contains(policy.notification_channels, "projects/some-project/notificationChannels/1")])
    error_message = "each alert must reach the notification channels"
  }
  assert {
    condition     = google_monitoring_alert_policy.threshold["updates_old"].conditions[0].condition_threshold[0].threshold_value == 3600
    error_message = "updates older than an hour must raise an alert"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.threshold["refused_updates"].conditions[0].condition_threshold[0].filter, "AND NOT metric.labels.problem=one_of(\"round_closed\", \"assignment_expired\"")
    error_message = "clients that come too late are no reason for an alert"
  }
}

run "metrics" {
  command = plan

  assert {
    condition = alltrue([for metric in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) :
    strcontains(metric.filter, "resource.labels.service_name=(\"muster-aggregator\" OR \"muster-client-api\" OR \"muster-committer\" OR \"muster-operator-api\")")])
    error_message = "metrics must count what the functions write, and nothing else"
  }
  assert {
    condition     = alltrue([for metric in values(google_logging_metric.distribution) : can(regex("^EXTRACT\\(jsonPayload\\.[a-z_]+\\)$", metric.value_extractor))])
    error_message = "each distribution must take its value from a field of the event"
  }
  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.muster.dashboard_json).mosaicLayout.tiles) == 15
    error_message = "the dashboard must hold its charts"
  }
  assert {
    condition     = length(google_billing_budget.monthly) == 0
    error_message = "no budget may be made unless one is asked for"
  }
}

run "budget" {
  command = plan

  variables {
    budget = { billing_account = "012345-6789AB-CDEF01", amount = 200 }
  }

  assert {
    condition     = google_billing_budget.monthly[0].amount[0].specified_amount[0].units == "200"
    error_message = "the budget must have the amount that was asked for"
  }
  assert {
    condition     = google_billing_budget.monthly[0].budget_filter[0].projects == toset(["projects/42424242"])
    error_message = "the budget must watch this project alone"
  }
}

run "refuses_a_share_above_one" {
  command = plan

  variables {
    thresholds = { error_rate = 5 }
  }

  expect_failures = [var.thresholds]
}

run "refuses_a_function_that_is_not_watched" {
  command = plan

  variables {
    services = { client_api = "muster-client-api" }
  }

  expect_failures = [var.services]
}
