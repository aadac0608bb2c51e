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
}

run "refuses_what_can_not_be" {
  command = plan

  variables {
    operators      = ["allAuthenticatedUsers"]
    client_ingress = "ALLOW_INTERNAL_ONLY"
    environment    = { MUSTER_SECRET = "0" }
    services       = { client_api = "client_api", operator_api = "o", aggregator = "a", committer = "c" }
    bundles        = { client_api = "./nowhere.zip", operator_api = "./nowhere.zip", aggregator = "./nowhere.zip", committer = "./nowhere.zip" }
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
    var.environment,
    var.services,
    var.bundles,
    var.functions,
  ]
}
