# Values of variables that no deployment may have. No cloud is needed: the providers are mocked. Few runs with many variables each:
# a run costs seconds.

mock_provider "google" {}
mock_provider "random" {}
mock_provider "time" {}

variables {
  project_id     = "a-project"
  project_number = "123456789012"
  region         = "europe-west1"
  bundles        = "./tests/bundles"
  operators      = { "me@example.org" = "operator" }
  clients        = "enrolment:KEY"
}

run "refuses_a_zone_and_another_bundle_than_the_tested_one" {
  command = plan

  variables {
    region         = "europe-west1-b"
    bundle_digests = { client_api = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", operator_api = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", aggregator = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", committer = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" }
  }

  expect_failures = [var.region, var.bundle_digests]
}

run "refuses_a_region_without_cloud_tasks_and_images_without_digest" {
  command = plan

  variables {
    region      = "europe-west4"
    vpc_network = {}
    images      = { client_api = "client-api:latest" }
    functions   = { client_api = { environment = { MUSTER_CLIENTS = "open" } } }
    vpc_egress  = "ALL"
    runtime     = "python310"
    worker_pool = "w"
  }

  expect_failures = [
    var.region,
    var.vpc_network,
    var.images,
    var.functions,
    var.vpc_egress,
    var.runtime,
    var.worker_pool,
  ]
}

run "refuses_a_key_in_another_region" {
  command = plan

  variables {
    kms_key               = "projects/a-project/locations/europe/keyRings/r/cryptoKeys/k"
    disable_invoker_check = true
  }

  expect_failures = [var.kms_key, var.disable_invoker_check]
}

run "refuses_a_key_for_a_bucket_in_a_multi_region" {
  command = plan

  variables {
    kms_key         = "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
    bucket_location = "EU"
  }

  expect_failures = [var.kms_key]
}

run "refuses_a_key_for_a_database_in_a_multi_region" {
  command = plan

  variables {
    kms_key            = "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
    firestore_location = "eur3"
  }

  expect_failures = [var.kms_key]
}

run "refuses_to_be_open_to_all" {
  command = plan

  variables {
    clients = "open"
  }

  expect_failures = [var.clients]
}

run "refuses_many_instances_while_open_to_all" {
  command = plan

  variables {
    clients            = "open"
    allow_open_clients = true
    functions          = { client_api = { max_instances = 4 } }
  }

  expect_failures = [var.functions]
}

run "refuses_what_can_not_be" {
  command = plan

  variables {
    operators           = { "user:me@example.org" = "admin" }
    operator_invokers   = ["allUsers"]
    clients             = "anybody"
    cors_origins        = ["*"]
    rate_limit          = "60"
    trusted_proxies     = -1
    trusted_signers     = ["k"]
    name                = "a-name-that-is-too-long"
    project_id          = "A Project"
    project_number      = "a-project"
    labels              = { Team = "x" }
    kms_key             = "k"
    vpc_connector       = "c"
    signing_keys        = ["k1", "k1"]
    deletion_protection = true
  }

  expect_failures = [
    var.operators,
    var.operator_invokers,
    var.clients,
    var.cors_origins,
    var.rate_limit,
    var.trusted_proxies,
    var.trusted_signers,
    var.name,
    var.project_id,
    var.project_number,
    var.labels,
    var.kms_key,
    var.vpc_connector,
    var.signing_keys,
  ]
}
