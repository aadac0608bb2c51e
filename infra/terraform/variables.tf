variable "project_id" {
  description = "The Google Cloud project that Muster is deployed to."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be a project's id, such as my-project-1234: not its name, nor its number."
  }
}

variable "project_number" {
  description = "The project's number; read from the project if null."
  type        = string
  default     = null

  validation {
    condition     = var.project_number == null || can(regex("^[0-9]+$", var.project_number))
    error_message = "project_number must be digits; `gcloud projects describe PROJECT --format 'value(projectNumber)'` prints it."
  }
}

variable "region" {
  description = "The region of functions, queue, scheduler, images and the secret, and of buckets and database unless set otherwise. It must be a region of Cloud Tasks and of Cloud Scheduler (regions.json). In a new project, choose one of Cloud Build's short list too, such as `europe-west1` or `us-central1`: elsewhere a build may be refused."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must be a region, such as europe-west1: not a zone, nor a multi-region."
  }

  validation {
    condition     = var.allow_unlisted_region || contains(local.supported_regions, var.region)
    error_message = "region ${var.region}: Cloud Tasks or Cloud Scheduler is not there, according to regions.json of ${local.regions.as_of}. Choose a region nearby: ${join(", ", lookup(local.nearby_regions, split("-", var.region)[0], local.supported_regions))}. If `gcloud tasks locations list` and `gcloud scheduler locations list` both print ${var.region} by now, set allow_unlisted_region = true."
  }
}

variable "allow_unlisted_region" {
  description = "Accept a `region` that regions.json does not list, because Google has opened Cloud Tasks and Cloud Scheduler there since."
  type        = bool
  default     = false
  nullable    = false
}

variable "name" {
  description = "Prefix of the names of all resources. Another name is another Muster in the same project."
  type        = string
  default     = "muster"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,14}[a-z0-9]$", var.name))
    error_message = "name must be 4 to 16 lower-case letters, digits and hyphens, and start with a letter: ids of service accounts have 30 characters at most."
  }
}

variable "labels" {
  description = "Labels of all resources that support them, in addition to `app`."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key, value in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))])
    error_message = "labels: keys and values are up to 63 lower-case letters, digits, '_' and '-', and a key starts with a letter."
  }
}

# --- Deployed code -------------------------------------------------------------------------------------------------------

variable "bundles" {
  description = "The folder of the bundles from `muster bundle`; `dist/bundles` of the checkout if null."
  type        = string
  default     = null
}

variable "bundle_digests" {
  description = "SHA-256 of the expected bundle of each function, in hex; the plan fails if a bundle is another. For promotion: staging's output `bundle_digests`, so that production deploys what was tested. Not checked if null."
  type        = map(string)
  default     = null

  validation {
    condition     = var.bundle_digests == null || try(toset(keys(var.bundle_digests)) == toset(["client_api", "operator_api", "aggregator", "committer"]) && alltrue([for digest in values(var.bundle_digests) : can(regex("^[0-9a-f]{64}$", digest))]), false)
    error_message = "bundle_digests must name client_api, operator_api, aggregator and committer, each with 64 hexadecimal digits: `sha256sum dist/bundles/*.zip` prints them."
  }

  validation {
    condition     = var.bundle_digests == null || var.images != null || try(alltrue([for function, bundle in local.bundle_files : filesha256(bundle) == var.bundle_digests[function]]), false)
    error_message = "bundle_digests: a file in the folder of bundles is missing or is not the expected one. Copy the bundles that were tested, or give the digests of those that are there: `sha256sum` prints them."
  }
}

variable "images" {
  description = "The image of each function by digest, `REGISTRY/REPOSITORY/NAME@sha256:…`. If set, the functions are Cloud Run services of these images, under the same names, addresses and accounts, and nothing is built in the project; if null, they are Cloud Functions built from `bundles`. A live deployment needs a migration first (modules/functions)."
  type        = map(string)
  default     = null

  validation {
    condition     = var.images == null || try(toset(keys(var.images)) == toset(["client_api", "operator_api", "aggregator", "committer"]), false)
    error_message = "images must name client_api, operator_api, aggregator and committer."
  }

  validation {
    condition     = var.images == null || try(alltrue([for image in values(var.images) : can(regex("^[a-z0-9][a-z0-9.:/_-]*@sha256:[0-9a-f]{64}$", image))]), false)
    error_message = "images: an image must be named by digest, as REGISTRY/REPOSITORY/NAME@sha256:…, since a tag may name another image tomorrow. `gcloud artifacts docker images describe IMAGE:TAG --format 'value(image_summary.fully_qualified_digest)'` prints it."
  }
}

