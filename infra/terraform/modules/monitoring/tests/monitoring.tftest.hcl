# What must hold of the alerts: each says what to do, reaches the channels, and counts what the coordinator logs.

mock_provider "google" {}

variables {
  project_id            = "some-project"
  project_number        = "42424242"
  name                  = "muster"
  region                = "europe-west1"
  queues                = ["muster-work", "muster-work-commits"]
  tick                  = "muster-work-tick"
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
    condition = toset(keys(google_monitoring_alert_policy.promql)) == toset([
      "round_stuck", "updates_old", "refused_updates", "queue_depth", "errors", "rounds_abandoned", "tick_silent", "check_in_burn", "round_burn",
    ])
    error_message = "an alert is missing: round stuck, old updates, refused updates, queue depth, errors, abandoned rounds, silent tick and two burn rates are wanted"
  }
  assert {
    condition     = alltrue(flatten([for policy in values(google_monitoring_alert_policy.promql) : [for condition in policy.conditions : condition.condition_prometheus_query_language[0].disable_metric_validation]]))
    error_message = "no condition may need a metric to exist: a first apply would stop"
  }
  assert {
    condition     = alltrue(flatten([for policy in values(google_monitoring_alert_policy.promql) : [for condition in policy.conditions : length(condition.condition_threshold) + length(condition.condition_absent) == 0]]))
    error_message = "a threshold or absence on a metric without data is refused at a first apply"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.promql["rounds_abandoned"].conditions[0].condition_prometheus_query_language[0].query, "> 0.3")
    error_message = "the alert on abandoned rounds must compare with the threshold"
  }
  assert {
    condition     = alltrue([for policy in values(google_monitoring_alert_policy.promql) : length(policy.documentation[0].content) > 100])
    error_message = "each alert must say what it means and what to do"
  }
  assert {
    condition     = alltrue([for policy in values(google_monitoring_alert_policy.promql) : contains(policy.notification_channels, "projects/some-project/notificationChannels/1")])
    error_message = "each alert must reach the notification channels"
  }
  assert {
    condition     = endswith(google_monitoring_alert_policy.promql["updates_old"].conditions[0].condition_prometheus_query_language[0].query, "> 3600")
    error_message = "updates older than an hour must raise an alert"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.promql["refused_updates"].conditions[0].condition_prometheus_query_language[0].query, "problem!~\"round_closed|assignment_expired|unavailable\"")
    error_message = "clients that come too late are no reason for an alert"
  }
  assert {
    condition     = length(regexall("> 50\\)", google_monitoring_alert_policy.promql["errors"].conditions[0].condition_prometheus_query_language[0].query)) == 1
    error_message = "one error among ten requests at night is no reason for an alert"
  }
  assert {
    condition = (
      strcontains(google_monitoring_alert_policy.promql["errors"].conditions[0].condition_prometheus_query_language[0].query, "service_name=~\"muster-aggregator|muster-client-api|muster-committer|muster-operator-api\"")
      && strcontains(google_monitoring_alert_policy.promql["errors"].conditions[0].condition_prometheus_query_language[0].query, "sum by (service_name)")
    )
    error_message = "the alert on 5xx must watch each function by itself"
  }
  assert {
    condition = (
      startswith(google_monitoring_alert_policy.promql["tick_silent"].conditions[0].condition_prometheus_query_language[0].query, "absent_over_time({\"logging.googleapis.com/user/muster/oldest_update_seconds_count\"")
      && google_monitoring_alert_policy.promql["tick_silent"].conditions[0].condition_prometheus_query_language[0].duration == "300s"
    )
    error_message = "ten minutes without a tick must raise an alert, even if there never was one"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.promql["tick_silent"].conditions[1].condition_prometheus_query_language[0].query, "muster/tick_failures")
    error_message = "failed attempts of Cloud Scheduler must raise an alert"
  }
  assert {
    condition = alltrue(flatten([for policy in values(google_monitoring_alert_policy.promql) : [for command in regexall("`gcloud [^`]*`", policy.documentation[0].content) :
    strcontains(command, "--project=some-project") && (length(regexall("gcloud (tasks|scheduler|run|functions) ", command)) == 0 || length(regexall("--(location|region)=europe-west1", command)) == 1)]]))
    error_message = "each gcloud command of an alert must name project and region"
  }
  assert {
    condition     = alltrue([for queue in ["muster-work", "muster-work-commits"] : strcontains(google_monitoring_alert_policy.promql["queue_depth"].documentation[0].content, "gcloud tasks queues describe ${queue} ")])
    error_message = "the alert on queues must have a command for each queue"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.promql["check_in_burn"].conditions[0].condition_prometheus_query_language[0].query, "> 0.072")
    error_message = "an error budget of check-ins that is spent 14.4 times too fast must raise an alert"
  }
  assert {
    condition     = length(regexall("histogram_quantile\\(0.7, ", google_monitoring_alert_policy.promql["round_burn"].conditions[0].condition_prometheus_query_language[0].query)) == 2
    error_message = "an error budget of rounds that is spent six times too fast must raise an alert"
  }
  assert {
    condition     = endswith(google_monitoring_alert_policy.promql["round_burn"].conditions[0].condition_prometheus_query_language[0].query, "[6h])) > 2")
    error_message = "one slow round is no reason for an alert"
  }
}

