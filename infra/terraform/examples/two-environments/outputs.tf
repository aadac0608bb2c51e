output "client_url" {
  description = "The `--url` of clients."
  value       = module.muster.client_url
}

output "operator_url" {
  description = "The `--url` of operators."
  value       = module.muster.operator_url
}

output "smoke" {
  description = "A command that runs one real round with two clients."
  value       = module.muster.smoke
}

output "sources" {
  description = "The bucket of the deployed bundles, which production's are copied from."
  value       = module.muster.buckets["sources"]
}

output "bundles" {
  description = "The names of the deployed bundles' objects, by function."
  value       = module.muster.bundles
}

output "bundle_digests" {
  description = "The SHA-256 of the deployed bundles, by function."
  value       = module.muster.bundle_digests
}

output "images" {
  description = "The deployed images, by function; empty if they are built from bundles."
  value       = module.muster.images
}

output "quota" {
  description = "The CPUs and GiB of memory that each function takes at most."
  value       = module.muster.quota
}

output "open_to_all" {
  description = "Whether any caller may join rounds as any number of clients."
  value       = module.muster.open_to_all
}
