# Objectives, with their error budgets in the console. The alerts on them are check_in_burn and round_burn.

resource "google_monitoring_custom_service" "muster" {
  project      = var.project_id
  service_id   = var.name
  display_name = "${var.name}: federated learning"
  user_labels  = local.labels
}

# Of all requests of clients, since Cloud Run's metric does not tell check-ins from downloads and uploads.
resource "google_monitoring_slo" "check_ins" {
  project             = var.project_id
  service             = google_monitoring_custom_service.muster.service_id
  slo_id              = "check-in-availability"
  display_name        = "Requests of clients that are not answered with 5xx"
  goal                = var.objectives.check_in_availability
  rolling_period_days = var.objectives.rolling_days
  user_labels         = local.labels

  request_based_sli {
    good_total_ratio {
      bad_service_filter   = "${local.in_run} AND resource.labels.service_name=\"${var.services.client_api}\" AND metric.type=\"run.googleapis.com/request_count\" AND metric.labels.response_code_class=\"5xx\""
      total_service_filter = "${local.in_run} AND resource.labels.service_name=\"${var.services.client_api}\" AND metric.type=\"run.googleapis.com/request_count\""
    }
  }
}

# The API refuses an objective on a metric that it does not know yet (`400 The metric referenced by the provided filter is unknown`).
resource "google_monitoring_slo" "rounds" {
  count = var.objectives.rounds_in_console ? 1 : 0

  project             = var.project_id
  service             = google_monitoring_custom_service.muster.service_id
  slo_id              = "round-latency"
  display_name        = "Rounds committed within ${var.objectives.round_seconds} seconds"
  goal                = var.objectives.rounds_in_time
  rolling_period_days = var.objectives.rolling_days
  user_labels         = local.labels

  request_based_sli {
    distribution_cut {
      distribution_filter = "${local.in_run} AND metric.type=\"${local.metric.round_seconds}\""

      range {
        max = var.objectives.round_seconds
      }
    }
  }

  depends_on = [google_logging_metric.distribution]
}
