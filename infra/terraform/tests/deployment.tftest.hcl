# What a plan of the whole deployment must hold, whatever else changes. No cloud is needed: the provider is mocked.

mock_provider "google" {}
mock_provider "random" {}

variables {
  project_id     = "a-project"
  project_number = "123456789012"
  region         = "europe-west1"
  bundles        = "./tests/bundles"
  operators      = ["group:operators@example.org"]
}

run "enables_apis_and_leaves_them_on_destroy" {
  command = plan

  assert {
    condition     = alltrue([for api in google_project_service.apis : api.disable_on_destroy == false])
    error_message = "A destroy must not disable an API that others in the project may use."
  }
}

run "addresses_are_known_before_the_functions_are_there" {
  command = plan

  assert {
    condition     = output.client_url == "https://muster-client-api-123456789012.europe-west1.run.app"
    error_message = "The client API's address is not the one that Cloud Run gives by rule."
  }
  assert {
    condition     = alltrue([for function, url in local.urls : startswith(url, "https://${module.functions.services[function]}-123456789012.")])
    error_message = "An address is not that of its function's service."
  }
  assert {
    condition     = output.smoke == "make smoke URL=${output.client_url} OPERATOR_URL=${output.operator_url}"
    error_message = "The smoke command does not lead to this deployment."
  }
}

run "functions_find_their_stores_and_queue" {
  command = plan

  assert {
    condition = module.functions.environment == {
      MUSTER_STATE            = "firestore://a-project/muster"
      MUSTER_BLOBS            = "gs://a-project-muster-blobs"
      MUSTER_UPDATES          = "gs://a-project-muster-updates"
      MUSTER_PARTIALS         = "gs://a-project-muster-partials"
      MUSTER_QUEUE            = "cloudtasks://a-project/europe-west1/muster"
      MUSTER_TENSORFLOW_FOLDS = "false"
      MUSTER_AGGREGATOR_URL   = "https://muster-aggregator-123456789012.europe-west1.run.app"
      MUSTER_COMMITTER_URL    = "https://muster-committer-123456789012.europe-west1.run.app"
      MUSTER_INVOKER          = "muster-invoker@a-project.iam.gserviceaccount.com"
    }
    error_message = "The settings of the functions are not the ones of this deployment."
  }
  assert {
    condition     = output.queue == "muster" && output.database == "muster"
    error_message = "The settings name another queue or database than the one that is made."
  }
}

run "aggregator_has_tensorflow_only_where_asked_for" {
  command = plan

  assert {
    condition     = output.bundles["aggregator"] == "aggregator-${filesha256("./tests/bundles/aggregator.zip")}.zip"
    error_message = "The aggregator must be deployed without TensorFlow."
  }
  assert {
    condition     = local.functions.aggregator.memory == "1Gi"
    error_message = "The aggregator without TensorFlow is to have 1Gi."
  }
}

run "aggregator_has_tensorflow_where_asked_for" {
  command = plan

  variables {
    aggregator_tensorflow = true
  }

  assert {
    condition     = output.bundles["aggregator"] == "aggregator-${filesha256("./tests/bundles/aggregator-tensorflow.zip")}.zip"
    error_message = "The aggregator must be deployed with TensorFlow."
  }
  assert {
    condition     = module.functions.environment["MUSTER_TENSORFLOW_FOLDS"] == "true" && local.functions.aggregator.memory == "2Gi"
    error_message = "With TensorFlow, plans that fold with it are to be taken, in 2Gi."
  }
}

run "project_number_is_looked_up_where_not_given" {
  command = plan

  variables {
    project_number = null
  }
  override_data {
    target = data.google_project.this[0]
    values = { number = "42424242" }
  }

  assert {
    condition     = strcontains(output.client_url, "-42424242.")
    error_message = "The project's number was not looked up."
  }
}

run "key_reaches_the_service_agents_before_what_it_encrypts" {
  command = plan

  variables {
    kms_key = "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
  }

  assert {
    condition     = toset([for grant in google_kms_crypto_key_iam_member.agents : grant.role]) == toset(["roles/cloudkms.cryptoKeyEncrypterDecrypter"]) && length(google_kms_crypto_key_iam_member.agents) == 6
    error_message = "Each service agent that stores something is to encrypt and decrypt with the key, and no more."
  }
}

run "two_deployments_share_nothing" {
  command = plan

  variables {
    name = "other"
  }

  assert {
    condition     = alltrue(concat([for bucket in values(output.buckets) : startswith(bucket, "a-project-other-")], [for service in values(output.services) : startswith(service, "other-")]))
    error_message = "Under another name, all is to be named anew."
  }
}

run "destroy_is_refused_unless_asked_for" {
  command = plan

  assert {
    condition     = module.state.protected
    error_message = "Data must be protected by default."
  }
}

run "refuses_operators_that_are_everyone" {
  command = plan

  variables {
    operators = ["allUsers"]
  }

  expect_failures = [var.operators]
}

run "refuses_a_name_too_long_for_an_account" {
  command = plan

  variables {
    name = "a-name-that-is-too-long"
  }

  expect_failures = [var.name]
}

run "refuses_a_zone_for_a_region" {
  command = plan

  variables {
    region = "europe-west1-b"
  }

  expect_failures = [var.region]
}
