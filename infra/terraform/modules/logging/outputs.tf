output "requests" {
  description = "The id of the log bucket of requests; null if they are in the project's `_Default`."
  value       = one(google_logging_project_bucket_config.requests[*].bucket_id)
}

output "writer" {
  description = "The member that writes to `log_sink`: grant it the role to do so, such as `roles/storage.objectCreator` on the bucket; null without a sink."
  value       = one(google_logging_project_sink.copy[*].writer_identity)
}

output "audited" {
  description = "The services whose reads are logged."
  value       = keys(google_project_iam_audit_config.data_access)
}
