# What is logged of reads and of clients, and where it is stored.

mock_provider "google" {}

variables {
  project_id = "a-project"
  name       = "muster"
  location   = "europe-west1"
  services   = ["muster-client-api", "muster-aggregator"]
}

run "by_default" {
  command = plan

  assert {
    condition     = length(google_project_iam_audit_config.data_access) == 0 && length(google_logging_project_bucket_config.requests) == 0 && length(google_logging_project_sink.requests) == 0 && length(google_logging_project_exclusion.requests) == 0 && length(google_logging_project_sink.copy) == 0
    error_message = "By default no setting of the project's logs may change."
  }
  assert {
    condition     = output.requests == null && output.writer == null && length(output.audited) == 0
    error_message = "The outputs must say that there is neither a bucket nor a sink."
  }
}

run "with_all_of_it" {
  command = apply

  variables {
    forwarding_rule    = "muster-edge"
    data_access_logs   = true
    log_retention_days = 7
    log_sink           = { destination = "storage.googleapis.com/an-archive" }
  }

  assert {
    condition     = toset(output.audited) == toset(["datastore.googleapis.com", "secretmanager.googleapis.com", "storage.googleapis.com"])
    error_message = "Reads of documents, objects and secrets must be logged."
  }
  assert {
    condition     = alltrue([for config in google_project_iam_audit_config.data_access : [for log in config.audit_log_config : log.log_type] == ["DATA_READ"] && alltrue([for log in config.audit_log_config : length(coalesce(log.exempted_members, [])) == 0])])
    error_message = "Every member's reads must be logged, and no writes."
  }
  assert {
    condition     = google_logging_project_bucket_config.requests[0].retention_days == 7 && google_logging_project_bucket_config.requests[0].location == "europe-west1" && output.requests == "muster-requests"
    error_message = "Requests must be stored for as many days as are set, in the region that is set."
  }
  assert {
    condition     = google_logging_project_sink.requests[0].destination == "logging.googleapis.com/projects/a-project/locations/europe-west1/buckets/muster-requests"
    error_message = "Requests must go to the bucket with the retention that is set."
  }
  assert {
    condition     = google_logging_project_exclusion.requests[0].filter == google_logging_project_sink.requests[0].filter
    error_message = "Exactly the requests that are stored elsewhere must be left out of _Default."
  }
  assert {
    condition     = google_logging_project_sink.requests[0].filter == "(log_id(\"run.googleapis.com/requests\") AND resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(\"muster-aggregator\" OR \"muster-client-api\")) OR (resource.type=\"http_external_regional_lb_rule\" AND resource.labels.forwarding_rule_name=\"muster-edge\")"
    error_message = "The filter must match the requests to this deployment's functions and load balancer, and nothing else in the project."
  }
  assert {
    condition     = google_logging_project_sink.copy[0].destination == "storage.googleapis.com/an-archive" && google_logging_project_sink.copy[0].unique_writer_identity
    error_message = "The copy must go where it is set to, written by an identity of its own."
  }
  assert {
    condition     = strcontains(google_logging_project_sink.copy[0].filter, "NOT log_id(\"run.googleapis.com/requests\")") && !strcontains(google_logging_project_sink.copy[0].filter, "http_external_regional_lb_rule") && strcontains(google_logging_project_sink.copy[0].filter, "log_id(\"cloudaudit.googleapis.com/data_access\")")
    error_message = "The copy must hold the audit logs, and no addresses of clients unless they are asked for."
  }
}

run "without_a_load_balancer" {
  command = plan

  variables {
    log_retention_days   = 1
    data_access_logs     = true
    data_access_exempted = ["serviceAccount:muster-client-api@a-project.iam.gserviceaccount.com"]
    log_sink             = { destination = "logging.googleapis.com/projects/other/locations/eu/buckets/b", requests = true }
  }

  assert {
    condition     = google_logging_project_sink.requests[0].filter == "(log_id(\"run.googleapis.com/requests\") AND resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(\"muster-aggregator\" OR \"muster-client-api\"))"
    error_message = "Without a load balancer the filter must match the requests to functions alone."
  }
  assert {
    condition     = strcontains(google_logging_project_sink.copy[0].filter, google_logging_project_sink.requests[0].filter)
    error_message = "The copy must hold requests where they are asked for."
  }
  assert {
    condition     = alltrue(flatten([for config in google_project_iam_audit_config.data_access : [for log in config.audit_log_config : toset(log.exempted_members) == toset(["serviceAccount:muster-client-api@a-project.iam.gserviceaccount.com"])]]))
    error_message = "The members that are exempted must be."
  }
}

run "refuses_what_can_not_be" {
  command = plan

  variables {
    services           = []
    log_retention_days = 0
    log_sink           = { destination = "gs://an-archive" }
  }

  expect_failures = [
    var.services,
    var.log_retention_days,
    var.log_sink,
  ]
}