variable "runtime" {
  description = "The Python runtime of Cloud Functions. The requirements in the bundles are pinned for Python 3.11: with another one, build and test bundles for it first."
  type        = string
  default     = "python311"
  nullable    = false

  validation {
    condition     = can(regex("^python3[1-9][0-9]$", var.runtime)) && try(tonumber(trimprefix(var.runtime, "python3")) >= 11, false)
    error_message = "runtime must be python311 or newer, such as python313."
  }
}

variable "worker_pool" {
  description = "A private pool of Cloud Build that builds the functions, `projects/P/locations/R/workerPools/W`, for projects whose builds need a separate network, such as one with a mirror of PyPI. Google's default pool if null. For a pool in another project, grant Cloud Functions' service agent `roles/cloudbuild.customworkers.builder` there."
  type        = string
  default     = null

  validation {
    condition     = var.worker_pool == null || can(regex("^projects/[^/]+/locations/[^/]+/workerPools/[^/]+$", var.worker_pool))
    error_message = "worker_pool must look like projects/P/locations/R/workerPools/W."
  }
}

variable "aggregator_tensorflow" {
  description = "Deploy the aggregator with TensorFlow, for plans that fold with it. Without it, such plans are refused when a task is created."
  type        = bool
  default     = false
}

variable "functions" {
  description = <<-EOT
    Size of each function, and its number of instances. All have defaults.
    - `min_instances`: warm instances, which are billed. `max_instances`: bounds the cost. The client API's is 20 if null, or 3 while `clients` is open.
      A new project has a quota of 20 CPUs and 40 GiB for each function in a region, which the defaults stay within: to raise
      `max_instances`, first request more of `CpuAllocPerProjectRegion` and `MemAllocPerProjectRegion` (the output `quota` has the amounts).
    - `concurrency`: concurrent requests of an instance, each with a thread. More than one needs a whole CPU.
    - `memory`: such as `512Mi`. The client API holds one copy of each download, the aggregator an accumulator and an update, the committer a few models.
      The aggregator's is `1Gi` if null, or `2Gi` with TensorFlow.
    - `timeout_seconds`: for aggregator and committer at most 1800, the limit of Cloud Tasks.
    - `environment`: further settings (docs/reference/settings.md), which override those that have separate variables here.
  EOT
  type = object({
    client_api = optional(object({
      min_instances   = optional(number, 0)
      max_instances   = optional(number)
      concurrency     = optional(number, 16)
      cpu             = optional(string, "1")
      memory          = optional(string, "512Mi")
      timeout_seconds = optional(number, 300)
      environment     = optional(map(string), {})
    }), {})
    operator_api = optional(object({
      min_instances   = optional(number, 0)
      max_instances   = optional(number, 5)
      concurrency     = optional(number, 8)
      cpu             = optional(string, "1")
      memory          = optional(string, "512Mi")
      timeout_seconds = optional(number, 300)
      environment     = optional(map(string), {})
    }), {})
    aggregator = optional(object({
      min_instances   = optional(number, 0)
      max_instances   = optional(number, 20)
      concurrency     = optional(number, 4)
      cpu             = optional(string, "1")
      memory          = optional(string)
      timeout_seconds = optional(number, 900)
      environment     = optional(map(string), {})
    }), {})
    committer = optional(object({
      min_instances   = optional(number, 0)
      max_instances   = optional(number, 5)
      concurrency     = optional(number, 1)
      cpu             = optional(string, "2")
      memory          = optional(string, "4Gi")
      timeout_seconds = optional(number, 1800)
      environment     = optional(map(string), {})
    }), {})
  })
  default  = {}
  nullable = false

  validation {
    condition     = lookup(var.functions.client_api.environment, "MUSTER_CLIENTS", var.clients) != "open" || !var.public_clients || coalesce(var.functions.client_api.max_instances, local.open_max_instances) <= local.open_max_instances
    error_message = "functions: client_api.max_instances must be at most ${local.open_max_instances} while clients is open, since any caller can start instances at your cost. Set clients to enrolment:KEY or oidc:…, or lower it."
  }

  validation {
    condition     = lookup(var.functions.client_api.environment, "MUSTER_CLIENTS", "") != "open" || var.allow_open_clients || !var.public_clients
    error_message = "functions: client_api.environment sets MUSTER_CLIENTS to open, and the client API is public. Set clients to enrolment:KEY or oidc:…, public_clients = false, or, for a trial, allow_open_clients = true."
  }
}

