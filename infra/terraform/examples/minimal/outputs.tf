output "client_url" {
  description = "What clients are given as `--url`."
  value       = module.muster.client_url
}

output "operator_url" {
  description = "What operators are given as `--url`."
  value       = module.muster.operator_url
}

output "smoke" {
  description = "A command that runs one real round with two clients."
  value       = module.muster.smoke
}
