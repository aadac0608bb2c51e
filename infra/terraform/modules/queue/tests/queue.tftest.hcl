# What wakes the functions: with whose token, how fast, and for how long.

mock_provider "google" {}

variables {
  project_id     = "a-project"
  region         = "europe-west1"
  name           = "muster"
  aggregator_url = "https://aggregator.example"
  invoker        = "muster-invoker@a-project.iam.gserviceaccount.com"
}

run "by_default" {
  command = plan

  assert {
    condition     = google_cloud_scheduler_job.tick.http_target[0].uri == "https://aggregator.example/internal/tick" && google_cloud_scheduler_job.tick.http_target[0].http_method == "POST"
    error_message = "The tick must call the aggregator's route for it."
  }
  assert {
    condition     = google_cloud_scheduler_job.tick.http_target[0].oidc_token[0].service_account_email == var.invoker && google_cloud_scheduler_job.tick.http_target[0].oidc_token[0].audience == var.aggregator_url
    error_message = "The tick must carry the invoker's token, for the aggregator."
  }
  assert {
    condition     = google_cloud_scheduler_job.tick.schedule == "* * * * *"
    error_message = "The tick must come every minute."
  }
  assert {
    condition     = google_cloud_tasks_queue.work.retry_config[0].max_attempts == -1 && google_cloud_tasks_queue.work.retry_config[0].max_retry_duration == "0s"
    error_message = "Work must be delivered until it is done, without an end by count or time."
  }
  assert {
    condition     = google_cloud_tasks_queue.work.rate_limits[0].max_dispatches_per_second == 100
    error_message = "The queue must have a rate."
  }
  assert {
    condition     = output.name == "muster" && output.commits == "muster-commits"
    error_message = "The committer's work must have a queue of its own, and the first queue must keep its name."
  }
  assert {
    condition     = google_cloud_tasks_queue.commits.rate_limits[0].max_concurrent_dispatches == 10
    error_message = "The committer's queue must not deliver more than the committer can process."
  }
  assert {
    condition     = google_cloud_tasks_queue.commits.retry_config[0].max_attempts == -1 && google_cloud_tasks_queue.commits.retry_config[0].max_retry_duration == "0s" && google_cloud_tasks_queue.commits.retry_config[0].max_backoff == google_cloud_tasks_queue.work.retry_config[0].max_backoff
    error_message = "The committer's work must be delivered until it is done, as the aggregator's is."
  }
}

run "with_another_committer" {
  command = plan

  variables {
    commit_rates = { concurrent_dispatches = 5 }
  }

  assert {
    condition     = google_cloud_tasks_queue.commits.rate_limits[0].max_concurrent_dispatches == 5 && google_cloud_tasks_queue.work.rate_limits[0].max_concurrent_dispatches == 100
    error_message = "The committer's rates must be those of its own queue."
  }
}

run "refuses_what_can_not_be" {
  command = plan

  variables {
    name                  = "a_queue"
    aggregator_url        = "http://aggregator.example/"
    commit_rates          = { concurrent_dispatches = 0 }
    rates                 = { dispatches_per_second = 501 }
    retries               = { min_backoff_seconds = 61 }
    tick_deadline_seconds = 5
    log_sampling          = 2
  }

  expect_failures = [
    var.name,
    var.commit_rates,
    var.aggregator_url,
    var.rates,
    var.retries,
    var.tick_deadline_seconds,
    var.log_sampling,
  ]
}