variable "environment" {
  description = "Further settings of all functions (docs/reference/settings.md), such as `MUSTER_ROUND_CACHE_SECONDS`."
  type        = map(string)
  default     = {}
}

# --- Access --------------------------------------------------------------------------------------------------------------

variable "operators" {
  description = "Role by e-mail address of a Google account or service account: `operator` may do everything, `viewer` may read. Cloud Run admits these accounts, and Muster applies their roles. If empty, no caller may operate."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for address in keys(var.operators) : can(regex("^[A-Za-z0-9.!#$'*/=?^_`{|}~+-]+@[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)+$", address))])
    error_message = "operators: a key is an e-mail address such as me@example.org, without user: or serviceAccount: before it. Muster can't read the members of a group: name each of them."
  }

  validation {
    condition     = alltrue([for role in values(var.operators) : contains(["operator", "viewer"], role)])
    error_message = "operators: a role is operator or viewer."
  }

  validation {
    condition     = length(distinct([for address in keys(var.operators) : lower(address)])) == length(var.operators)
    error_message = "operators: an address occurs twice, in upper and lower case."
  }
}

variable "operator_invokers" {
  description = "Further IAM members that Cloud Run admits to the operator API, such as `group:operators@example.org`. This alone permits nothing: Muster accepts those in `operators`, or in your own `MUSTER_OPERATORS` (`functions.operator_api.environment`)."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for member in var.operator_invokers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+", member))])
    error_message = "operator_invokers must be IAM members such as group:operators@example.org, never allUsers or allAuthenticatedUsers."
  }
}

variable "public_clients" {
  description = "Open the client API to all callers, since devices have no Google identity; `clients` sets the proof of a client's identity. If false, grant `roles/run.invoker` on it yourself. An organization that shares only with its own domains (`iam.allowedPolicyMemberDomains`) refuses it: set `images` and `disable_invoker_check`, or have the project exempted."
  type        = bool
  default     = true
}

variable "disable_invoker_check" {
  description = "Open the client API by switching off Cloud Run's invoker check instead of granting `allUsers`, which organizations that share only with their own domains refuse. Only with `images`: Cloud Functions has no such setting."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !var.disable_invoker_check || var.images != null
    error_message = "disable_invoker_check needs images: Cloud Functions has no such setting. For functions, run `gcloud run services update NAME --no-invoker-iam-check` after each apply."
  }

  validation {
    condition     = !var.disable_invoker_check || var.public_clients
    error_message = "disable_invoker_check opens the client API, and public_clients = false closes it: set one of them."
  }
}

variable "clients" {
  description = "Client identity, `MUSTER_CLIENTS` (docs/how-to/enroll-clients.md): `enrolment:KEY` with the key of `muster enrol key`, `oidc:https://issuer?audience=…`, or `open` for trials, where it is self-asserted, a warning is logged, and `allow_open_clients` is needed."
  type        = string
  nullable    = false

  validation {
    condition     = var.clients == "open" || can(regex("^(enrolment:[^\\s]+|oidc:https://[^\\s]+[?&]audience=[^\\s]+)$", var.clients))
    error_message = "clients must be open, enrolment:KEY (`muster enrol key` prints KEY), or oidc:https://issuer?audience=…. proxy:… is not supported here: Cloud Run is the only proxy in front of the client API, and checks no client certificates."
  }

  validation {
    condition     = var.clients != "open" || var.allow_open_clients || !var.public_clients
    error_message = "clients is open, and the client API is public: any caller on the internet could join rounds as any number of clients, at your cost. Set clients to enrolment:KEY (`muster enrol key` prints KEY) or oidc:https://issuer?audience=…, or public_clients = false. For a trial with data that is not worth protecting, set allow_open_clients = true."
  }
}

