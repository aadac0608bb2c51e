# Each policy carries its meaning and instructions, as in docs/how-to/watch-and-steer-tasks.md, for the person on call.
#
# All conditions are PromQL with disable_metric_validation. A threshold on a metric that Monitoring does not know yet is refused with
# `404 Cannot find metric(s)`, and Monitoring learns of a log-based metric up to ten minutes after it is created: a first apply would stop.

locals {
  # Selectors of PromQL: a metric's name in quotes, and its labels. Distributions have the suffixes _bucket and _count.
  in_function = "monitored_resource=\"cloud_run_revision\""
  requests    = "\"run.googleapis.com/request_count\", ${local.in_function}, service_name=~\"${join("|", sort(values(var.services)))}\""
  check_ins   = "\"run.googleapis.com/request_count\", ${local.in_function}, service_name=\"${var.services.client_api}\""
  queue_depth = "\"cloudtasks.googleapis.com/queue/depth\", monitored_resource=\"cloud_tasks_queue\", queue_id=~\"${join("|", var.queues)}\""
  attempts    = "\"cloudtasks.googleapis.com/queue/task_attempt_count\", monitored_resource=\"cloud_tasks_queue\", queue_id=~\"${join("|", var.queues)}\""

  error_share    = "sum by (service_name) (increase({${local.requests}, response_code_class=\"5xx\"}[5m])) / sum by (service_name) (increase({${local.requests}}[5m]))"
  function_calls = "sum by (service_name) (increase({${local.requests}}[5m]))"

  # The share of bad events at which an error budget is spent `burn` times as fast as the objective allows.
  # Formatted, since Terraform computes with 512 bits and prints all of them.
  check_in_burn = tonumber(format("%.6g", 14.4 * (1 - var.objectives.check_in_availability)))
  round_burn    = tonumber(format("%.6g", 6 * (1 - var.objectives.rounds_in_time)))

  # Commands of the instructions. gcloud has no default region here, and the caller's default project may be another one.
  logs = { for function, service in var.services : function =>
    "`gcloud logging read 'resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${service}\" AND severity>=WARNING' --freshness=1h --limit=50 --project=${var.project_id}`"
  }
  queue_states = join("\n", [for queue in var.queues : "   - `gcloud tasks queues describe ${queue} --location=${var.region} --project=${var.project_id}`"])
  tick_state   = "`gcloud scheduler jobs describe ${var.tick} --location=${var.region} --project=${var.project_id}`"
  tick_log     = "`gcloud logging read 'resource.type=\"cloud_scheduler_job\" AND resource.labels.job_id=\"${var.tick}\" AND severity>=ERROR' --freshness=1h --limit=10 --project=${var.project_id}`"

  alerts = {
    round_stuck = {
      title      = "a round is stuck"
      severity   = "CRITICAL"
      auto_close = "3600s"
      conditions = [{
        # Thresholds of distributions compare with a quantile; a bucket's edge is within half of the true value.
        name     = "seconds after a round was due"
        query    = "histogram_quantile(0.99, sum by (le) (increase({\"${local.metric.round_late_seconds}_bucket\", ${local.in_function}}[5m]))) > ${var.thresholds.round_stuck_seconds}"
        duration = "0s"
      }]
      text = <<-EOT
        A round should have advanced more than ${var.thresholds.round_stuck_seconds} seconds ago and is still open. Clients wait; nothing is lost.

        1. `muster task show NAME`: a task that is `paused` with a note has a plan that can't run. Read the note, then roll back and resume, or create a new task.
        2. `COLLECTING`: does Cloud Scheduler call the aggregator's `/internal/tick`? ${local.tick_state} shows its state and its last attempt. Is a queue paused?
        ${local.queue_states}
        3. `AGGREGATING`: read the logs of the committer and the aggregator; raise `memory` where a function ran out of it.
           - ${local.logs.committer}
           - ${local.logs.aggregator}

        Every step is safe to repeat: the next tick resumes the round.
      EOT
    }
    updates_old = {
      title      = "single updates are stored too long"
      severity   = "ERROR"
      auto_close = "3600s"
      conditions = [{
        name     = "age of the oldest update in seconds"
        query    = "histogram_quantile(0.99, sum by (le) (increase({\"${local.metric.oldest_update_seconds}_bucket\", ${local.in_function}}[5m]))) > ${var.thresholds.update_age_seconds}"
        duration = "300s"
      }]
      text = <<-EOT
        A single client's update has been in `gs://${lookup(var.buckets, "updates", "the bucket of updates")}` for more than ${var.thresholds.update_age_seconds} seconds. Updates normally exist for seconds, or
        for `max_update_age`.

        1. A round that lasts longer than that with few clients? Then lower the task's `chunk` or `round_seconds`, or raise `alert_thresholds.update_age_seconds`.
        2. Is the task paused with a note (`muster task show TASK`)? Its updates wait: fix the reason, then resume or cancel it.
        3. Otherwise folds fail: read the aggregator's log, ${local.logs.aggregator}.
        4. The bucket deletes updates after `longest_round_days` in any case.
      EOT
    }
    refused_updates = {
      title      = "updates are refused"
      severity   = "WARNING"
      auto_close = "3600s"
      conditions = [{
        name     = "refused updates by problem"
        query    = "sum by (problem) (increase({\"${local.metric.updates_refused}\", ${local.in_function}, problem!~\"${join("|", local.no_refusal)}\"}[10m])) > ${var.thresholds.refused_updates}"
        duration = "0s"
      }]
      text = <<-EOT
        More than ${var.thresholds.refused_updates} updates were refused within ten minutes for one reason, the incident's `problem`. None of them is in any aggregate.

        - `update_invalid`, `too_large`: clients with another plan or an old version, or probing.
        - `update_not_finite`: training diverges; see the metrics of the last rounds.
        - `assignment_invalid`, `unauthenticated`: a changed signing key (did a rotation keep the old one?), or forged tokens.
        - `update_truncated`: connections that break; a proxy that limits bodies?
        - `missing`: updates that vanished before they were folded. Only the aggregator may delete them: check the audit log.
      EOT
    }
    queue_depth = {
      title      = "the queue does not drain"
      severity   = "WARNING"
      auto_close = "3600s"
      conditions = [{
        name     = "pieces of work that wait, by queue"
        query    = "sum by (queue_id) (min_over_time({${local.queue_depth}}[10m])) > ${var.thresholds.queue_depth}"
        duration = "0s"
      }]
      text = <<-EOT
        More than ${var.thresholds.queue_depth} pieces of work have waited in one queue, the incident's `queue_id`, for ten minutes. Deadlines of rounds wait in a queue too, one for each open round.

        1. Is the queue paused? `state` must be `RUNNING`.
        ${local.queue_states}
        2. Are deliveries answered with errors? See the attempts by response on the dashboard: 401 or 403 is the invoker's account, 5xx the functions.
        3. Otherwise raise the queue's rates, or the `max_instances` of the function that it serves.

        Purging the queue loses nothing: the tick enqueues what is due.
      EOT
    }
    errors = {
      title      = "a function fails"
      severity   = "ERROR"
      auto_close = "3600s"
      conditions = [{
        name = "share of 5xx by function"
        # A floor of requests, since one error among ten requests is no sign. A function that fails every request is one at any rate
        # above a handful, at night and for the committer.
        query = join(" ", [
          "(${local.error_share} > ${var.thresholds.error_rate} and ${local.function_calls} > ${var.thresholds.error_requests})",
          "or (${local.error_share} > 0.99 and ${local.function_calls} > 5)",
        ])
        duration = "300s"
      }]
      text = <<-EOT
        More than ${format("%.6g", var.thresholds.error_rate * 100)} % of the requests to the function, the incident's `service_name`, were answered with 5xx: of more than ${var.thresholds.error_requests} requests within five minutes, or every one of a few.

        - 503 `unavailable`: Firestore or Cloud Storage did not answer, or a quota is exhausted. Clients and queue retry.
        - 500 `internal`: a fault of Muster's; its log has the traceback. After an upgrade, roll back.
        - 500 or 503 without a line of Muster's: the instance ran out of memory or time. Raise `memory` or `timeout_seconds` of the function.

        Logs:

        - client_api: ${local.logs.client_api}
        - operator_api: ${local.logs.operator_api}
        - aggregator: ${local.logs.aggregator}
        - committer: ${local.logs.committer}
      EOT
    }
    rounds_abandoned = {
      title      = "rounds are abandoned"
      severity   = "WARNING"
      auto_close = "7200s"
      conditions = [{
        name = "share of rounds below their minimum"
        # A ratio of two metrics, either of which may have no points yet: a missing one counts as zero.
        query = join(" ", [
          "(sum(increase({\"${local.metric.rounds_abandoned}\", ${local.in_function}, below_minimum=\"true\"}[1h])) or vector(0))",
          "/ clamp_min((sum(increase({\"${local.metric.rounds_abandoned}\", ${local.in_function}, below_minimum=\"true\"}[1h])) or vector(0))",
          "+ (sum(increase({\"${local.metric.rounds_committed}\", ${local.in_function}}[1h])) or vector(0)), 1)",
          "> ${var.thresholds.abandon_rate}",
        ])
        duration = "0s"
      }]
      text = <<-EOT
        More than ${format("%.6g", var.thresholds.abandon_rate * 100)} % of the rounds that ended within the hour had fewer updates at their deadline than their minimum. Nothing of them was computed; each is retried from the same checkpoint.

        - Few were assigned: too few clients check in. Lower `goal` and `minimum`, or raise `round_seconds`.
        - Many were assigned: clients do not finish in time. Raise `assignment_seconds` and `round_seconds`, or `over_selection`.
        - Many `failed` or `dropped`: see the reasons in `muster task show NAME`.
      EOT
    }
    tick_silent = {
      title      = "the tick does not run"
      severity   = "CRITICAL"
      auto_close = "3600s"
      conditions = [
        {
          # Every tick logs updates_stored. The window and the duration together are the threshold, so that the first minutes of a
          # deployment raise no alert.
          name     = "no tick"
          query    = "absent_over_time({\"${local.metric.oldest_update_seconds}_count\", ${local.in_function}}[5m])"
          duration = "${var.thresholds.tick_silent_seconds - 300}s"
        },
        {
          name     = "failed attempts of Cloud Scheduler"
          query    = "sum(increase({\"${local.metric.tick_failures}\", monitored_resource=\"cloud_scheduler_job\"}[10m])) > 3"
          duration = "0s"
        },
      ]
      text = <<-EOT
        No tick has finished for ${var.thresholds.tick_silent_seconds} seconds, or more than three of its attempts failed within ten minutes. Check-ins and uploads continue, and clients' requests start what is due.
        But lost work is not repaired, and the alerts on stuck rounds and old updates are silent, since the tick logs what they count.

        1. Is the job paused, as during a restore? ${local.tick_state}: `state` must be `ENABLED`. Resume it with `gcloud scheduler jobs resume ${var.tick} --location=${var.region} --project=${var.project_id}`.
        2. Which answers do its attempts get? ${local.tick_log}. 401 or 403: the invoker's account must have the right to invoke the aggregator; in the first ten minutes of a deployment, wait. 404: the aggregator's address has changed; apply again.
        3. 5xx or a deadline: read the aggregator's log, ${local.logs.aggregator}.
      EOT
    }
    check_in_burn = {
      title      = "check-ins use up their error budget"
      severity   = "CRITICAL"
      auto_close = "3600s"
      conditions = [{
        name = "burn rate above 14.4 over one hour and over five minutes"
        query = join(" and ", [
          "sum(increase({${local.check_ins}, response_code_class=\"5xx\"}[1h])) / sum(increase({${local.check_ins}}[1h])) > ${local.check_in_burn}",
          "sum(increase({${local.check_ins}, response_code_class=\"5xx\"}[5m])) / sum(increase({${local.check_ins}}[5m])) > ${local.check_in_burn}",
          "sum(increase({${local.check_ins}}[1h])) > ${var.thresholds.error_requests}",
        ])
        duration = "0s"
      }]
      text = <<-EOT
        Within an hour, more than ${format("%.3g", local.check_in_burn * 100)} % of the requests of clients were answered with 5xx. At this rate, the objective of ${format("%.6g", var.objectives.check_in_availability * 100)} % is missed: two percent of a month's error budget are gone within the hour.

        1. Which answers? Read the client API's log, ${local.logs.client_api}.
        2. 503 `unavailable`: Firestore or Cloud Storage does not answer, or a quota is exhausted. 500 after an upgrade: roll back.
        3. No line of Muster's: the instances are at their limit. Raise `max_instances` or `memory` of `client_api`.
      EOT
    }
    round_burn = {
      title      = "rounds take too long"
      severity   = "ERROR"
      auto_close = "7200s"
      conditions = [{
        name = "burn rate above 6 over six hours and over one hour"
        # More than a share s of the rounds is slower than the limit exactly if the quantile 1 - s is above it.
        # One or two slow rounds are no sign.
        query = join(" and ", concat(
          [for window in ["6h", "1h"] :
            "histogram_quantile(${format("%.6g", 1 - local.round_burn)}, sum by (le) (increase({\"${local.metric.round_seconds}_bucket\", ${local.in_function}}[${window}]))) > ${var.objectives.round_seconds}"
          ],
          ["sum(increase({\"${local.metric.round_seconds}_count\", ${local.in_function}}[6h])) > 2"],
        ))
        duration = "0s"
      }]
      text = <<-EOT
        Over six hours, more than ${format("%.3g", local.round_burn * 100)} % of the committed rounds took longer than ${var.objectives.round_seconds} seconds from opening to commit. At this rate, the objective of ${format("%.6g", var.objectives.rounds_in_time * 100)} % in time is missed.

        1. The dashboard's chart of rounds: from opening to close, clients are slow or few; see `muster task show NAME`. Raise `over_selection`, or lower `goal`.
        2. From close to commit, the functions are slow: compare their latency and instances on the dashboard, and raise `max_instances` or `cpu` of `aggregator` or `committer`.
        3. Rounds are meant to last that long? Raise `objectives.round_seconds`.
      EOT
    }
  }

  # The host of client_api, or none.
  health_hosts = var.health_url == null ? [] : [trimprefix(var.health_url, "https://")]
}

