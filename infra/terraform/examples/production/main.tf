# A deployment to sign off: a key of one's own, a domain with limits, two signing keys in rotation, alerts, a budget, and data that
# a slip can't destroy. State is in a bucket, since it holds the signing keys: see README.md.

terraform {
  backend "gcs" {
    prefix = "muster"
  }
}

# Budgets are asked of the billing account, and need a project to charge the call to.
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

  # Who may do what: Cloud Run lets these in, and Muster knows what each may
  operators       = var.operators
  clients         = var.clients
  trusted_signers = var.trusted_signers
  rate_limit      = "identity=10/m"

  # What is kept
  kms_key                = var.kms_key
  deletion_protection    = true
  point_in_time_recovery = true

  # The newest signs, both verify: drop the old one when nothing that it signed is still good (docs/how-to/rotate-keys.md).
  signing_keys = ["k2", "k1"]

  # How it is reached
  vpc_connector = var.vpc_connector
  domain = {
    name                  = var.domain
    dns_zone              = var.dns_zone
    rate_limit_per_minute = 1200
  }

  # A warm instance spares clients the cold start; the rest scales to nothing between rounds.
  functions = {
    client_api = { min_instances = 1, max_instances = 100 }
    committer  = { memory = "8Gi", cpu = "2" }
  }

  # Who is told what
  notification_channels = [google_monitoring_notification_channel.on_call.id]
  alert_thresholds      = { round_stuck_seconds = 600, update_age_seconds = 3600 }
  budget                = var.budget
}
