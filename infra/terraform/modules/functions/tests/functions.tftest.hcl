# Who may call what, from where, and what is deployed.

mock_provider "google" {}

variables {
  project_id = "a-project"
  region     = "europe-west1"
  services   = { client_api = "muster-client-api", operator_api = "muster-operator-api", aggregator = "muster-aggregator", committer = "muster-committer" }
  urls       = { client_api = "https://c.example", operator_api = "https://o.example", aggregator = "https://a.example", committer = "https://k.example" }
  functions = {
    client_api   = { min_instances = 0, max_instances = 5, concurrency = 16, cpu = "1", memory = "512Mi", timeout_seconds = 60, environment = {} }
    operator_api = { min_instances = 0, max_instances = 5, concurrency = 8, cpu = "1", memory = "512Mi", timeout_seconds = 60, environment = { MUSTER_ROUND_CACHE_SECONDS = "0" } }
    aggregator   = { min_instances = 0, max_instances = 5, concurrency = 4, cpu = "1", memory = "1Gi", timeout_seconds = 900, environment = {} }
    committer    = { min_instances = 0, max_instances = 5, concurrency = 1, cpu = "2", memory = "4Gi", timeout_seconds = 1800, environment = {} }
  }
  bundles = {
    client_api   = "../../tests/bundles/client_api.zip"
    operator_api = "../../tests/bundles/operator_api.zip"
    aggregator   = "../../tests/bundles/aggregator.zip"
    committer    = "../../tests/bundles/committer.zip"
  }
  sources       = "b-sources"
  repository    = "muster"
  accounts      = { client_api = "c@x", operator_api = "o@x", aggregator = "a@x", committer = "k@x" }
  build_account = "build@x"
  environment   = { MUSTER_STATE = "firestore://a-project/muster" }
  secret        = { id = "muster-signing-keys", version = "3" }
  invoker       = "invoker@x"
  operators     = ["group:operators@example.org"]
}

