output "workload_identity_provider" {
  description = "The repository variable WORKLOAD_IDENTITY_PROVIDER of the workflow."
  value       = google_iam_workload_identity_pool_provider.github.name
}

output "deployer" {
  description = "The repository variable DEPLOYER of the workflow: the account that applies. Name it in `operators` of the deployment, for the smoke test."
  value       = google_service_account.this["deployer"].email
}

output "planner" {
  description = "The repository variable PLANNER of the workflow: the account that plans on pull requests, and can change nothing."
  value       = google_service_account.this["planner"].email
}

output "state_bucket" {
  description = "The bucket of Terraform's state: `terraform init -backend-config=bucket=…`."
  value       = google_storage_bucket.state.name
}