variable "allow_open_clients" {
  description = "Accept `clients = \"open\"` on a public client API. For trials only: any caller can join rounds as any number of clients. The client API then has at most 3 instances."
  type        = bool
  default     = false
  nullable    = false
}

variable "accept_gcloud_tokens" {
  description = "Accept operators' tokens that are made for gcloud itself, since `gcloud auth print-identity-token` can't set an audience for a person's account. Such a token works at every service that accepts it, for an hour: false requires the operator API's own audience, with which a service account makes one (`--impersonate-service-account=… --audiences=…`)."
  type        = bool
  default     = true
  nullable    = false
}

variable "cors_origins" {
  description = "The origins whose pages may call the client API and upload to the bucket, such as `https://app.example.org`."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for origin in var.cors_origins : can(regex("^https?://[a-z0-9.-]+(:[1-9][0-9]{0,4})?$", origin))])
    error_message = "cors_origins: an origin is scheme, host and port in lower case, without a path, such as https://app.example.org; * is not accepted."
  }
}

variable "rate_limit" {
  description = "Request rate of one address and of one client at one instance of the client API: `address=60/m,identity=10/m`; empty: no limit. Clients behind one NAT share an address."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = var.rate_limit == "" || can(regex("^(address|identity)=[0-9.]+/[smh](,(address|identity)=[0-9.]+/[smh])?$", var.rate_limit))
    error_message = "rate_limit must look like address=60/m,identity=10/m, with s, m or h."
  }
}

variable "trusted_proxies" {
  description = "Number of entries at the end of `X-Forwarded-For` that Google adds, for `rate_limit`: 1 if null, or 2 with a `domain`, whose load balancer adds its own address."
  type        = number
  default     = null

  validation {
    condition     = var.trusted_proxies == null || try(var.trusted_proxies >= 0 && var.trusted_proxies <= 16 && floor(var.trusted_proxies) == var.trusted_proxies, false)
    error_message = "trusted_proxies must be a whole number from 0 to 16."
  }
}

variable "trusted_signers" {
  description = "The public keys, `ed25519:…` as `muster plan keygen` prints them, one of which must have signed a plan; if empty, any plan is accepted and run."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for key in var.trusted_signers : can(regex("^ed25519:[A-Za-z0-9_-]{43}$", key))])
    error_message = "trusted_signers: a key looks like ed25519:… with 43 characters after the colon; `muster plan keygen` prints it."
  }
}

# --- Keys ----------------------------------------------------------------------------------------------------------------

variable "signing_keys" {
  description = "Ids of the keys that sign clients' tokens, newest first; the first signs, all verify. To rotate, put a new id in front, and remove the last one when everything that it signed has expired: after the longest of `assignment_seconds`, `round_seconds`, `separation_seconds` and a day (docs/how-to/rotate-keys.md)."
  type        = list(string)
  default     = ["k1"]

  validation {
    condition     = length(var.signing_keys) > 0 && length(distinct(var.signing_keys)) == length(var.signing_keys) && alltrue([for id in var.signing_keys : can(regex("^[a-z0-9][a-z0-9_.-]{0,31}$", id))])
    error_message = "signing_keys must name at least one key, each once, by 1 to 32 of a-z, 0-9, '.', '_' and '-', such as k1 or 2026-03-01."
  }
}

variable "signing_keys_secret" {
  description = "The id of a Secret Manager secret in this project whose newest version is the key ring `id:hex,id:hex`, newest first. Terraform then creates no keys, and its state holds none."
  type        = string
  default     = null
}

variable "kms_key" {
  description = "A Cloud KMS key that encrypts documents, blobs, secret, sources and images: `projects/P/locations/L/keyRings/R/cryptoKeys/K`. Google's own if null. It must be in `region`, and `firestore_location` and `bucket_location` must not name another location. Tasks in the queue and logs are not encrypted with it."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "kms_key must look like projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }

  validation {
    condition     = var.kms_key == null || try(split("/", var.kms_key)[3] == var.region, true)
    error_message = "kms_key must be in the region ${var.region}: Firestore, Cloud Storage, Secret Manager and Artifact Registry accept only a key of their own location."
  }

  validation {
    condition     = var.kms_key == null || alltrue([for location in [var.firestore_location, var.bucket_location] : lower(coalesce(location, var.region)) == var.region])
    error_message = "kms_key encrypts database and buckets too, so firestore_location and bucket_location must be ${var.region} or null: a key can't encrypt what is in another location or multi-region."
  }
}

