# The smallest deployment: one project, one region, defaults for the rest. `make bundle` first.

provider "google" {
  project = var.project_id
  region  = var.region
}

module "muster" {
  source = "../.."

  project_id = var.project_id
  region     = var.region
  operators  = { (var.operator) = "operator" }
  bundles    = var.bundles

  clients            = var.clients
  allow_open_clients = var.allow_open_clients

  # For trials that are destroyed afterwards.
  deletion_protection = false
}
