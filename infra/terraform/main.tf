# Muster in a Google Cloud project: its stores (state), its queue and tick (queue), its accounts and permissions (identity), and
# the four functions. modules/identity has the permissions of each function, modules/functions its permitted callers.

data "google_project" "this" {
  count = var.project_number == null ? 1 : 0

  project_id = var.project_id
}

locals {
  project_number = var.project_number == null ? data.google_project.this[0].number : var.project_number
  bundles        = coalesce(var.bundles, "${path.module}/../../dist/bundles")
  bundle_files = {
    client_api   = "${local.bundles}/client_api.zip"
    operator_api = "${local.bundles}/operator_api.zip"
    aggregator   = "${local.bundles}/${var.aggregator_tensorflow ? "aggregator-tensorflow" : "aggregator"}.zip"
    committer    = "${local.bundles}/committer.zip"
  }
  labels     = merge({ app = var.name }, var.labels)
  queue      = var.name
  client_url = var.domain == null ? local.urls["client_api"] : "https://${var.domain.name}"

  # Cloud Tasks' regions are the fewest of all services used here, and Cloud Build's are fewer in a new project.
  regions           = jsondecode(file("${path.module}/regions.json"))
  supported_regions = [for region in local.regions.cloud_tasks : region if contains(local.regions.cloud_scheduler, region)]
  nearby_regions = {
    for area, near in local.regions.near : area => flatten([for other in near : [for region in local.supported_regions : region if startswith(region, "${other}-")]])
  }

  # Anyone on the internet may join rounds, as any number of clients. A function's own environment overrides `clients`.
  clients            = lookup(var.functions.client_api.environment, "MUSTER_CLIENTS", var.clients)
  open_to_all        = local.clients == "open" && var.public_clients
  open_max_instances = 3

  # The addresses that follow from Cloud Run's rule, not those that it reports once a service exists: the aggregator and the
  # committer each need both, and the tick needs one, so reading them from the functions would be circular.
  services = { for function in keys(var.functions) : function => "${var.name}-${replace(function, "_", "-")}" }
  urls     = { for function, service in local.services : function => "https://${service}-${local.project_number}.${var.region}.run.app" }

  # The two functions that have permissions on the second database.
  audit_state = var.audit_database == null ? {} : { MUSTER_AUDIT_STATE = "firestore://${var.project_id}/${module.state.audit_database}" }

  # A function gets the addresses of only those stores that it has permissions on.
  stores = {
    client_api   = merge({ MUSTER_UPDATES = "gs://${module.state.buckets["updates"]}" }, local.audit_state)
    operator_api = local.audit_state
    aggregator   = { MUSTER_UPDATES = "gs://${module.state.buckets["updates"]}", MUSTER_PARTIALS = "gs://${module.state.buckets["partials"]}" }
    committer    = { MUSTER_PARTIALS = "gs://${module.state.buckets["partials"]}" }
  }

  # Only Google knows a group's members, so IAM may name a group, and Muster can't.
  members = [for address in keys(var.operators) : "${endswith(lower(address), ".gserviceaccount.com") ? "serviceAccount" : "user"}:${address}"]
  roles   = { for role in ["operator", "viewer"] : role => join(",", sort([for address, theirs in var.operators : lower(address) if theirs == role])) }

  # A token's audience is the called address, or gcloud itself: `gcloud auth print-identity-token` can't set it for a user's account.
  gcloud = "32555940559.apps.googleusercontent.com"
  operators = length(var.operators) == 0 ? "" : join("", [
    "oidc:https://accounts.google.com?audience=${join(",", compact([local.urls["operator_api"], var.accept_gcloud_tokens ? local.gcloud : ""]))}",
    local.roles["operator"] == "" ? "" : "&operators=${local.roles["operator"]}",
    local.roles["viewer"] == "" ? "" : "&viewers=${local.roles["viewer"]}",
  ])
  trusted_proxies = coalesce(var.trusted_proxies, var.domain == null ? 1 : 2)
  signers         = join(",", var.trusted_signers)

  # Settings of each function on operators, clients and signers; empty settings are left out.
  identity = {
    client_api = {
      MUSTER_CLIENTS         = var.clients
      MUSTER_CORS_ORIGINS    = join(",", sort(var.cors_origins))
      MUSTER_RATE_LIMIT      = var.rate_limit
      MUSTER_TRUSTED_PROXIES = tostring(local.trusted_proxies)
    }
    operator_api = {
      MUSTER_OPERATORS        = local.operators
      MUSTER_TRUSTED_SIGNERS  = local.signers
      MUSTER_TENSORFLOW_FOLDS = tostring(var.aggregator_tensorflow)
    }
    aggregator = { MUSTER_TRUSTED_SIGNERS = local.signers }
    committer  = { MUSTER_TRUSTED_SIGNERS = local.signers }
  }
  settings = {
    for function, size in var.functions : function => merge(
      local.stores[function],
      { for name, value in local.identity[function] : name => value if value != "" },
      size.environment,
    )
  }

  functions = {
    for function, size in var.functions : function => merge(size, {
      max_instances = coalesce(size.max_instances, local.open_to_all ? local.open_max_instances : 20)
      # TensorFlow alone takes some 400 MB.
      memory      = coalesce(size.memory, var.aggregator_tensorflow ? "2Gi" : "1Gi")
      environment = local.settings[function]
    })
  }

  # What a function takes at most of the region's quota: Cloud Run checks it for each function when it is deployed.
  quota = {
    for function, size in local.functions : function => {
      # 0 if the size is not valid: modules/functions says what is wrong with it.
      cpu        = size.max_instances * try(tonumber(size.cpu), 0)
      memory_gib = size.max_instances * try(tonumber(trimsuffix(size.memory, "Gi")), tonumber(trimsuffix(size.memory, "Mi")) / 1024, 0)
    }
  }

  apis = concat([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "cloudscheduler.googleapis.com",
    "cloudtasks.googleapis.com",
    "firestore.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
    ],
    var.domain == null ? [] : ["certificatemanager.googleapis.com", "compute.googleapis.com"],
    try(var.domain.dns_zone, null) == null ? [] : ["dns.googleapis.com"],
    var.kms_key == null ? [] : ["cloudkms.googleapis.com"],
    var.budget == null ? [] : ["billingbudgets.googleapis.com"],
  )

  # The service agents that read and write encrypted data for this deployment.
  agents = {
    artifacts = "service-${local.project_number}@gcp-sa-artifactregistry.iam.gserviceaccount.com"
    firestore = "service-${local.project_number}@gcp-sa-firestore.iam.gserviceaccount.com"
    functions = "service-${local.project_number}@gcf-admin-robot.iam.gserviceaccount.com"
    run       = "service-${local.project_number}@serverless-robot-prod.iam.gserviceaccount.com"
    secrets   = "service-${local.project_number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
    storage   = "service-${local.project_number}@gs-project-accounts.iam.gserviceaccount.com"
  }
}