run "public_service" {
  command = plan

  variables {
    health_url = "https://fl.example.org"
  }

  assert {
    condition     = google_monitoring_uptime_check_config.health[0].http_check[0].path == "/health" && google_monitoring_uptime_check_config.health[0].monitored_resource[0].labels["host"] == "fl.example.org"
    error_message = "the uptime check must ask client_api for /health"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.unreachable[0].conditions[0].condition_prometheus_query_language[0].query, "host=\"fl.example.org\"")
    error_message = "failed uptime checks must raise an alert"
  }
  assert {
    condition     = contains(google_monitoring_alert_policy.unreachable[0].notification_channels, "projects/some-project/notificationChannels/1")
    error_message = "the alert on uptime checks must reach the notification channels"
  }
}

run "data_access_logs" {
  command = plan

  variables {
    data_access_logs   = true
    aggregator_account = "aggregator@some-project.iam.gserviceaccount.com"
  }

  assert {
    condition = alltrue([for part in [
      "resource.labels.bucket_name=\"muster-updates\"",
      "protoPayload.authorizationInfo.permission=\"storage.objects.get\"",
      "NOT protoPayload.authenticationInfo.principalEmail=\"aggregator@some-project.iam.gserviceaccount.com\"",
    ] : strcontains(google_monitoring_alert_policy.update_read[0].conditions[0].condition_matched_log[0].filter, part)])
    error_message = "each read of an update by another account than the aggregator's must raise an alert"
  }
  assert {
    condition     = google_monitoring_alert_policy.update_read[0].alert_strategy[0].notification_rate_limit[0].period == "300s"
    error_message = "an alert on log entries must have a limit of notifications"
  }
  assert {
    condition     = contains(google_monitoring_alert_policy.update_read[0].notification_channels, "projects/some-project/notificationChannels/1")
    error_message = "the alert on reads of updates must reach the notification channels"
  }
}

run "refuses_data_access_logs_without_the_aggregator" {
  command = plan

  variables {
    data_access_logs = true
  }

  expect_failures = [google_monitoring_alert_policy.update_read]
}

run "objectives" {
  command = plan

  assert {
    condition     = google_monitoring_slo.check_ins.goal == 0.995 && google_monitoring_slo.check_ins.rolling_period_days == 28
    error_message = "the objective of check-ins must have its goal over four weeks"
  }
  assert {
    condition     = length(google_monitoring_slo.rounds) == 0
    error_message = "an objective on a log-based metric is refused at a first apply"
  }
  assert {
    condition     = length(google_monitoring_uptime_check_config.health) + length(google_monitoring_alert_policy.unreachable) == 0
    error_message = "a service that is not public must have no uptime check"
  }
  assert {
    condition     = length(google_monitoring_alert_policy.update_read) == 0
    error_message = "without Data Access logs there is nothing to watch"
  }
}

run "objective_of_rounds" {
  command = plan

  variables {
    objectives = { rounds_in_console = true, round_seconds = 7200 }
  }

  assert {
    condition     = google_monitoring_slo.rounds[0].request_based_sli[0].distribution_cut[0].range[0].max == 7200
    error_message = "the objective of rounds must have the limit that was asked for"
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
    condition     = length(jsondecode(google_monitoring_dashboard.muster.dashboard_json).mosaicLayout.tiles) == 19
    error_message = "the dashboard must hold its charts"
  }
  assert {
    condition = alltrue([for title in ["Queues: pieces of work that wait", "Queues: state now", "Queues: paused, resumed or purged, by whom"] :
    contains([for tile in jsondecode(google_monitoring_dashboard.muster.dashboard_json).mosaicLayout.tiles : tile.widget.title], title)])
    error_message = "the dashboard must show depth and state of the queues"
  }
  assert {
    condition     = length(regexall("one_of\\(.\"muster-work.\", .\"muster-work-commits.\"\\)", google_monitoring_dashboard.muster.dashboard_json)) == 3
    error_message = "the dashboard must show each queue"
  }
  assert {
    condition = alltrue(flatten([for tile in jsondecode(google_monitoring_dashboard.muster.dashboard_json).mosaicLayout.tiles : [for line in try(tile.widget.xyChart.dataSets, []) :
    !strcontains(jsonencode(line), "storage/v2/total_bytes") || line.minAlignmentPeriod == "86400s"]]))
    error_message = "bytes of buckets are measured once a day, and must be shown so"
  }
  assert {
    condition = alltrue([for part in ["resource.labels.job_id=\"muster-work-tick\"", "resource.labels.location=\"europe-west1\"", "severity>=ERROR"] :
    strcontains(google_logging_metric.tick_failures.filter, part)])
    error_message = "failed attempts at the tick, and no others, must be counted"
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

run "refuses_a_queue_by_its_full_name" {
  command = plan

  variables {
    queues = ["projects/some-project/locations/europe-west1/queues/muster"]
  }

  expect_failures = [var.queues]
}

run "refuses_a_health_url_with_a_path" {
  command = plan

  variables {
    health_url = "https://fl.example.org/health"
  }

  expect_failures = [var.health_url]
}

run "refuses_an_objective_without_an_alert" {
  command = plan

  variables {
    objectives = { check_in_availability = 0.9 }
  }

  expect_failures = [var.objectives]
}

run "refuses_a_tick_that_is_late_at_once" {
  command = plan

  variables {
    thresholds = { tick_silent_seconds = 90 }
  }

  expect_failures = [var.thresholds]
}