run "by_default" {
  command = plan

  # --- Who may call
  assert {
    condition     = toset([for grant in google_cloud_run_v2_service_iam_member.invoker : "${grant.name} ${grant.member}"]) == toset(["muster-client-api allUsers", "muster-operator-api group:operators@example.org", "muster-aggregator serviceAccount:invoker@x", "muster-committer serviceAccount:invoker@x"])
    error_message = "Anyone may call the client API, operators the operator API, and the invoker alone the aggregator and the committer."
  }
  assert {
    condition     = toset([for grant in google_cloudfunctions2_function_iam_member.invoker : "${grant.cloud_function} ${grant.member}"]) == toset([for grant in google_cloud_run_v2_service_iam_member.invoker : "${grant.name} ${grant.member}"])
    error_message = "Callers must have the invoker's role on the function and on its Cloud Run service alike."
  }
  assert {
    condition     = alltrue([for grant in google_cloud_run_v2_service_iam_member.invoker : grant.role == "roles/run.invoker"]) && alltrue([for grant in google_cloudfunctions2_function_iam_member.invoker : grant.role == "roles/cloudfunctions.invoker"])
    error_message = "Callers may call, and nothing else."
  }

  # --- From where
  assert {
    condition     = alltrue([for function in ["aggregator", "committer"] : google_cloudfunctions2_function.this[function].service_config[0].ingress_settings == "ALLOW_INTERNAL_ONLY"])
    error_message = "The internal routes must not be reached from outside: the ingress of aggregator and committer must be internal."
  }
  assert {
    condition     = google_cloudfunctions2_function.this["client_api"].service_config[0].ingress_settings == "ALLOW_ALL"
    error_message = "Without a load balancer the client API must be reached from outside."
  }

  # --- What is deployed
  assert {
    condition     = alltrue([for function, path in var.bundles : google_storage_bucket_object.bundle[function].name == "${function}-${filesha256(path)}.zip"])
    error_message = "A bundle's hash must be in its object's name: else a change does not deploy."
  }
  assert {
    condition     = alltrue([for function, made in google_cloudfunctions2_function.this : made.build_config[0].source[0].storage_source[0].object == google_storage_bucket_object.bundle[function].name && made.build_config[0].source[0].storage_source[0].bucket == "b-sources"])
    error_message = "A function must be built from its own bundle."
  }
  assert {
    condition     = alltrue([for function, made in google_cloudfunctions2_function.this : made.build_config[0].runtime == "python311" && made.build_config[0].entry_point == function])
    error_message = "A function's entry point is called as the function is."
  }

  # --- As whom, with what
  assert {
    condition     = alltrue([for function, made in google_cloudfunctions2_function.this : made.service_config[0].service_account_email == var.accounts[function]])
    error_message = "Each function must run as its own account."
  }
  assert {
    condition     = alltrue([for made in google_cloudfunctions2_function.this : made.build_config[0].service_account == "projects/a-project/serviceAccounts/build@x"])
    error_message = "Builds must run as the build's account, not as the project's default one."
  }
  assert {
    condition     = [for function, made in google_cloudfunctions2_function.this : function if length(made.service_config[0].secret_environment_variables) > 0] == ["client_api"]
    error_message = "Only the client API may have the signing keys."
  }
  assert {
    condition     = google_cloudfunctions2_function.this["client_api"].service_config[0].secret_environment_variables[0].key == "MUSTER_SECRET" && google_cloudfunctions2_function.this["client_api"].service_config[0].secret_environment_variables[0].version == "3"
    error_message = "The client API must have the key ring of this very version, so that a rotation makes a new revision."
  }
  assert {
    condition     = alltrue([for made in google_cloudfunctions2_function.this : !contains(keys(made.service_config[0].environment_variables), "MUSTER_SECRET")])
    error_message = "Signing keys must come from Secret Manager, never from a plain variable."
  }
  assert {
    condition     = alltrue([for function, made in google_cloudfunctions2_function.this : made.service_config[0].environment_variables["THREADS"] == tostring(made.service_config[0].max_instance_request_concurrency)])
    error_message = "An instance must have as many threads as it gets requests at once."
  }
  assert {
    condition     = google_cloudfunctions2_function.this["operator_api"].service_config[0].environment_variables["MUSTER_ROUND_CACHE_SECONDS"] == "0"
    error_message = "A function's own settings must reach it."
  }
}

run "behind_a_load_balancer_and_closed" {
  command = plan

  variables {
    client_ingress = "ALLOW_INTERNAL_AND_GCLB"
    public_clients = false
    operators      = []
    vpc_connector  = "projects/a-project/locations/europe-west1/connectors/c"
    project_number = "123456789012"
    runtime        = "python313"
    worker_pool    = "projects/a-project/locations/europe-west1/workerPools/w"
  }

  assert {
    condition     = google_cloudfunctions2_function.this["client_api"].service_config[0].ingress_settings == "ALLOW_INTERNAL_AND_GCLB"
    error_message = "Behind a load balancer the client API must not be reached past it."
  }
  assert {
    condition     = toset([for grant in google_cloud_run_v2_service_iam_member.invoker : grant.name]) == toset(["muster-aggregator", "muster-committer"])
    error_message = "Where nobody is named, nobody may call the client API and the operator API."
  }
  assert {
    condition     = alltrue([for made in google_cloudfunctions2_function.this : made.service_config[0].vpc_connector == var.vpc_connector && made.service_config[0].vpc_connector_egress_settings == "PRIVATE_RANGES_ONLY"])
    error_message = "The connector must be for private addresses."
  }
  assert {
    condition     = alltrue([for made in google_cloudfunctions2_function.this : made.build_config[0].runtime == "python313" && made.build_config[0].worker_pool == var.worker_pool])
    error_message = "Functions must be built for the chosen runtime, in the chosen pool."
  }
  assert {
    condition     = google_cloudfunctions2_function.this["client_api"].service_config[0].secret_environment_variables[0].project_id == "123456789012"
    error_message = "The secret's project must be named by its number."
  }
}

