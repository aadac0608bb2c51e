# Staging and production from one configuration, each in a project and with a state of its own. Production deploys the bundles, or
# the images, that staging tested, by digest: see README.md.

terraform {
  backend "gcs" {}
}

provider "google" {
  project = var.project_id
  region  = var.region
}

locals {
  production = var.environment == "production"
}

module "muster" {
  source = "../.."

  project_id = var.project_id
  region     = var.region
  labels     = { environment = var.environment }

  # What is deployed
  bundles        = var.bundles
  bundle_digests = var.bundle_digests
  images         = var.images

  # Access
  operators            = var.operators
  clients              = var.clients
  trusted_signers      = var.trusted_signers
  accept_gcloud_tokens = !local.production

  # Staging may be torn down at any time.
  deletion_protection    = local.production
  point_in_time_recovery = local.production

  # Staging answers the same requests, fewer at a time.
  functions = local.production ? {} : {
    client_api = { max_instances = 3 }
    aggregator = { max_instances = 3 }
    committer  = { max_instances = 2 }
  }
}
