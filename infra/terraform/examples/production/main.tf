# A production deployment: your own encryption key, a domain with limits, two signing keys in rotation, alerts, a budget, and
# protected data. Terraform's state is in a bucket, since it holds the signing keys: see README.md.

terraform {
  backend "gcs" {
    prefix = "muster"
  }
}

# Budgets belong to the billing account; the calls for them are charged to a project.
provider "google" {
  project               = var.project_id
  region                = var.region
  billing_project       = var.project_id
  user_project_override = true
}

resource "google_monitoring_notification_channel" "on_call" {
  project      = var.project_id
  display_name = "Muster's on-call"
  type         = "email"
  labels       = { email_address = var.on_call }
}

module "muster" {
  source = "../.."

  project_id = var.project_id
  region     = var.region
  labels     = { environment = "production", team = "learning" }
  bundles    = var.bundles

  # Access: Cloud Run admits these accounts, and Muster applies their roles
  operators       = var.operators
  clients         = var.clients
  trusted_signers = var.trusted_signers
  rate_limit      = "identity=10/m"

  # Operators' tokens are for this operator API alone: a service account's, by impersonation, or a pipeline's.
  accept_gcloud_tokens = false

  # Storage
  kms_key                = var.kms_key
  deletion_protection    = true
  point_in_time_recovery = true

  # The newest key signs, both verify: remove the old one when everything that it signed has expired (docs/how-to/rotate-keys.md).
  signing_keys = ["k2", "k1"]

  # Network
  vpc_connector = var.vpc_connector
  domain = {
    name                  = var.domain
    dns_zone              = var.dns_zone
    rate_limit_per_minute = 1200
  }

  # A warm instance avoids cold starts for clients; the others scale to zero between rounds. All are within a new project's quota,
  # 20 CPUs and 40 GiB a function: raise max_instances after requesting more.
  functions = {
    client_api = { min_instances = 1, max_instances = 20 }
    committer  = { memory = "8Gi", cpu = "2", max_instances = 5 }
  }

  # Logs: who reads updates and secrets, with an alert, and clients' addresses for 30 days. The project is Muster's alone.
  data_access_logs   = true
  log_retention_days = 30

  # Notifications
  notification_channels = [google_monitoring_notification_channel.on_call.id]
  alert_thresholds      = { round_stuck_seconds = 600, update_age_seconds = 3600 }
  budget                = var.budget
}