run "in_a_network" {
  command = plan

  variables {
    vpc_network = { network = "n", tags = ["muster"] }
    vpc_egress  = "ALL_TRAFFIC"
  }

  assert {
    condition     = alltrue([for made in google_cloudfunctions2_function.this : made.service_config[0].direct_vpc_egress == "VPC_EGRESS_ALL_TRAFFIC" && made.service_config[0].direct_vpc_network_interface[0].network == "n" && made.service_config[0].vpc_connector == null && made.service_config[0].vpc_connector_egress_settings == null])
    error_message = "Functions must send all traffic through the network, without a connector."
  }
}

run "of_images" {
  command = plan

  variables {
    project_number = "123456789012"
    images = {
      client_api   = "r.example/client-api@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
      operator_api = "r.example/operator-api@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
      aggregator   = "r.example/aggregator@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
      committer    = "r.example/committer@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
    }
    client_ingress = "ALLOW_INTERNAL_AND_GCLB"
    vpc_network    = { subnetwork = "s", tags = ["muster"] }
    vpc_egress     = "ALL_TRAFFIC"
    kms_key        = "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
  }

  assert {
    condition     = length(google_cloudfunctions2_function.this) == 0 && length(google_storage_bucket_object.bundle) == 0 && length(google_cloudfunctions2_function_iam_member.invoker) == 0
    error_message = "With images, nothing may be built or uploaded."
  }
  assert {
    condition     = alltrue([for function, made in google_cloud_run_v2_service.this : made.template[0].containers[0].image == var.images[function] && made.name == var.services[function]])
    error_message = "A service must run its own image, under the function's name, on which its address depends."
  }
  assert {
    condition     = toset([for grant in google_cloud_run_v2_service_iam_member.invoker : "${grant.name} ${grant.member}"]) == toset(["muster-client-api allUsers", "muster-operator-api group:operators@example.org", "muster-aggregator serviceAccount:invoker@x", "muster-committer serviceAccount:invoker@x"])
    error_message = "The callers of a service must be those of the function."
  }
  assert {
    condition     = { for function, made in google_cloud_run_v2_service.this : function => made.ingress } == { client_api = "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER", operator_api = "INGRESS_TRAFFIC_ALL", aggregator = "INGRESS_TRAFFIC_INTERNAL_ONLY", committer = "INGRESS_TRAFFIC_INTERNAL_ONLY" }
    error_message = "A service must be reached from where the function is."
  }
  assert {
    condition     = alltrue([for made in google_cloud_run_v2_service.this : !made.invoker_iam_disabled])
    error_message = "Cloud Run must check the invoker unless that is switched off."
  }
  assert {
    condition     = alltrue([for function, made in google_cloud_run_v2_service.this : made.template[0].service_account == var.accounts[function]])
    error_message = "Each service must run as its function's account."
  }
  assert {
    condition = alltrue([
      for function, made in google_cloud_run_v2_service.this :
      { for env in made.template[0].containers[0].env : env.name => env.value if env.name != "MUSTER_SECRET" } == merge(local.environments[function], { FUNCTION_TARGET = function, CLOUD_RUN_TIMEOUT_SECONDS = tostring(var.functions[function].timeout_seconds), LOG_EXECUTION_ID = "true" })
    ])
    error_message = "A service must have the function's environment, and what Cloud Functions adds to it."
  }
  assert {
    condition     = [for function, made in google_cloud_run_v2_service.this : function if anytrue([for env in made.template[0].containers[0].env : env.name == "MUSTER_SECRET"])] == ["client_api"]
    error_message = "Only the client API's service may have the signing keys."
  }
  assert {
    condition     = [for env in google_cloud_run_v2_service.this["client_api"].template[0].containers[0].env : [env.value_source[0].secret_key_ref[0].secret, env.value_source[0].secret_key_ref[0].version] if env.name == "MUSTER_SECRET"] == [["muster-signing-keys", "3"]]
    error_message = "The client API's service must have the key ring of this very version."
  }
  assert {
    condition     = alltrue([for function, made in google_cloud_run_v2_service.this : made.template[0].max_instance_request_concurrency == var.functions[function].concurrency && made.template[0].timeout == "${var.functions[function].timeout_seconds}s" && made.template[0].scaling[0].max_instance_count == var.functions[function].max_instances && made.template[0].containers[0].resources[0].limits == tomap({ cpu = var.functions[function].cpu, memory = var.functions[function].memory })])
    error_message = "A service must have the function's size."
  }
  assert {
    condition     = alltrue([for made in google_cloud_run_v2_service.this : made.template[0].containers[0].startup_probe[0].http_get[0].path == "/health"])
    error_message = "An instance may get requests only once it answers."
  }
  assert {
    condition     = alltrue([for made in google_cloud_run_v2_service.this : made.template[0].vpc_access[0].egress == "ALL_TRAFFIC" && made.template[0].vpc_access[0].network_interfaces[0].subnetwork == "s" && made.template[0].encryption_key == var.kms_key])
    error_message = "A service must use the network and the key that functions use."
  }
  assert {
    condition     = tomap(output.services) == var.services
    error_message = "Without functions, the services' names are those of the services."
  }
}