# --- State ---------------------------------------------------------------------------------------------------------------

variable "firestore_database" {
  description = "The Firestore database, which must not exist yet; named after `name` if null."
  type        = string
  default     = null
}

variable "firestore_location" {
  description = "Location of the database: a region, or a multi-region such as `eur3`; the region if null. It can't be changed later."
  type        = string
  default     = null
}

variable "bucket_location" {
  description = "Location of the buckets: a region, or a multi-region such as `EU`; the region if null. It can't be changed later."
  type        = string
  default     = null
}

variable "point_in_time_recovery" {
  description = "Store seven days of the documents' history, to restore the database as of any minute."
  type        = bool
  default     = true
}

variable "backup_retention_days" {
  description = "Days that a daily backup of each database is stored; 0 makes none. A backup outlives its database, which point-in-time recovery does not. It also holds what was deleted since, such as the pseudonyms of ended rounds."
  type        = number
  default     = 14
  nullable    = false

  validation {
    condition     = var.backup_retention_days >= 0 && var.backup_retention_days <= 98 && floor(var.backup_retention_days) == var.backup_retention_days
    error_message = "backup_retention_days must be a whole number from 0 to 98: Firestore stores a backup for 14 weeks at most. 0 makes no backups."
  }
}

variable "audit_database" {
  description = "A second Firestore database, for the audit log and revoked enrolments alone; null stores them with all other documents. See modules/state before you set it for a live deployment."
  type        = string
  default     = null

  validation {
    condition     = var.audit_database == null || can(regex("^[a-z][a-z0-9-]{2,61}[a-z0-9]$", var.audit_database))
    error_message = "audit_database must be 4 to 63 lower-case letters, digits and hyphens that start with a letter, or null for no second database."
  }
}

variable "deletion_protection" {
  description = "Refuse to destroy the database, the secret, and buckets that are not empty. To tear down: false, apply, destroy."
  type        = bool
  default     = true
}

variable "longest_round_days" {
  description = "The longest `round_seconds` of your tasks, in days, rounded up. The bucket deletes an older update, as a safety net below Muster's own deletions, and 29 days later a partial."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.longest_round_days >= 1 && var.longest_round_days <= 31 && floor(var.longest_round_days) == var.longest_round_days
    error_message = "longest_round_days must be a whole number from 1 to 31: a round may last 30 days, and Cloud Storage counts whole ones."
  }
}

variable "bucket_administrators" {
  description = "Members who administer the buckets of updates and partials, besides the project's owners: as `serviceAccount:deployer@…`, for an account that applies and has neither `roles/owner` nor `roles/storage.admin`. They may write and delete objects, and read none."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for member in var.bucket_administrators : can(regex("^(user|group|serviceAccount|principal|principalSet):.+", member))])
    error_message = "bucket_administrators must be members with their kind, such as serviceAccount:deployer@p.iam.gserviceaccount.com; not all users, and not projectEditor or projectViewer."
  }
}

variable "restrict_build_sources" {
  description = "Whether the build account reads only Cloud Functions' buckets of sources; false lets it read every bucket of the project but updates and partials. Set it to false only if a first build stops with a 403 on its source: whether a build needs more was not tried."
  type        = bool
  default     = true
  nullable    = false
}

# --- Queue and network ---------------------------------------------------------------------------------------------------

variable "queue_rates" {
  description = "Rates of the aggregator's queue: deliveries per second, and concurrent deliveries. Of the committer's queue the latter is what the committer can process, `max_instances` × `concurrency`."
  type = object({
    dispatches_per_second = optional(number, 100)
    concurrent_dispatches = optional(number, 80)
  })
  default  = {}
  nullable = false
}

variable "queue_retries" {
  description = "Back-off of failed deliveries: first and longest wait in seconds, and the number of doublings between."
  type = object({
    min_backoff_seconds = optional(number, 1)
    max_backoff_seconds = optional(number, 60)
    max_doublings       = optional(number, 6)
  })
  default  = {}
  nullable = false
}

