# Production deploys what staging deployed, and nothing else.

mock_provider "google" {
  override_data {
    target = module.muster.data.google_project.this
    values = { number = "123456789012" }
  }
}
mock_provider "random" {}
mock_provider "time" {}

variables {
  project_id = "a-project"
  operators  = { "me@example.org" = "operator" }
  clients    = "enrolment:KEY"
  bundles    = "../../tests/bundles"
}

run "staging" {
  command = plan

  variables {
    environment = "staging"
  }

  assert {
    condition     = output.bundle_digests == { for function in ["client_api", "operator_api", "aggregator", "committer"] : function => filesha256("../../tests/bundles/${function}.zip") }
    error_message = "Staging must tell the digests of its bundles."
  }
  assert {
    condition     = alltrue([for takes in values(output.quota) : takes.cpu <= 20 && takes.memory_gib <= 40]) && !output.open_to_all
    error_message = "Staging must stay within a new project's quota, and not be open to all."
  }
}

run "production" {
  command = plan

  variables {
    environment    = "production"
    bundle_digests = run.staging.bundle_digests
  }

  assert {
    condition     = output.bundle_digests == run.staging.bundle_digests
    error_message = "Production must deploy staging's bundles."
  }
  assert {
    condition     = alltrue([for takes in values(output.quota) : takes.cpu <= 20 && takes.memory_gib <= 40]) && !output.open_to_all
    error_message = "Production must stay within a new project's quota, and not be open to all."
  }
}

run "production_refuses_what_staging_did_not_deploy" {
  command = plan

  variables {
    environment = "production"
  }

  expect_failures = [var.bundle_digests]
}
