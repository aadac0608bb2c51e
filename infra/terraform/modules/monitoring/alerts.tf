# Each policy carries its meaning and instructions, as in docs/how-to/watch-and-steer-tasks.md, for the person on call.

locals {
  run_5xx = { for function, service in var.services : function =>
    "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${service}\" AND metric.type=\"run.googleapis.com/request_count\""
  }

  # Thresholds of distributions compare with the highest value; a bucket's edge is within half of it.
  alerts = {
    round_stuck = {
      title     = "a round is stuck"
      severity  = "CRITICAL"
      filter    = "resource.type=\"cloud_run_revision\" AND metric.type=\"${local.metric.round_late_seconds}\""
      aligner   = "ALIGN_PERCENTILE_99"
      reducer   = "REDUCE_MAX"
      group_by  = []
      period    = "300s"
      duration  = "0s"
      threshold = var.thresholds.round_stuck_seconds
      text      = <<-EOT
        A round should have advanced more than ${var.thresholds.round_stuck_seconds} seconds ago and is still open. Clients wait; nothing is lost.

        1. `muster task show NAME`: a task that is `paused` with a note has a plan that can't run. Read the note, then roll back and resume, or create a new task.
        2. `COLLECTING`: does Cloud Scheduler call the aggregator's `/internal/tick`? Is the queue paused?
        3. `AGGREGATING`: read the logs of `${var.services.committer}` and `${var.services.aggregator}`; raise `memory` where a function ran out of it.

        Every step is safe to repeat: the next tick resumes the round.
      EOT
    }
    updates_old = {
      title     = "single updates are stored too long"
      severity  = "ERROR"
      filter    = "resource.type=\"cloud_run_revision\" AND metric.type=\"${local.metric.oldest_update_seconds}\""
      aligner   = "ALIGN_PERCENTILE_99"
      reducer   = "REDUCE_MAX"
      group_by  = []
      period    = "300s"
      duration  = "300s"
      threshold = var.thresholds.update_age_seconds
      text      = <<-EOT
        A single client's update has been in `gs://${lookup(var.buckets, "updates", "the bucket of updates")}` for more than ${var.thresholds.update_age_seconds} seconds. Updates normally exist for seconds, or
        for `max_update_age`.

        1. A round that lasts longer than that with few clients? Then lower the task's `chunk` or `round_seconds`, or raise `alert_thresholds.update_age_seconds`.
        2. Otherwise folds fail: read the logs of `${var.services.aggregator}`.
        3. The bucket deletes updates after `longest_round_days` in any case.
      EOT
    }
    refused_updates = {
      title     = "updates are refused"
      severity  = "WARNING"
      filter    = "resource.type=\"cloud_run_revision\" AND metric.type=\"${local.metric.updates_refused}\" AND NOT metric.labels.problem=one_of(${join(", ", [for problem in local.no_refusal : "\"${problem}\""])})"
      aligner   = "ALIGN_DELTA"
      reducer   = "REDUCE_SUM"
      group_by  = ["metric.label.problem"]
      period    = "600s"
      duration  = "0s"
      threshold = var.thresholds.refused_updates
      text      = <<-EOT
        More than ${var.thresholds.refused_updates} updates were refused within ten minutes for one reason, the incident's `problem`. None of them is in any aggregate.

        - `update_invalid`, `too_large`: clients with another plan or an old version, or probing.
        - `update_not_finite`: training diverges; see the metrics of the last rounds.
        - `assignment_invalid`, `unauthenticated`: a changed signing key (did a rotation keep the old one?), or forged tokens.
        - `update_truncated`: connections that break; a proxy that limits bodies?
        - `missing`: updates that vanished before they were folded. Only the aggregator may delete them: check the audit log.
      EOT
    }
    queue_depth = {
      title     = "the queue does not drain"
      severity  = "WARNING"
      filter    = "resource.type=\"cloud_tasks_queue\" AND resource.labels.queue_id=\"${var.queue}\" AND metric.type=\"cloudtasks.googleapis.com/queue/depth\""
      aligner   = "ALIGN_MIN"
      reducer   = "REDUCE_SUM"
      group_by  = []
      period    = "600s"
      duration  = "0s"
      threshold = var.thresholds.queue_depth
      text      = <<-EOT
        More than ${var.thresholds.queue_depth} pieces of work have waited in `${var.queue}` for ten minutes. Deadlines of rounds wait in the queue too, one for each open round.

        1. Is the queue paused? `gcloud tasks queues describe ${var.queue}`.
        2. Are deliveries answered with errors? See the attempts by response on the dashboard: 401 or 403 is the invoker's account, 5xx the functions.
        3. Otherwise raise the queue's rates, or the aggregator's `max_instances`.

        Purging the queue loses nothing: the tick enqueues what is due.
      EOT
    }
  }
}

