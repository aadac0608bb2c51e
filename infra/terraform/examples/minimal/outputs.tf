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
