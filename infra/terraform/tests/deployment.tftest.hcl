# What a plan of the whole deployment must hold, whatever else changes. No cloud is needed: the providers are mocked.
# Few runs with many assertions each: a run costs seconds, an assertion nothing.

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

run "by_default" {
  command = plan

  assert {
    condition     = alltrue([for api in google_project_service.apis : api.disable_on_destroy == false])
    error_message = "A destroy must not disable an API that others in the project may use."
  }
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
  assert {
    condition = module.functions.environment == {
      MUSTER_STATE          = "firestore://a-project/muster"
      MUSTER_BLOBS          = "gs://a-project-muster-blobs"
      MUSTER_QUEUE          = "cloudtasks://a-project/europe-west1/muster?commits=muster-commits"
      MUSTER_AGGREGATOR_URL = "https://muster-aggregator-123456789012.europe-west1.run.app"
      MUSTER_COMMITTER_URL  = "https://muster-committer-123456789012.europe-west1.run.app"
      MUSTER_INVOKER        = "muster-invoker@a-project.iam.gserviceaccount.com"
    }
    error_message = "The settings of the functions are not the ones of this deployment."
  }
  assert {
    condition = { for function, size in local.functions : function => size.environment } == {
      client_api = {
        MUSTER_UPDATES         = "gs://a-project-muster-updates"
        MUSTER_CLIENTS         = "enrolment:KEY"
        MUSTER_TRUSTED_PROXIES = "1"
      }
      operator_api = {
        MUSTER_OPERATORS        = "oidc:https://accounts.google.com?audience=https://muster-operator-api-123456789012.europe-west1.run.app,32555940559.apps.googleusercontent.com&operators=me@example.org"
        MUSTER_TENSORFLOW_FOLDS = "false"
      }
      aggregator = { MUSTER_UPDATES = "gs://a-project-muster-updates", MUSTER_PARTIALS = "gs://a-project-muster-partials" }
      committer  = { MUSTER_PARTIALS = "gs://a-project-muster-partials" }
    }
    error_message = "Each function must be told what it has to do with, and nothing else: stores, who operates, who clients are."
  }
  assert {
    condition     = module.functions.operators == toset(["user:me@example.org"])
    error_message = "Cloud Run must let those through who operate, and nobody else."
  }
  assert {
    condition     = output.queue == "muster" && output.commits_queue == "muster-commits" && output.database == "muster"
    error_message = "The settings name another queue or database than the one that is made."
  }
  assert {
    condition     = output.bundles["aggregator"] == "aggregator-${filesha256("./tests/bundles/aggregator.zip")}.zip" && local.functions.aggregator.memory == "1Gi"
    error_message = "The aggregator must be deployed without TensorFlow, in 1Gi."
  }
  assert {
    condition     = length(module.edge) == 0 && module.functions.client_ingress == "ALLOW_ALL"
    error_message = "Without a domain there is to be no load balancer, and clients come straight to the client API."
  }
  assert {
    condition     = module.state.protected
    error_message = "Data must be protected by default."
  }
  assert {
    condition     = length(google_kms_crypto_key_iam_member.agents) == 0
    error_message = "Without a key, nobody is to be given one."
  }

  # --- A first apply in a new project
  assert {
    condition     = alltrue([for takes in values(output.quota) : takes.cpu <= 20 && takes.memory_gib <= 40])
    error_message = "The defaults must stay within a new project's quota of 20 CPUs and 40 GiB for each function in a region."
  }
  assert {
    condition     = local.functions.client_api.max_instances == 20 && local.functions.committer.max_instances == 5
    error_message = "The default number of instances must be 20 for the client API and 5 for the committer."
  }
  assert {
    condition     = time_sleep.apis.create_duration == "60s" && time_sleep.permissions.create_duration == "90s" && time_sleep.apis.destroy_duration == null && time_sleep.permissions.destroy_duration == null
    error_message = "A first apply must wait for enabled APIs and for granted permissions, and a destroy for nothing."
  }
  assert {
    condition     = time_sleep.apis.triggers["apis"] == join(",", sort(keys(google_project_service.apis)))
    error_message = "An API that is enabled later must be waited for too."
  }
  assert {
    condition     = google_artifact_registry_repository_iam_member.functions_agent[0].role == "roles/artifactregistry.reader" && google_artifact_registry_repository_iam_member.functions_agent[0].member == "serviceAccount:service-123456789012@gcf-admin-robot.iam.gserviceaccount.com"
    error_message = "Cloud Functions' service agent must be able to read the repository of images."
  }

  # --- What a new deployment opens
  assert {
    condition     = !output.open_to_all
    error_message = "With known clients, the deployment is not open to all."
  }
  assert {
    condition     = alltrue([for region in local.supported_regions : contains(local.regions.cloud_tasks, region) && contains(local.regions.cloud_scheduler, region)])
    error_message = "A region is supported only where Cloud Tasks and Cloud Scheduler are."
  }
  assert {
    condition     = length(setsubtract(local.regions.cloud_build_new_projects, local.supported_regions)) == 0
    error_message = "A region that is recommended to new projects must be a supported one."
  }
}