resource "google_monitoring_alert_policy" "threshold" {
  for_each = local.alerts

  project               = var.project_id
  display_name          = "${var.name}: ${each.value.title}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = each.value.title

    condition_threshold {
      filter          = each.value.filter
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.threshold
      duration        = each.value.duration

      aggregations {
        alignment_period     = each.value.period
        per_series_aligner   = each.value.aligner
        cross_series_reducer = each.value.reducer
        group_by_fields      = each.value.group_by
      }
    }
  }

  alert_strategy {
    auto_close = "3600s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = each.value.text
  }

  depends_on = [google_logging_metric.counter, google_logging_metric.distribution]
}

resource "google_monitoring_alert_policy" "errors" {
  for_each = var.services

  project               = var.project_id
  display_name          = "${var.name}: ${each.key} fails"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = "share of 5xx"

    condition_threshold {
      filter             = "${local.run_5xx[each.key]} AND metric.labels.response_code_class=\"5xx\""
      denominator_filter = local.run_5xx[each.key]
      comparison         = "COMPARISON_GT"
      threshold_value    = var.thresholds.error_rate
      duration           = "300s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }

      denominator_aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  alert_strategy {
    auto_close = "3600s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      More than ${var.thresholds.error_rate * 100} % of the requests to `${each.value}` were answered with 5xx.

      - 503 `unavailable`: Firestore or Cloud Storage did not answer, or a quota is exhausted. Clients and queue retry.
      - 500 `internal`: a fault of Muster's; its log has the traceback. After an upgrade, roll back.
      - 500 or 503 without a line of Muster's: the instance ran out of memory or time. Raise `memory` or `timeout_seconds` of the function.
    EOT
  }
}

resource "google_monitoring_alert_policy" "abandoned" {
  project               = var.project_id
  display_name          = "${var.name}: rounds are abandoned"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = "share of rounds below their minimum"

    # A ratio of two metrics, either of which may have no points yet: a missing one counts as zero.
    condition_prometheus_query_language {
      query = join(" ", [
        "(sum(increase({\"${local.metric.rounds_abandoned}\", monitored_resource=\"cloud_run_revision\", below_minimum=\"true\"}[1h])) or vector(0))",
        "/ clamp_min((sum(increase({\"${local.metric.rounds_abandoned}\", monitored_resource=\"cloud_run_revision\", below_minimum=\"true\"}[1h])) or vector(0))",
        "+ (sum(increase({\"${local.metric.rounds_committed}\", monitored_resource=\"cloud_run_revision\"}[1h])) or vector(0)), 1)",
        "> ${var.thresholds.abandon_rate}",
      ])
      duration            = "0s"
      evaluation_interval = "300s"
      # The metrics appear with their first point.
      disable_metric_validation = true
    }
  }

  alert_strategy {
    auto_close = "7200s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      More than ${var.thresholds.abandon_rate * 100} % of the rounds that ended within the hour had fewer updates at their deadline than their minimum. Nothing of them was computed; each is retried from the same checkpoint.

      - Few were assigned: too few clients check in. Lower `goal` and `minimum`, or raise `round_seconds`.
      - Many were assigned: clients do not finish in time. Raise `assignment_seconds` and `round_seconds`, or `over_selection`.
      - Many `failed` or `dropped`: see the reasons in `muster task show NAME`.
    EOT
  }

  depends_on = [google_logging_metric.counter]
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