resource "google_project_service" "apis" {
  for_each = toset(local.apis)

  project = var.project_id
  service = each.key

  # Others in the project may need them.
  disable_on_destroy = false
}

# An enabled API answers, and has its service agent, only some time later. It costs time again only when an API is added.
resource "time_sleep" "apis" {
  create_duration = "60s"
  triggers        = { apis = join(",", sort(local.apis)) }

  depends_on = [google_project_service.apis]
}

# Makes Cloud Storage's service agent exist by being read. The other agents have no such resource outside the beta provider.
data "google_storage_project_service_account" "this" {
  count = var.kms_key == null ? 0 : 1

  project = var.project_id

  depends_on = [time_sleep.apis]
}

resource "google_kms_crypto_key_iam_member" "agents" {
  for_each = var.kms_key == null ? {} : local.agents

  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${each.value}"

  depends_on = [time_sleep.apis, data.google_storage_project_service_account.this]
}

# Cloud Functions looks into the repository before it builds the first function, and its own role may not have arrived yet.
resource "google_artifact_registry_repository_iam_member" "functions_agent" {
  count = var.images == null ? 1 : 0

  project    = var.project_id
  location   = var.region
  repository = module.state.repository
  role       = "roles/artifactregistry.reader"
  member     = "serviceAccount:${local.agents.functions}"

  depends_on = [time_sleep.apis]
}

# IAM takes minutes to apply a grant, and the first build and the first request need several.
resource "time_sleep" "permissions" {
  create_duration = "90s"
  # Grants on what a deployment gets later, before functions use it.
  triggers = { commits = module.queue.commits, audit = coalesce(module.state.audit_database, "none") }

  depends_on = [module.identity, google_artifact_registry_repository_iam_member.functions_agent]
}

module "state" {
  source = "./modules/state"

  project_id             = var.project_id
  region                 = var.region
  location               = coalesce(var.bucket_location, var.region)
  firestore_location     = coalesce(var.firestore_location, var.region)
  name                   = var.name
  labels                 = local.labels
  database               = coalesce(var.firestore_database, var.name)
  point_in_time_recovery = var.point_in_time_recovery
  backup_retention_days  = var.backup_retention_days
  audit_database         = var.audit_database
  deletion_protection    = var.deletion_protection
  force_destroy          = !var.deletion_protection
  signing_keys           = var.signing_keys
  signing_keys_secret    = var.signing_keys_secret
  kms_key                = var.kms_key
  cors_origins           = var.cors_origins
  longest_round_days     = var.longest_round_days

  depends_on = [time_sleep.apis, google_kms_crypto_key_iam_member.agents]
}

module "identity" {
  source = "./modules/identity"

  project_id     = var.project_id
  project_number = local.project_number
  region         = var.region
  name           = var.name
  access         = jsondecode(file("${path.module}/access.json"))
  buckets        = module.state.buckets
  database       = module.state.database
  audit_database = module.state.audit_database
  queue          = module.queue.name
  commits_queue  = module.queue.commits
  secret         = module.state.secret.id
  repository     = module.state.repository

