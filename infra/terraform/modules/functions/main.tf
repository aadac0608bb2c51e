# The four functions: their code, their environment and their permitted callers.

locals {
  # Cloud Tasks and Cloud Scheduler of the same project count as internal where they call a run.app address.
  ingress = {
    client_api   = var.client_ingress
    operator_api = "ALLOW_ALL"
    aggregator   = "ALLOW_INTERNAL_ONLY"
    committer    = "ALLOW_INTERNAL_ONLY"
  }

  callers = {
    client_api   = var.public_clients ? ["allUsers"] : []
    operator_api = var.operators
    aggregator   = ["serviceAccount:${var.invoker}"]
    committer    = ["serviceAccount:${var.invoker}"]
  }

  invokers = merge([
    for function, members in local.callers : { for member in members : "${function} ${member}" => { function = function, member = member } }
  ]...)

  environment = merge(var.environment, {
    MUSTER_AGGREGATOR_URL = var.urls["aggregator"]
    MUSTER_COMMITTER_URL  = var.urls["committer"]
    MUSTER_INVOKER        = var.invoker
  })
}

# The hash in an object's name makes a changed bundle another object, and so a new revision; an unchanged one changes nothing.
resource "google_storage_bucket_object" "bundle" {
  for_each = var.bundles

  bucket = var.sources
  name   = "${each.key}-${filesha256(each.value)}.zip"
  source = each.value

  # The function uses the new object before the old one is deleted.
  lifecycle {
    create_before_destroy = true
  }
}

resource "google_cloudfunctions2_function" "this" {
  for_each = var.functions

  project      = var.project_id
  location     = var.region
  name         = var.services[each.key]
  description  = "Muster's ${each.key}."
  labels       = var.labels
  kms_key_name = var.kms_key

  build_config {
    runtime           = "python311"
    entry_point       = each.key
    service_account   = "projects/${var.project_id}/serviceAccounts/${var.build_account}"
    docker_repository = "projects/${var.project_id}/locations/${var.region}/repositories/${var.repository}"

    source {
      storage_source {
        bucket = var.sources
        object = google_storage_bucket_object.bundle[each.key].name
      }
    }
  }

  service_config {
    service_account_email            = var.accounts[each.key]
    ingress_settings                 = local.ingress[each.key]
    min_instance_count               = each.value.min_instances
    max_instance_count               = each.value.max_instances
    max_instance_request_concurrency = each.value.concurrency
    available_cpu                    = each.value.cpu
    available_memory                 = each.value.memory
    timeout_seconds                  = each.value.timeout_seconds
    all_traffic_on_latest_revision   = true
    vpc_connector                    = var.vpc_connector
    vpc_connector_egress_settings    = var.vpc_connector == null ? null : "PRIVATE_RANGES_ONLY"

    # Threads of one process: as many as Cloud Run sends requests at once.
    # MALLOC_ARENA_MAX: otherwise the C library retains the memory of each of many threads.
    environment_variables = merge(local.environment, { THREADS = tostring(each.value.concurrency), MALLOC_ARENA_MAX = "2" }, each.value.environment)

    # Only the client API makes and reads tokens.
    dynamic "secret_environment_variables" {
      for_each = each.key == "client_api" ? [var.secret] : []
      content {
        key        = "MUSTER_SECRET"
        project_id = var.project_id
        secret     = secret_environment_variables.value.id
        version    = secret_environment_variables.value.version
      }
    }
  }
}

# A function of the second generation is a Cloud Run service, whose policy decides. Google requires both.
resource "google_cloudfunctions2_function_iam_member" "invoker" {
  for_each = local.invokers

  project        = var.project_id
  location       = var.region
  cloud_function = google_cloudfunctions2_function.this[each.value.function].name
  role           = "roles/cloudfunctions.invoker"
  member         = each.value.member
}

resource "google_cloud_run_v2_service_iam_member" "invoker" {
  for_each = local.invokers

  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.this[each.value.function].name
  role     = "roles/run.invoker"
  member   = each.value.member
}