resource "google_monitoring_alert_policy" "promql" {
  for_each = local.alerts

  project               = var.project_id
  display_name          = "${var.name}: ${each.value.title}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = var.notification_channels
  user_labels           = local.labels

  dynamic "conditions" {
    for_each = each.value.conditions

    content {
      display_name = conditions.value.name

      condition_prometheus_query_language {
        query                     = conditions.value.query
        duration                  = conditions.value.duration
        evaluation_interval       = "60s"
        disable_metric_validation = true
      }
    }
  }

  alert_strategy {
    auto_close = each.value.auto_close
  }

  documentation {
    mime_type = "text/markdown"
    content   = each.value.text
  }

  depends_on = [google_logging_metric.counter, google_logging_metric.distribution, google_logging_metric.tick_failures]
}

# The policies of earlier versions of this module, changed in place. Of the four on errors, one stays, for all functions.
moved {
  from = google_monitoring_alert_policy.threshold
  to   = google_monitoring_alert_policy.promql
}

moved {
  from = google_monitoring_alert_policy.abandoned
  to   = google_monitoring_alert_policy.promql["rounds_abandoned"]
}

moved {
  from = google_monitoring_alert_policy.errors["client_api"]
  to   = google_monitoring_alert_policy.promql["errors"]
}

resource "google_monitoring_uptime_check_config" "health" {
  count = length(local.health_hosts)

  project          = var.project_id
  display_name     = "${var.name}: client_api answers"
  timeout          = "10s"
  period           = "300s"
  checker_type     = "STATIC_IP_CHECKERS"
  selected_regions = []
  user_labels      = local.labels

  http_check {
    path           = "/health"
    port           = 443
    request_method = "GET"
    use_ssl        = true
    validate_ssl   = true
  }

  monitored_resource {
    type   = "uptime_url"
    labels = { project_id = var.project_id, host = local.health_hosts[count.index] }
  }
}