  bucket_administrators  = var.bucket_administrators
  restrict_build_sources = var.restrict_build_sources

  depends_on = [time_sleep.apis]
}

module "queue" {
  source = "./modules/queue"

  project_id     = var.project_id
  region         = var.region
  name           = local.queue
  aggregator_url = local.urls["aggregator"]
  invoker        = module.identity.invoker
  rates          = var.queue_rates
  commit_rates = {
    dispatches_per_second = var.queue_rates.dispatches_per_second
    concurrent_dispatches = local.functions.committer.max_instances * local.functions.committer.concurrency
  }
  retries = var.queue_retries

  depends_on = [time_sleep.apis]
}

module "functions" {
  source = "./modules/functions"

  project_id     = var.project_id
  project_number = local.project_number
  region         = var.region
  services       = local.services
  urls           = local.urls
  labels         = local.labels
  functions      = local.functions
  bundles        = local.bundle_files
  images         = var.images
  sources        = module.state.buckets["sources"]
  repository     = module.state.repository
  accounts       = module.identity.accounts
  build_account  = module.identity.build
  environment = merge(var.environment, {
    MUSTER_STATE = "firestore://${var.project_id}/${module.state.database}"
    MUSTER_BLOBS = "gs://${module.state.buckets["blobs"]}"
    MUSTER_QUEUE = "cloudtasks://${var.project_id}/${var.region}/${local.queue}?commits=${module.queue.commits}"
  })
  secret                = module.state.secret
  invoker               = module.identity.invoker
  operators             = setunion(local.members, var.operator_invokers)
  public_clients        = var.public_clients
  disable_invoker_check = var.disable_invoker_check
  # Behind the load balancer only, so that no client bypasses its limits.
  client_ingress = try(var.domain.exclusive, false) ? "ALLOW_INTERNAL_AND_GCLB" : "ALLOW_ALL"
  runtime        = var.runtime
  worker_pool    = var.worker_pool
  vpc_connector  = var.vpc_connector
  vpc_network    = var.vpc_network
  vpc_egress     = var.vpc_egress
  kms_key        = var.kms_key

  # A build starts with the function, and needs its account's roles.
  depends_on = [module.identity, time_sleep.permissions]
}

module "edge" {
  source = "./modules/edge"
  count  = var.domain == null ? 0 : 1

  project_id            = var.project_id
  region                = var.region
  name                  = var.name
  labels                = local.labels
  domain                = var.domain.name
  dns_zone              = var.domain.dns_zone
  rate_limit_per_minute = var.domain.rate_limit_per_minute
  service               = module.functions.services["client_api"]

  depends_on = [time_sleep.apis]
}

module "logging" {
  source = "./modules/logging"

  project_id           = var.project_id
  name                 = var.name
  location             = var.region
  services             = toset(values(local.services))
  forwarding_rule      = var.domain == null ? null : "${var.name}-edge"
  data_access_logs     = var.data_access_logs
  data_access_exempted = var.data_access_exempted
  log_retention_days   = var.log_retention_days
  log_sink             = var.log_sink

  depends_on = [time_sleep.apis]
}

module "monitoring" {
  source = "./modules/monitoring"

  project_id            = var.project_id
  project_number        = local.project_number
  name                  = var.name
  labels                = local.labels
  services              = module.functions.services
  region                = var.region
  queues                = [module.queue.name, module.queue.commits]
  tick                  = module.queue.tick
  health_url            = var.public_clients ? local.client_url : null
  data_access_logs      = var.data_access_logs
  aggregator_account    = module.identity.accounts["aggregator"]
  objectives            = var.objectives
  buckets               = { for kind in ["updates", "partials", "blobs"] : kind => module.state.buckets[kind] }
  firestore_database    = module.state.database
  notification_channels = var.notification_channels
  thresholds            = var.alert_thresholds
  budget                = var.budget

  depends_on = [time_sleep.apis]
}

# Warnings of plan and apply: these settings are valid for trials.
check "clients_are_known" {
  assert {
    condition     = local.clients != "open"
    error_message = "clients is open: client identity is self-asserted, so one device can be a thousand clients. Before others rely on this, set clients to enrolment:KEY or oidc:https://issuer?audience=…"
  }
}

check "somebody_operates" {
  assert {
    condition     = contains(keys(local.settings.operator_api), "MUSTER_OPERATORS")
    error_message = "operators is empty: the operator API answers every request with 401. Set operators = { \"me@example.org\" = \"operator\" }."
  }
}

check "a_new_project_can_build" {
  assert {
    condition     = var.images != null || var.worker_pool != null || contains(local.regions.cloud_build_new_projects, var.region)
    error_message = "region ${var.region} is not in the list of regions to which Cloud Build restricts some projects, new ones above all: ${join(", ", local.regions.cloud_build_new_projects)}. If a build stops with `FAILED_PRECONDITION: due to quota restrictions, cannot run builds in this region`, choose one of these, request the quota, or set images or worker_pool."
  }
}
