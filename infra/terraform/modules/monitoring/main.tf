# Cloud Run, Cloud Tasks and Cloud Storage measure requests, instances, queue and bytes. The coordinator logs one line of JSON for
# each event of rounds and updates (functions/muster_coordinator/events.py), and these metrics count them.

locals {
  labels = merge(var.labels, { component = "monitoring" })

  # Only lines of the functions themselves: a similar line of another service does not count.
  from_functions = join(" AND ", [
    "resource.type=\"cloud_run_revision\"",
    "resource.labels.service_name=(${join(" OR ", [for service in sort(values(var.services)) : "\"${service}\""])})",
  ])

  # Late clients are no fault: rounds close, and assignments expire.
  no_refusal = ["round_closed", "assignment_expired", "unavailable"]

  counters = {
    rounds_committed = {
      event       = "round_committed"
      description = "Rounds that ended with a new checkpoint"
      labels      = {}
    }
    rounds_abandoned = {
      event       = "round_abandoned"
      description = "Attempts at a round that were given up; below_minimum tells those that lacked updates"
      labels      = { below_minimum = "BOOL" }
    }
    updates_refused = {
      event       = "update_refused"
      description = "Updates that were refused when they came, or left out when they were folded, by problem"
      labels      = { problem = "STRING", at = "STRING" }
    }
  }

  distributions = {
    round_late_seconds = {
      event       = "round_stuck"
      field       = "seconds_late"
      unit        = "s"
      description = "For how long a round is open after it should have gone on"
    }
    oldest_update_seconds = {
      event       = "updates_stored"
      field       = "oldest_seconds"
      unit        = "s"
      description = "The age of the oldest single update, once a minute"
    }
    round_seconds = {
      event       = "round_committed"
      field       = "seconds"
      unit        = "s"
      description = "From a round's opening to its commit"
    }
    commit_seconds = {
      event       = "round_committed"
      field       = "commit_seconds"
      unit        = "s"
      description = "From a round's close to its commit: the last folds and the commit"
    }
    updates_folded = {
      event       = "round_committed"
      field       = "folded"
      unit        = "1"
      description = "Updates in a committed round"
    }
    update_bytes = {
      event       = "round_committed"
      field       = "update_bytes"
      unit        = "By"
      description = "Bytes of the updates in a committed round"
    }
  }

  metric = { for key in concat(keys(local.counters), keys(local.distributions), ["tick_failures"]) : key => "logging.googleapis.com/user/${var.name}/${key}" }
}

resource "google_logging_metric" "counter" {
  for_each = local.counters

  project     = var.project_id
  name        = "${var.name}/${each.key}"
  description = each.value.description
  filter      = "${local.from_functions} AND jsonPayload.event=\"${each.value.event}\""

  metric_descriptor {
    metric_kind  = "DELTA"
    value_type   = "INT64"
    unit         = "1"
    display_name = each.value.description

    dynamic "labels" {
      for_each = each.value.labels

      content {
        key        = labels.key
        value_type = labels.value
      }
    }
  }

  label_extractors = { for label in keys(each.value.labels) : label => "EXTRACT(jsonPayload.${label})" }
}

resource "google_logging_metric" "distribution" {
  for_each = local.distributions

  project         = var.project_id
  name            = "${var.name}/${each.key}"
  description     = each.value.description
  filter          = "${local.from_functions} AND jsonPayload.event=\"${each.value.event}\""
  value_extractor = "EXTRACT(jsonPayload.${each.value.field})"

  metric_descriptor {
    metric_kind  = "DELTA"
    value_type   = "DISTRIBUTION"
    unit         = each.value.unit
    display_name = each.value.description
  }

  # Steps of a half from 1 to 10^11, for seconds of a fold and bytes of a large round alike.
  bucket_options {
    exponential_buckets {
      num_finite_buckets = 64
      growth_factor      = 1.5
      scale              = 1
    }
  }
}

# Cloud Scheduler logs an entry of severity ERROR for each attempt that was not answered with 2xx in time.
resource "google_logging_metric" "tick_failures" {
  project     = var.project_id
  name        = "${var.name}/tick_failures"
  description = "Attempts of Cloud Scheduler at the tick that failed"
  filter = join(" AND ", [
    "log_id(\"cloudscheduler.googleapis.com/executions\")",
    "resource.type=\"cloud_scheduler_job\"",
    "resource.labels.job_id=\"${var.tick}\"",
    "resource.labels.location=\"${var.region}\"",
    "severity>=ERROR",
  ])

  metric_descriptor {
    metric_kind  = "DELTA"
    value_type   = "INT64"
    unit         = "1"
    display_name = "Attempts of Cloud Scheduler at the tick that failed"
  }
}
