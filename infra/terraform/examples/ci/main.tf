# What a pipeline needs before it can deploy: a bucket for Terraform's state, an account that plans, an account that applies, and
# their trust in one GitHub repository without any key. An owner applies this once, by hand; README.md has the commands.

provider "google" {
  project = var.project_id
  region  = var.region
}

locals {
  apis = ["cloudresourcemanager.googleapis.com", "iam.googleapis.com", "iamcredentials.googleapis.com", "serviceusage.googleapis.com", "storage.googleapis.com", "sts.googleapis.com"]

  accounts = {
    deployer = "Applies Muster's Terraform from ${var.repository}, branch ${var.branch}."
    planner  = "Plans Muster's Terraform on pull requests of ${var.repository}; reads only."
  }

  # Each admin role is for one product of the module. docs/reference/google-cloud.md has the reason of each.
  deployer_roles = [
    "roles/artifactregistry.admin",
    "roles/cloudfunctions.admin",
    "roles/cloudscheduler.admin",
    "roles/cloudtasks.admin",
    "roles/datastore.owner",
    "roles/iam.roleAdmin",
    "roles/iam.serviceAccountAdmin",
    "roles/iam.serviceAccountUser",
    "roles/logging.configWriter",
    "roles/monitoring.editor",
    "roles/resourcemanager.projectIamAdmin",
    "roles/run.admin",
    "roles/secretmanager.admin",
    "roles/serviceusage.serviceUsageAdmin",
    "roles/storage.admin",
  ]

  # A plan reads every resource and policy. It can't read a secret's value, so the deployment needs `signing_keys_secret`.
  planner_roles = [
    "roles/iam.securityReviewer",
    "roles/viewer",
  ]

  grants = merge(
    { for role in setunion(local.deployer_roles, var.further_roles) : "deployer ${role}" => { account = "deployer", role = role } },
    { for role in local.planner_roles : "planner ${role}" => { account = "planner", role = role } },
  )

  # The account of a job of the workflow: a job that names the environment, and runs on the branch by a push or by hand, applies. All
  # other jobs of the repository plan. A job of a fork gets no token.
  job = join(" && ", [
    "has(assertion.environment)",
    "assertion.environment == \"${var.environment}\"",
    "assertion.ref == \"refs/heads/${var.branch}\"",
    "assertion.event_name in [\"push\", \"workflow_dispatch\"]",
  ])
  jobs = { deployer = "apply", planner = "plan" }
}

resource "google_project_service" "apis" {
  for_each = toset(local.apis)

  project            = var.project_id
  service            = each.key
  disable_on_destroy = false
}

# --- State ---------------------------------------------------------------------------------------------------------------

# Versions, since a lost state can't be rebuilt without importing each resource. It holds the signing keys: few may read it.
resource "google_storage_bucket" "state" {
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-terraform"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = true
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      num_newer_versions = 20
      with_state         = "ARCHIVED"
    }
  }

  lifecycle {
    prevent_destroy = true
  }
}

# The whole policy, which drops what a new bucket has by default: all viewers of the project may read its objects. A plan on a pull
# request reads the state and takes no lock.
data "google_iam_policy" "state" {
  binding {
    role    = "roles/storage.objectUser"
    members = setunion(["serviceAccount:${google_service_account.this["deployer"].email}"], var.state_users)
  }

  binding {
    role    = "roles/storage.objectViewer"
    members = ["serviceAccount:${google_service_account.this["planner"].email}"]
  }

  binding {
    role    = "roles/storage.legacyBucketOwner"
    members = ["projectOwner:${var.project_id}"]
  }
}

resource "google_storage_bucket_iam_policy" "state" {
  bucket      = google_storage_bucket.state.name
  policy_data = data.google_iam_policy.state.policy_data
}

# --- Accounts ------------------------------------------------------------------------------------------------------------

resource "google_service_account" "this" {
  for_each = local.accounts

  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = "Muster: ${each.key}"
  description  = each.value

  depends_on = [google_project_service.apis]
}

resource "google_project_iam_member" "this" {
  for_each = local.grants

  project = var.project_id
  role    = each.value.role
  member  = "serviceAccount:${google_service_account.this[each.value.account].email}"
}

# --- Trust ---------------------------------------------------------------------------------------------------------------

resource "google_iam_workload_identity_pool" "github" {
  project                   = var.project_id
  workload_identity_pool_id = "${var.name}-github"
  display_name              = "Muster: GitHub"
  description               = "Workflows of ${var.repository}."

  depends_on = [google_project_service.apis]
}

resource "google_iam_workload_identity_pool_provider" "github" {
  project                            = var.project_id
  workload_identity_pool_id          = google_iam_workload_identity_pool.github.workload_identity_pool_id
  workload_identity_pool_provider_id = "github"
  display_name                       = "GitHub Actions"

  # GitHub has one issuer for all of its users, so without the condition it would let in every repository of the world.
  attribute_mapping = {
    "google.subject" = "assertion.sub"
    "attribute.job"  = "${local.job} ? \"apply\" : \"plan\""
  }
  attribute_condition = "assertion.repository == \"${var.repository}\" && assertion.repository_id == \"${var.repository_id}\""

  oidc {
    issuer_uri = "https://token.actions.githubusercontent.com"
  }
}

resource "google_service_account_iam_member" "federated" {
  for_each = local.jobs

  service_account_id = google_service_account.this[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principalSet://iam.googleapis.com/${google_iam_workload_identity_pool.github.name}/attribute.job/${each.value}"
}
