# The example fits a new project, and is not open to all unless that is asked for.

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
  operator   = "me@example.org"
  bundles    = "../../tests/bundles"
}

run "fits_a_new_project" {
  command = plan

  variables {
    clients = "enrolment:KEY"
  }

  assert {
    condition     = alltrue([for takes in values(output.quota) : takes.cpu <= 20 && takes.memory_gib <= 40])
    error_message = "The minimal example must stay within a new project's quota of 20 CPUs and 40 GiB for each function in a region."
  }
  assert {
    condition     = !output.open_to_all && endswith(output.client_url, ".europe-west1.run.app")
    error_message = "The minimal example must not be open to all, and be in a region where a new project can build."
  }
}
