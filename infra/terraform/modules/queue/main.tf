# The triggers of the internal functions: the queues of work, and the tick that repairs lost work.

resource "google_cloud_tasks_queue" "work" {
  project  = var.project_id
  location = var.region
  name     = var.name

  rate_limits {
    max_dispatches_per_second = var.rates.dispatches_per_second
    max_concurrent_dispatches = var.rates.concurrent_dispatches
  }

  # No limit by count or time: work is retried until it succeeds, and work that a round no longer needs succeeds at once.
  retry_config {
    max_attempts       = -1
    max_retry_duration = "0s"
    min_backoff        = "${var.retries.min_backoff_seconds}s"
    max_backoff        = "${var.retries.max_backoff_seconds}s"
    max_doublings      = var.retries.max_doublings
  }

  stackdriver_logging_config {
    sampling_ratio = var.log_sampling
  }
}

# The committer's work, in a queue of its own. Cloud Tasks slows a whole queue down when its worker answers 429 or 503, as a full
# committer does: in one queue, that would slow every round's folds.
resource "google_cloud_tasks_queue" "commits" {
  project  = var.project_id
  location = var.region
  name     = "${var.name}-commits"

  rate_limits {
    max_dispatches_per_second = var.commit_rates.dispatches_per_second
    max_concurrent_dispatches = var.commit_rates.concurrent_dispatches
  }

  # As for the other queue.
  retry_config {
    max_attempts       = -1
    max_retry_duration = "0s"
    min_backoff        = "${var.retries.min_backoff_seconds}s"
    max_backoff        = "${var.retries.max_backoff_seconds}s"
    max_doublings      = var.retries.max_doublings
  }

  stackdriver_logging_config {
    sampling_ratio = var.log_sampling
  }
}

resource "google_cloud_scheduler_job" "tick" {
  project          = var.project_id
  region           = var.region
  name             = "${var.name}-tick"
  description      = "Every minute: closes rounds that are due, and brings back work that got lost."
  schedule         = "* * * * *"
  time_zone        = "Etc/UTC"
  attempt_deadline = "${var.tick_deadline_seconds}s"

  # The next tick follows within a minute.
  retry_config {
    retry_count = 0
  }

  http_target {
    http_method = "POST"
    uri         = "${var.aggregator_url}/internal/tick"

    oidc_token {
      service_account_email = var.invoker
      audience              = var.aggregator_url
    }
  }
}
