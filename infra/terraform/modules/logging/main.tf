# What is logged about data and clients: who read data, how long addresses of clients are stored, and a copy of the logs elsewhere.
# Nothing here is on by default: each of these changes a setting of the project, or costs by the volume.

locals {
  # The service's name in the configuration, not in the entries: Firestore is configured as datastore.
  audited = var.data_access_logs ? ["datastore.googleapis.com", "secretmanager.googleapis.com", "storage.googleapis.com"] : []

  names     = join(" OR ", [for service in sort(var.services) : "\"${service}\""])
  functions = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(${local.names})"

  # The entries that hold the addresses of clients: of Cloud Run, and of the load balancer if there is one.
  run_requests  = "(log_id(\"run.googleapis.com/requests\") AND ${local.functions})"
  edge_requests = "(resource.type=\"http_external_regional_lb_rule\" AND resource.labels.forwarding_rule_name=\"${coalesce(var.forwarding_rule, "-")}\")"
  requests      = var.forwarding_rule == null ? local.run_requests : "${local.run_requests} OR ${local.edge_requests}"

  # A copy holds the functions' own entries and the audit logs.
  events = "(${local.functions} AND NOT log_id(\"run.googleapis.com/requests\"))"
  audits = "((log_id(\"cloudaudit.googleapis.com/activity\") OR log_id(\"cloudaudit.googleapis.com/data_access\")) AND protoPayload.serviceName=(\"firestore.googleapis.com\" OR \"iam.googleapis.com\" OR \"run.googleapis.com\" OR \"secretmanager.googleapis.com\" OR \"storage.googleapis.com\"))"
  copied = join(" OR ", concat([local.events, local.audits], try(var.log_sink.requests, false) ? [local.requests] : []))
}

resource "google_project_iam_audit_config" "data_access" {
  for_each = toset(local.audited)

  project = var.project_id
  service = each.key

  audit_log_config {
    log_type         = "DATA_READ"
    exempted_members = var.data_access_exempted
  }
}

# --- Requests, which hold the addresses of clients -----------------------------------------------------------------------

resource "google_logging_project_bucket_config" "requests" {
  count = var.log_retention_days == null ? 0 : 1

  project        = var.project_id
  location       = var.location
  bucket_id      = "${var.name}-requests"
  description    = "Requests to Muster's functions, with the addresses of clients."
  retention_days = var.log_retention_days
}

resource "google_logging_project_sink" "requests" {
  count = var.log_retention_days == null ? 0 : 1

  project                = var.project_id
  name                   = "${var.name}-requests"
  description            = "Requests to Muster's functions, to a bucket with a retention of its own."
  destination            = "logging.googleapis.com/projects/${var.project_id}/locations/${var.location}/buckets/${google_logging_project_bucket_config.requests[0].bucket_id}"
  filter                 = local.requests
  unique_writer_identity = true
}

# Only when they are stored there: otherwise the bucket _Default, whose retention is the project's, has them too.
resource "google_logging_project_exclusion" "requests" {
  count = var.log_retention_days == null ? 0 : 1

  project     = var.project_id
  name        = "${var.name}-requests"
  description = "Requests to Muster's functions are stored in the bucket ${var.name}-requests."
  filter      = local.requests

  depends_on = [google_logging_project_sink.requests]
}

# --- A copy elsewhere ----------------------------------------------------------------------------------------------------

resource "google_logging_project_sink" "copy" {
  count = var.log_sink == null ? 0 : 1

  project                = var.project_id
  name                   = "${var.name}-copy"
  description            = "Muster's log and the audit logs of its stores, for retention outside the project's log buckets."
  destination            = var.log_sink.destination
  filter                 = local.copied
  unique_writer_identity = true
}
