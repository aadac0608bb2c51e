# The example fits a new project, and is never open to all.

mock_provider "google" {
  override_data {
    target = module.muster.data.google_project.this
    values = { number = "123456789012" }
  }
}
mock_provider "random" {}
mock_provider "time" {}

variables {
  project_id      = "a-project"
  operators       = { "ci@a-project.iam.gserviceaccount.com" = "operator" }
  clients         = "enrolment:KEY"
  trusted_signers = ["ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
  on_call         = "on-call@example.org"
  domain          = "fl.example.org"
  kms_key         = "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
  budget          = { billing_account = "012345-6789AB-CDEF01", amount = 100 }
  bundles         = "../../tests/bundles"
}

run "fits_a_new_project" {
  command = plan

  assert {
    condition     = alltrue([for takes in values(output.quota) : takes.cpu <= 20 && takes.memory_gib <= 40])
    error_message = "The production example must stay within a new project's quota of 20 CPUs and 40 GiB for each function in a region."
  }
  assert {
    condition     = !output.open_to_all
    error_message = "The production example must never be open to all."
  }
  assert {
    condition     = !output.accepts_gcloud_tokens
    error_message = "The production example must accept operators' tokens for its own operator API alone."
  }
  assert {
    condition     = endswith(output.operator_url, ".europe-west1.run.app")
    error_message = "The production example must be in a region where a new project can build."
  }
}

run "refuses_to_be_open" {
  command = plan

  variables {
    clients         = "open"
    trusted_signers = []
  }

  expect_failures = [var.clients, var.trusted_signers]
}
