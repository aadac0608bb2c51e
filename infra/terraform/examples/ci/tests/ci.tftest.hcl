# The pipeline's trust: one repository, one branch, no key, and a planner that can change nothing.

mock_provider "google" {
  override_during = plan

  mock_resource "google_iam_workload_identity_pool" {
    defaults = { name = "projects/123/locations/global/workloadIdentityPools/muster-github" }
  }
  mock_resource "google_service_account" {
    defaults = { name = "projects/my-project/serviceAccounts/account@my-project.iam.gserviceaccount.com" }
  }
  mock_data "google_iam_policy" {
    defaults = { policy_data = "{}" }
  }
}

variables {
  project_id    = "my-project"
  repository    = "example/federation"
  repository_id = "4711"
}

run "trusts_one_repository" {
  command = plan

  assert {
    condition     = google_iam_workload_identity_pool_provider.github.attribute_condition == "assertion.repository == \"example/federation\" && assertion.repository_id == \"4711\""
    error_message = "the provider must admit one repository, by name and by id"
  }

  assert {
    condition     = google_iam_workload_identity_pool_provider.github.attribute_mapping["attribute.job"] == "has(assertion.environment) && assertion.environment == \"production\" && assertion.ref == \"refs/heads/main\" && assertion.event_name in [\"push\", \"workflow_dispatch\"] ? \"apply\" : \"plan\""
    error_message = "only a job of the environment, on the branch, by a push or by hand, may apply"
  }

  assert {
    condition = toset([for grant in google_service_account_iam_member.federated : grant.member]) == toset([
      for job in ["apply", "plan"] : "principalSet://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/muster-github/attribute.job/${job}"
    ])
    error_message = "the accounts must be open to their jobs alone"
  }
}

run "roles_are_bounded" {
  command = plan

  assert {
    condition     = toset([for key, grant in google_project_iam_member.this : grant.role if startswith(key, "planner ")]) == toset(["roles/iam.securityReviewer", "roles/viewer"])
    error_message = "the planner may read, and nothing else"
  }

  assert {
    condition     = alltrue([for grant in google_project_iam_member.this : !contains(["roles/owner", "roles/editor"], grant.role)])
    error_message = "no account of the pipeline is owner or editor"
  }
}

run "state_is_versioned_and_private" {
  command = plan

  assert {
    condition     = google_storage_bucket.state.versioning[0].enabled && google_storage_bucket.state.uniform_bucket_level_access && google_storage_bucket.state.public_access_prevention == "enforced"
    error_message = "the state needs versions, and no public access"
  }

  assert {
    condition     = toset([for binding in data.google_iam_policy.state.binding : binding.role]) == toset(["roles/storage.legacyBucketOwner", "roles/storage.objectUser", "roles/storage.objectViewer"])
    error_message = "the state's policy must name its readers, and drop the project's viewers"
  }
}

run "refuses_owner_as_a_further_role" {
  command = plan

  variables {
    further_roles = ["roles/owner"]
  }

  expect_failures = [var.further_roles]
}

run "refuses_a_url_as_repository" {
  command = plan

  variables {
    repository = "https://github.com/example/federation"
  }

  expect_failures = [var.repository]
}

run "refuses_a_branch_pattern" {
  command = plan

  variables {
    branch = "*"
  }

  expect_failures = [var.branch]
}

run "refuses_public_readers_of_the_state" {
  command = plan

  variables {
    state_users = ["allUsers"]
  }

  expect_failures = [var.state_users]
}
