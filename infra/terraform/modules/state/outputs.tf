output "database" {
  description = "The Firestore database."
  value       = google_firestore_database.documents.name
}

output "audit_database" {
  description = "The Firestore database of the audit log and revoked enrolments; null if they are in `database`."
  value       = var.audit_database == null ? null : google_firestore_database.audit[0].name
}

output "buckets" {
  description = "The buckets' names, by content: `updates`, `partials`, `blobs`, `sources`."
  value       = { for kind, bucket in google_storage_bucket.this : kind => bucket.name }
}

output "secret" {
  description = "The key ring in Secret Manager: the secret's id, and the version that the client API reads."
  value = {
    id      = var.signing_keys_secret == null ? google_secret_manager_secret.signing[0].secret_id : var.signing_keys_secret
    version = var.signing_keys_secret == null ? google_secret_manager_secret_version.signing[0].version : "latest"
  }
}

output "repository" {
  description = "The Artifact Registry repository of the functions' images."
  value       = google_artifact_registry_repository.images.repository_id
}

output "protected" {
  description = "Whether the deletion of data is refused."
  value       = alltrue([for database in concat([google_firestore_database.documents], google_firestore_database.audit) : database.delete_protection_state == "DELETE_PROTECTION_ENABLED"]) && alltrue([for bucket in google_storage_bucket.this : !bucket.force_destroy])
}

output "cors_origins" {
  description = "The origins whose pages may upload updates to the bucket."
  value       = toset(flatten([for rule in google_storage_bucket.this["updates"].cors : rule.origin]))
}
