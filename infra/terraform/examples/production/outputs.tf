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

output "dns_records" {
  description = "The records that the domain needs, where `dns_zone` is null."
  value       = module.muster.dns_records
}

output "quota" {
  description = "The CPUs and GiB of memory that each function takes at most."
  value       = module.muster.quota
}

output "open_to_all" {
  description = "Whether any caller may join rounds as any number of clients."
  value       = module.muster.open_to_all
}

output "accepts_gcloud_tokens" {
  description = "Whether the operator API accepts tokens that are made for gcloud itself."
  value       = module.muster.accepts_gcloud_tokens
}
