# The four functions: their code, their environment and their permitted callers. They are Cloud Functions that are built from
# bundles, or, with `images`, Cloud Run services of the same names and addresses.

locals {
  # Cloud Tasks and Cloud Scheduler of the same project count as internal where they call a run.app address.
  ingress = {
    client_api   = var.client_ingress
    operator_api = "ALLOW_ALL"
    aggregator   = "ALLOW_INTERNAL_ONLY"
    committer    = "ALLOW_INTERNAL_ONLY"
  }

  callers = {
    client_api   = var.public_clients && !var.disable_invoker_check ? ["allUsers"] : []
    operator_api = var.operators
    aggregator   = ["serviceAccount:${var.invoker}"]
    committer    = ["serviceAccount:${var.invoker}"]
  }

  invokers = merge([
    for function, members in local.callers : { for member in members : "${function} ${member}" => { function = function, member = member } }
  ]...)

  built = var.images == null ? var.functions : {}
  run   = var.images == null ? {} : var.functions

  names = merge(
    { for function, made in google_cloudfunctions2_function.this : function => made.name },
    { for function, made in google_cloud_run_v2_service.this : function => made.name },
  )

  # Cloud Run's names for the ingress settings of Cloud Functions.
  run_ingress = {
    ALLOW_ALL               = "INGRESS_TRAFFIC_ALL"
    ALLOW_INTERNAL_ONLY     = "INGRESS_TRAFFIC_INTERNAL_ONLY"
    ALLOW_INTERNAL_AND_GCLB = "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"
  }

  environment = merge(var.environment, {
    MUSTER_AGGREGATOR_URL = var.urls["aggregator"]
    MUSTER_COMMITTER_URL  = var.urls["committer"]
    MUSTER_INVOKER        = var.invoker
  })

  # Threads of one process: as many as Cloud Run sends requests at once.
  # MALLOC_ARENA_MAX: otherwise the C library retains the memory of each of many threads.
  environments = {
    for function, size in var.functions : function => merge(local.environment, { THREADS = tostring(size.concurrency), MALLOC_ARENA_MAX = "2" }, size.environment)
  }
}

# The hash in an object's name makes a changed bundle another object, and so a new revision; an unchanged one changes nothing.
resource "google_storage_bucket_object" "bundle" {
  for_each = var.images == null ? var.bundles : {}

  bucket = var.sources
  name   = "${each.key}-${filesha256(each.value)}.zip"
  source = each.value

  # The function uses the new object before the old one is deleted.
  lifecycle {
    create_before_destroy = true
  }
}

resource "google_cloudfunctions2_function" "this" {
  for_each = local.built

  project      = var.project_id
  location     = var.region
  name         = var.services[each.key]
  description  = "Muster's ${each.key}."
  labels       = var.labels
  kms_key_name = var.kms_key

  build_config {
    runtime           = var.runtime
    worker_pool       = var.worker_pool
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
    vpc_connector_egress_settings    = var.vpc_connector == null ? null : var.vpc_egress

    environment_variables = local.environments[each.key]

    direct_vpc_egress = var.vpc_network == null ? null : "VPC_EGRESS_${var.vpc_egress}"
    dynamic "direct_vpc_network_interface" {
      for_each = var.vpc_network == null ? [] : [var.vpc_network]
      content {
        network    = direct_vpc_network_interface.value.network
        subnetwork = direct_vpc_network_interface.value.subnetwork
        tags       = direct_vpc_network_interface.value.tags
      }
    }

    # Only the client API makes and reads tokens.
    dynamic "secret_environment_variables" {
      for_each = each.key == "client_api" ? [var.secret] : []
      content {
        key        = "MUSTER_SECRET"
        project_id = coalesce(var.project_number, var.project_id)
        secret     = secret_environment_variables.value.id
        version    = secret_environment_variables.value.version
      }
    }
  }
}

resource "google_cloud_run_v2_service" "this" {
  for_each = local.run

  project              = var.project_id
  location             = var.region
  name                 = var.services[each.key]
  description          = "Muster's ${each.key}."
  labels               = var.labels
  ingress              = local.run_ingress[local.ingress[each.key]]
  invoker_iam_disabled = each.key == "client_api" && var.disable_invoker_check
  # It holds no data, and an image that is rolled back is deployed again.
  deletion_protection = false

  template {
    service_account                  = var.accounts[each.key]
    timeout                          = "${each.value.timeout_seconds}s"
    max_instance_request_concurrency = each.value.concurrency
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    encryption_key                   = var.kms_key

    scaling {
      min_instance_count = each.value.min_instances
      max_instance_count = each.value.max_instances
    }

    containers {
      image = var.images[each.key]

      ports {
        container_port = 8080
      }

      resources {
        limits            = { cpu = each.value.cpu, memory = each.value.memory }
        cpu_idle          = true
        startup_cpu_boost = true
      }

      # An instance gets requests once it answers, and is given up after four minutes.
      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 120
        http_get {
          path = "/health"
        }
      }

      # The last three are what Cloud Functions sets itself: without the timeout, a long commit would be killed.
      dynamic "env" {
        for_each = merge(local.environments[each.key], {
          FUNCTION_TARGET           = each.key
          CLOUD_RUN_TIMEOUT_SECONDS = tostring(each.value.timeout_seconds)
          LOG_EXECUTION_ID          = "true"
        })
        content {
          name  = env.key
          value = env.value
        }
      }

      # Only the client API makes and reads tokens.
      dynamic "env" {
        for_each = each.key == "client_api" ? [var.secret] : []
        content {
          name = "MUSTER_SECRET"
          value_source {
            secret_key_ref {
              secret  = env.value.id
              version = env.value.version
            }
          }
        }
      }
    }

    dynamic "vpc_access" {
      for_each = var.vpc_connector == null && var.vpc_network == null ? [] : [var.vpc_egress]
      content {
        connector = var.vpc_connector
        egress    = vpc_access.value

        dynamic "network_interfaces" {
          for_each = var.vpc_network == null ? [] : [var.vpc_network]
          content {
            network    = network_interfaces.value.network
            subnetwork = network_interfaces.value.subnetwork
            tags       = network_interfaces.value.tags
          }
        }
      }
    }
  }
}

# A function of the second generation is a Cloud Run service, whose policy decides. Google requires both.
resource "google_cloudfunctions2_function_iam_member" "invoker" {
  for_each = var.images == null ? local.invokers : {}

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
  name     = local.names[each.value.function]
  role     = "roles/run.invoker"
  member   = each.value.member
}