variable "vpc_connector" {
  description = "A Serverless VPC Access connector for the functions' calls to private addresses: `projects/P/locations/R/connectors/C`."
  type        = string
  default     = null

  validation {
    condition     = var.vpc_connector == null || can(regex("^projects/[^/]+/locations/[^/]+/connectors/[^/]+$", var.vpc_connector))
    error_message = "vpc_connector must look like projects/P/locations/R/connectors/C."
  }
}

variable "vpc_network" {
  description = <<-EOT
    A VPC network that the functions call private addresses through directly, without a connector (Direct VPC egress); null: none.
    - `network`, `subnetwork`: by name, or as `projects/P/…` in a host project. At least one of them; the subnetwork must be in the region.
    - `tags`: network tags of the instances, for firewall rules.
  EOT
  type = object({
    network    = optional(string)
    subnetwork = optional(string)
    tags       = optional(list(string), [])
  })
  default = null

  validation {
    condition     = var.vpc_network == null || try(var.vpc_network.network != null || var.vpc_network.subnetwork != null, false)
    error_message = "vpc_network must name a network or a subnetwork."
  }

  validation {
    condition     = var.vpc_network == null || var.vpc_connector == null
    error_message = "vpc_network and vpc_connector exclude each other: set one of them."
  }
}

variable "vpc_egress" {
  description = "The calls that go through `vpc_connector` or `vpc_network`: `PRIVATE_RANGES_ONLY`, or `ALL_TRAFFIC`, where the network must lead to Google's APIs (Private Google Access, or NAT)."
  type        = string
  default     = "PRIVATE_RANGES_ONLY"
  nullable    = false

  validation {
    condition     = contains(["PRIVATE_RANGES_ONLY", "ALL_TRAFFIC"], var.vpc_egress)
    error_message = "vpc_egress must be PRIVATE_RANGES_ONLY or ALL_TRAFFIC."
  }
}

variable "domain" {
  description = <<-EOT
    Your own domain in front of the client API, by a load balancer with a certificate and a limit for each address; null creates none (modules/edge).
    - `name`: such as `fl.example.org`.
    - `dns_zone`: a Cloud DNS zone of the project for its records; null if DNS is elsewhere: then see the output `dns_records`.
    - `rate_limit_per_minute`: requests from one address. Clients behind one NAT share theirs.
    - `exclusive`: clients reach the client API by the domain alone. Where clients already use its run.app address, add the domain with
      `false`, move the clients to it once its certificate is active, then set `true`: otherwise they are all cut off. While it is `false`,
      a caller of the run.app address bypasses the load balancer's limit, and can forge the address that `rate_limit` sees.
  EOT
  type = object({
    name                  = string
    dns_zone              = optional(string)
    rate_limit_per_minute = optional(number, 600)
    exclusive             = optional(bool, true)
  })
  default = null
}

# --- Monitoring ----------------------------------------------------------------------------------------------------------

variable "notification_channels" {
  description = "Ids of the notification channels of alerts, as `projects/P/notificationChannels/N`. Without any, incidents show in the console only."
  type        = list(string)
  default     = []
}

variable "alert_thresholds" {
  description = <<-EOT
    When alerts fire:
    - `round_stuck_seconds`: a round that should have advanced so long ago is stuck.
    - `abandon_rate`: the share of ended rounds, over an hour, that were abandoned below their minimum.
    - `error_rate`: the share of a function's requests, over five minutes, answered with 5xx.
    - `refused_updates`: refused updates in ten minutes, late clients not counted.
    - `queue_depth`: pieces of work that wait in the queue for ten minutes.
    - `error_requests`: requests of a function in five minutes below which its share of 5xx raises no alert.
    - `tick_silent_seconds`: the tick is dead if it has logged nothing for so long.
    - `update_age_seconds`: the age of the oldest single update. Raise it above the longest `round_seconds` of your tasks.
  EOT
  type = object({
    round_stuck_seconds = optional(number, 900)
    abandon_rate        = optional(number, 0.3)
    error_rate          = optional(number, 0.02)
    error_requests      = optional(number, 50)
    tick_silent_seconds = optional(number, 600)
    refused_updates     = optional(number, 20)
    queue_depth         = optional(number, 1000)
    update_age_seconds  = optional(number, 3600)
  })
  default  = {}
  nullable = false
}