run "of_images_without_a_grant_to_all" {
  command = plan

  variables {
    images = {
      client_api   = "r.example/client-api@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
      operator_api = "r.example/operator-api@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
      aggregator   = "r.example/aggregator@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
      committer    = "r.example/committer@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
    }
    disable_invoker_check = true
  }

  assert {
    condition     = [for function, made in google_cloud_run_v2_service.this : function if made.invoker_iam_disabled] == ["client_api"]
    error_message = "The invoker check may be switched off for the client API alone."
  }
  assert {
    condition     = alltrue([for grant in google_cloud_run_v2_service_iam_member.invoker : grant.member != "allUsers"])
    error_message = "Where the check is switched off, nothing may be granted to all."
  }
}

run "refuses_what_can_not_be" {
  command = plan

  variables {
    operators      = ["allAuthenticatedUsers"]
    client_ingress = "ALLOW_INTERNAL_ONLY"
    vpc_egress     = "ALL"
    vpc_connector  = "projects/a-project/locations/europe-west1/connectors/c"
    vpc_network    = { network = "n" }

    disable_invoker_check = true
    environment           = { MUSTER_SECRET = "0" }
    services              = { client_api = "client_api", operator_api = "o", aggregator = "a", committer = "c" }
    bundles               = { client_api = "./nowhere.zip", operator_api = "./nowhere.zip", aggregator = "./nowhere.zip", committer = "./nowhere.zip" }
    functions = {
      client_api   = { min_instances = 0, max_instances = 5, concurrency = 16, cpu = "0.5", memory = "512Mi", timeout_seconds = 60, environment = {} }
      operator_api = { min_instances = 0, max_instances = 5, concurrency = 8, cpu = "1", memory = "512Mi", timeout_seconds = 60, environment = {} }
      aggregator   = { min_instances = 0, max_instances = 5, concurrency = 4, cpu = "1", memory = "1Gi", timeout_seconds = 900, environment = {} }
      committer    = { min_instances = 0, max_instances = 5, concurrency = 1, cpu = "2", memory = "4Gi", timeout_seconds = 3600, environment = {} }
    }
  }

  expect_failures = [
    var.operators,
    var.client_ingress,
    var.vpc_egress,
    var.vpc_network,
    var.disable_invoker_check,
    var.environment,
    var.services,
    var.bundles,
    var.functions,
  ]
}

run "refuses_images_without_digest" {
  command = plan

  variables {
    images = { client_api = "c:latest", operator_api = "o:latest", aggregator = "a:latest", committer = "k:latest" }
  }

  expect_failures = [var.images]
}