resource "google_monitoring_alert_policy" "unreachable" {
  count = length(local.health_hosts)

  project               = var.project_id
  display_name          = "${var.name}: clients cannot reach client_api"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = "most uptime checks fail"

    condition_prometheus_query_language {
      query                     = "avg(avg_over_time({\"monitoring.googleapis.com/uptime_check/check_passed\", monitored_resource=\"uptime_url\", host=\"${local.health_hosts[count.index]}\"}[10m])) < 0.5"
      duration                  = "0s"
      evaluation_interval       = "60s"
      disable_metric_validation = true
    }
  }

  alert_strategy {
    auto_close = "3600s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      For ten minutes, `${var.health_url}/health` has answered less than half of the checks from outside Google Cloud.

      1. `curl -i ${var.health_url}/health`. 403: the right of `allUsers` to invoke the service is gone; apply again. 404 with a domain: its DNS record or certificate; without one: the service's ingress.
      2. 429 or 5xx: all instances are busy, or do not start. Read the client API's log, ${local.logs.client_api}.
      3. Is the service there? `gcloud run services describe ${var.services.client_api} --region=${var.region} --project=${var.project_id}`.
    EOT
  }

  depends_on = [google_monitoring_uptime_check_config.health]
}

# Matches entries of the Data Access log as they arrive, and so needs no metric. Attempts that were denied count too.
resource "google_monitoring_alert_policy" "update_read" {
  count = var.data_access_logs ? 1 : 0

  project               = var.project_id
  display_name          = "${var.name}: an update is read by another account"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = "an object of the updates bucket is read"

    condition_matched_log {
      filter = join(" AND ", [
        "log_id(\"cloudaudit.googleapis.com/data_access\")",
        "resource.type=\"gcs_bucket\"",
        "resource.labels.bucket_name=\"${lookup(var.buckets, "updates", "")}\"",
        "protoPayload.authorizationInfo.permission=\"storage.objects.get\"",
        "NOT protoPayload.authenticationInfo.principalEmail=\"${coalesce(var.aggregator_account, "unset")}\"",
      ])
      label_extractors = { account = "EXTRACT(protoPayload.authenticationInfo.principalEmail)" }
    }
  }

  alert_strategy {
    auto_close = "86400s"

    # A condition on logs needs a limit.
    notification_rate_limit {
      period = "300s"
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      An account other than the aggregator's has read, or tried to read, a single client's update in `gs://${lookup(var.buckets, "updates", "")}`. The incident's `account` names it. Nothing of Muster's but the aggregator reads updates.

      1. Who, what and from where? `gcloud logging read 'log_id("cloudaudit.googleapis.com/data_access") AND resource.labels.bucket_name="${lookup(var.buckets, "updates", "")}" AND protoPayload.authorizationInfo.permission="storage.objects.get" AND NOT protoPayload.authenticationInfo.principalEmail="${coalesce(var.aggregator_account, "unset")}"' --freshness=1d --project=${var.project_id}`.
      2. A person: ask, then take the right away. `gcloud storage buckets get-iam-policy gs://${lookup(var.buckets, "updates", "")} --project=${var.project_id}` lists the bucket's own rights; the others come from the project, folder or organization.
      3. A service account: disable it, and rotate what it could read.
    EOT
  }

  lifecycle {
    precondition {
      condition     = var.aggregator_account != null && contains(keys(var.buckets), "updates")
      error_message = "data_access_logs needs to know who may read updates: set aggregator_account to the e-mail address of the aggregator's service account, and buckets.updates to the bucket."
    }
  }
}

resource "google_billing_budget" "monthly" {
  count = var.budget == null ? 0 : 1

  billing_account = var.budget.billing_account
  display_name    = "${var.name} in ${var.project_id}"

  budget_filter {
    projects        = ["projects/${var.project_number}"]
    calendar_period = "MONTH"
  }

  amount {
    specified_amount {
      currency_code = var.budget.currency
      units         = tostring(var.budget.amount)
    }
  }

  dynamic "threshold_rules" {
    for_each = var.budget.at

    content {
      threshold_percent = threshold_rules.value
    }
  }

  dynamic "all_updates_rule" {
    for_each = length(var.notification_channels) == 0 ? [] : [1]

    content {
      # A budget takes five channels; its recipients by role get it too.
      monitoring_notification_channels = slice(var.notification_channels, 0, min(5, length(var.notification_channels)))
    }
  }
}