variable "objectives" {
  description = <<-EOT
    Service level objectives over the last `rolling_days` days. Two alerts say when an error budget is spent too fast.
    - `check_in_availability`: the share of clients' requests that are not answered with 5xx.
    - `round_seconds`: seconds from a round's opening to its commit within which it is in time. Raise it above the longest `round_seconds` of your tasks.
    - `rounds_in_time`: the share of committed rounds that are in time.
    - `rounds_in_console`: whether to create the objective on rounds as an object with an error budget in the console. Monitoring refuses it until it knows the
      metric, up to ten minutes after the first apply: turn it on with a later apply. The alert does not need it.
    - `rolling_days`: 1 to 30.
  EOT
  type = object({
    check_in_availability = optional(number, 0.995)
    round_seconds         = optional(number, 3600)
    rounds_in_time        = optional(number, 0.95)
    rounds_in_console     = optional(bool, false)
    rolling_days          = optional(number, 28)
  })
  default  = {}
  nullable = false
}

variable "data_access_logs" {
  description = "Log who reads documents, objects and secrets (`DATA_READ` of Firestore, Cloud Storage and Secret Manager). It covers the whole project, replaces what is configured there for these three services, and costs by the volume of logs."
  type        = bool
  default     = false
  nullable    = false
}

variable "data_access_exempted" {
  description = "Members whose reads are not logged, as `serviceAccount:…`. The functions read with every request, so most of the volume is theirs; without their reads, a log shows no use of a stolen identity of a function."
  type        = set(string)
  default     = []
  nullable    = false
}

variable "log_retention_days" {
  description = "Days that requests to the functions are stored, which hold the addresses of clients: in a log bucket with this retention, and no longer in the project's `_Default`. Null leaves them in `_Default`, for 30 days unless the project says otherwise."
  type        = number
  default     = null

  validation {
    condition     = var.log_retention_days == null || try(var.log_retention_days >= 1 && var.log_retention_days <= 3650 && floor(var.log_retention_days) == var.log_retention_days, false)
    error_message = "log_retention_days must be a whole number from 1 to 3650, which is what Cloud Logging stores; null leaves requests in the bucket _Default."
  }
}

variable "log_sink" {
  description = <<-EOT
    A copy of Muster's log and of the audit logs of its stores, such as to a bucket in another project; null makes none. Grant the output `log_sink_writer` the right to write there.
    - `destination`: `storage.googleapis.com/BUCKET`, `bigquery.googleapis.com/projects/P/datasets/D`, `pubsub.googleapis.com/projects/P/topics/T` or
      `logging.googleapis.com/projects/P/locations/L/buckets/B`.
    - `requests`: also copy requests, which hold the addresses of clients.
  EOT
  type = object({
    destination = string
    requests    = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.log_sink == null || can(regex("^(storage\\.googleapis\\.com/[^/]+|bigquery\\.googleapis\\.com/projects/[^/]+/datasets/[^/]+|pubsub\\.googleapis\\.com/projects/[^/]+/topics/[^/]+|logging\\.googleapis\\.com/projects/[^/]+(/locations/[^/]+/buckets/[^/]+)?)$", var.log_sink.destination))
    error_message = "log_sink.destination must be a service and a resource, such as storage.googleapis.com/my-log-archive: not gs:// and not a URL."
  }
}

variable "budget" {
  description = <<-EOT
    A monthly budget of the project; null creates none. The provider needs `user_project_override` and `billing_project` for it: in its block, as in
    examples/production, or by the environment, `USER_PROJECT_OVERRIDE=true GOOGLE_BILLING_PROJECT=PROJECT`.
    - `billing_account`: its id, as `012345-6789AB-CDEF01`. The account that applies needs `billing.budgets.create` on it.
    - `amount`: in whole units of `currency`.
    - `currency`: the billing account's currency, as `EUR`; null takes the account's.
    - `at`: shares of the amount at which a message is sent.
  EOT
  type = object({
    billing_account = string
    amount          = number
    currency        = optional(string)
    at              = optional(list(number), [0.5, 0.9, 1.0])
  })
  default = null
}
