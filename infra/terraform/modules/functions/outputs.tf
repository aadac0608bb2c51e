output "services" {
  description = "The names of the functions, which are those of their Cloud Run services, by function."
  value       = local.names
}

output "bundles" {
  description = "The names of the deployed bundles' objects, by function."
  value       = { for function, object in google_storage_bucket_object.bundle : function => object.name }
}

output "bundle_digests" {
  description = "The SHA-256 of each function's deployed bundle; empty with `images`."
  value       = { for function, bundle in var.bundles : function => filesha256(bundle) if var.images == null }
}

output "environment" {
  description = "The environment variables of all functions, which those of each function override."
  value       = local.environment
}

output "client_ingress" {
  description = "The permitted sources of requests to the client API."
  value       = var.images == null ? google_cloudfunctions2_function.this["client_api"].service_config[0].ingress_settings : local.ingress["client_api"]
}

output "operators" {
  description = "The IAM members that Cloud Run admits to the operator API."
  value       = toset([for grant in google_cloud_run_v2_service_iam_member.invoker : grant.member if grant.name == local.names["operator_api"]])
}