run "with_all_that_is_optional" {
  command = plan

  variables {
    name                  = "other"
    project_number        = null
    aggregator_tensorflow = true
    kms_key               = "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
    vpc_connector         = "projects/a-project/locations/europe-west1/connectors/c"
    signing_keys          = ["k2", "k1"]
    deletion_protection   = false
    domain                = { name = "fl.example.org" }
    budget                = { billing_account = "012345-6789AB-CDEF01", amount = 100 }
    notification_channels = ["projects/a-project/notificationChannels/1"]
    operators = {
      "Me@example.org"                          = "operator"
      "ci@a-project.iam.gserviceaccount.com"    = "operator"
      "dashboard@b-project.gserviceaccount.com" = "viewer"
      "auditor+muster@example.org"              = "viewer"
    }
    operator_invokers = ["group:operators@example.org"]
    clients           = "oidc:https://issuer.example?audience=muster"
    cors_origins      = ["https://b.example", "https://a.example"]
    rate_limit        = "address=60/m,identity=10/m"
    trusted_signers   = ["ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "ed25519:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA"]
  }
  override_data {
    target = data.google_project.this[0]
    values = { number = "42424242" }
  }

  assert {
    condition     = alltrue([for url in values(local.urls) : strcontains(url, "-42424242.europe-west1.run.app")])
    error_message = "The project's number was not looked up."
  }
  assert {
    condition     = output.bundles["aggregator"] == "aggregator-${filesha256("./tests/bundles/aggregator-tensorflow.zip")}.zip"
    error_message = "The aggregator must be deployed with TensorFlow where that is asked for."
  }
  assert {
    condition     = local.settings.operator_api["MUSTER_TENSORFLOW_FOLDS"] == "true" && local.functions.aggregator.memory == "2Gi"
    error_message = "With TensorFlow, plans that fold with it are to be taken, in 2Gi."
  }
  assert {
    condition     = toset([for grant in google_kms_crypto_key_iam_member.agents : grant.role]) == toset(["roles/cloudkms.cryptoKeyEncrypterDecrypter"]) && length(google_kms_crypto_key_iam_member.agents) == 6
    error_message = "Each service agent that stores something is to encrypt and decrypt with the key, and no more."
  }
  assert {
    condition     = alltrue(concat([for bucket in values(output.buckets) : startswith(bucket, "a-project-other-")], [for service in values(output.services) : startswith(service, "other-")], [output.queue == "other", output.database == "other"]))
    error_message = "Under another name all is to be named anew, so that two deployments share nothing."
  }
  assert {
    condition     = output.client_url == "https://fl.example.org" && module.functions.client_ingress == "ALLOW_INTERNAL_AND_GCLB"
    error_message = "With a domain, clients are to come by the load balancer alone."
  }
  assert {
    condition     = alltrue([for api in ["compute", "billingbudgets", "cloudkms"] : contains(keys(google_project_service.apis), "${api}.googleapis.com")])
    error_message = "What a domain, a budget and a key need must be enabled."
  }
  assert {
    condition     = module.functions.operators == toset(["user:Me@example.org", "serviceAccount:ci@a-project.iam.gserviceaccount.com", "serviceAccount:dashboard@b-project.gserviceaccount.com", "user:auditor+muster@example.org", "group:operators@example.org"])
    error_message = "Cloud Run must let through operators, viewers and further members, each as what it is."
  }
  assert {
    condition     = endswith(local.settings.operator_api["MUSTER_OPERATORS"], "&operators=ci@a-project.iam.gserviceaccount.com,me@example.org&viewers=auditor+muster@example.org,dashboard@b-project.gserviceaccount.com")
    error_message = "Each address must have its own role in Muster, and nobody beside them one."
  }
  assert {
    condition     = { for name, value in local.settings.client_api : name => value if name != "MUSTER_UPDATES" } == { MUSTER_CLIENTS = "oidc:https://issuer.example?audience=muster", MUSTER_CORS_ORIGINS = "https://a.example,https://b.example", MUSTER_RATE_LIMIT = "address=60/m,identity=10/m", MUSTER_TRUSTED_PROXIES = "2" }
    error_message = "What is set of clients must reach the client API, with the load balancer as one more proxy."
  }
  assert {
    condition     = [for function in ["operator_api", "aggregator", "committer"] : lookup(local.settings[function], "MUSTER_TRUSTED_SIGNERS", "")] == [for each in range(3) : join(",", var.trusted_signers)]
    error_message = "Every function that stores or runs plans must know whose to trust."
  }
  assert {
    condition     = module.state.cors_origins == toset(["https://a.example", "https://b.example"])
    error_message = "Pages that may call the client API must be able to upload to the bucket."
  }
  assert {
    condition     = !module.state.protected
    error_message = "Without protection a destroy is to take all away."
  }
  assert {
    condition     = length(data.google_storage_project_service_account.this) == 1
    error_message = "Cloud Storage's service agent must be made to exist before it is granted the key."
  }
}

run "in_a_region_that_is_not_listed" {
  command = plan

  variables {
    region                = "europe-west4"
    allow_unlisted_region = true
    accept_gcloud_tokens  = false
    domain                = { name = "fl.example.org", exclusive = false }
    functions             = { client_api = { max_instances = 100 }, committer = { memory = "8192Mi" } }
  }

  # A build may be refused there in a new project.
  expect_failures = [check.a_new_project_can_build]

  assert {
    condition     = local.nearby_regions["europe"] == ["europe-central2", "europe-west1", "europe-west2", "europe-west3", "europe-west6"]
    error_message = "Where a region is refused, the supported ones nearby must be named, and no other."
  }
  assert {
    condition     = strcontains(local.settings.operator_api["MUSTER_OPERATORS"], "?audience=${local.urls["operator_api"]}&") && !output.accepts_gcloud_tokens
    error_message = "Without gcloud's tokens, the operator API's own address must be the only audience."
  }
  assert {
    condition     = length(module.edge) == 1 && module.functions.client_ingress == "ALLOW_ALL" && output.client_url == "https://fl.example.org"
    error_message = "A domain that is not exclusive must leave the client API's own address to the clients that use it."
  }
  assert {
    condition     = output.quota.client_api == { cpu = 100, memory_gib = 50 } && output.quota.committer == { cpu = 10, memory_gib = 40 }
    error_message = "The quota must be what all instances of a function take together."
  }
}

run "of_images" {
  command = plan

  variables {
    images = {
      client_api   = "europe-west1-docker.pkg.dev/a-project/muster/client-api@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
      operator_api = "europe-west1-docker.pkg.dev/a-project/muster/operator-api@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
      aggregator   = "europe-west1-docker.pkg.dev/a-project/muster/aggregator@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
      committer    = "europe-west1-docker.pkg.dev/a-project/muster/committer@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
    }
    disable_invoker_check = true
    # Neither bundles nor Cloud Build's regions matter.
    bundles = "./nowhere"
    region  = "europe-west3"
  }

  assert {
    condition     = output.services == local.services && output.client_url == "https://muster-client-api-123456789012.europe-west3.run.app"
    error_message = "Services of images must have the names and addresses of functions."
  }
  assert {
    condition     = output.bundles == {} && output.bundle_digests == {} && output.images == var.images
    error_message = "With images, no bundle is uploaded."
  }
  assert {
    condition     = length(google_artifact_registry_repository_iam_member.functions_agent) == 0
    error_message = "Without Cloud Functions, its service agent needs no permission."
  }
}

run "warns_where_nobody_is_known" {
  command = plan

  variables {
    operators          = {}
    clients            = "open"
    allow_open_clients = true
  }

  expect_failures = [
    check.clients_are_known,
    check.somebody_operates,
  ]

  assert {
    condition     = local.functions.client_api.max_instances == 3 && output.open_to_all
    error_message = "While anyone may join, the client API must have few instances, since every caller costs money."
  }
}

run "may_be_open_where_iam_closes_it" {
  command = plan

  variables {
    clients        = "open"
    public_clients = false
  }

  expect_failures = [check.clients_are_known]

  assert {
    condition     = local.functions.client_api.max_instances == 20 && !output.open_to_all
    error_message = "Where IAM admits callers, an open deployment is not open to all."
  }
}
