variable "project_id" {
  description = "The Google Cloud project."
  type        = string
}

variable "project_number" {
  description = "The project's number, by which Cloud Functions prefers to name the secret's project; the id if null."
  type        = string
  default     = null
}

variable "region" {
  description = "The functions' region."
  type        = string
}

variable "services" {
  description = "The functions' names, by function."
  type        = map(string)

  validation {
    condition     = alltrue([for service in values(var.services) : can(regex("^[a-z][a-z0-9-]{0,47}[a-z0-9]$", service))])
    error_message = "services: a name is lower-case letters, digits and hyphens, at most 49."
  }
}

variable "urls" {
  description = "The functions' base URLs, by function, which must be known before the functions exist."
  type        = map(string)
}

variable "labels" {
  description = "The functions' labels."
  type        = map(string)
  default     = {}
}

variable "functions" {
  description = "Size and number of each function: instances, concurrent requests of an instance, CPUs, memory, seconds per request; and its environment variables."
  type = map(object({
    min_instances   = number
    max_instances   = number
    concurrency     = number
    cpu             = string
    memory          = string
    timeout_seconds = number
    environment     = map(string)
  }))

  validation {
    condition     = toset(keys(var.functions)) == toset(["client_api", "operator_api", "aggregator", "committer"])
    error_message = "functions must be client_api, operator_api, aggregator and committer."
  }

  validation {
    condition     = alltrue([for size in values(var.functions) : size.min_instances >= 0 && size.max_instances >= 1 && size.min_instances <= size.max_instances])
    error_message = "functions: min_instances must not be negative, and max_instances at least 1 and not below min_instances."
  }

  validation {
    condition     = alltrue([for size in values(var.functions) : size.concurrency >= 1 && size.concurrency <= 1000 && (size.concurrency == 1 || try(tonumber(size.cpu), 0) >= 1)])
    error_message = "functions: concurrency must be from 1 to 1000, and more than one request at once needs a whole cpu, such as \"1\"."
  }

  validation {
    condition     = alltrue([for size in values(var.functions) : can(regex("^[0-9]+(Mi|Gi)$", size.memory))])
    error_message = "functions: memory must look like 512Mi or 4Gi."
  }

  validation {
    condition     = alltrue([for size in values(var.functions) : size.timeout_seconds >= 1 && size.timeout_seconds <= 3600])
    error_message = "functions: timeout_seconds must be from 1 to 3600."
  }

  validation {
    condition     = alltrue([for function in ["aggregator", "committer"] : try(var.functions[function].timeout_seconds <= 1800, false)])
    error_message = "functions: timeout_seconds of aggregator and committer must be at most 1800; Cloud Tasks waits at most so long, and would deliver again."
  }

  validation {
    condition = alltrue(flatten([for size in values(var.functions) : [
      for key in keys(size.environment) : !contains(["MUSTER_SECRET", "THREADS"], key)
    ]]))
    error_message = "functions: environment must set neither MUSTER_SECRET, which comes from Secret Manager, nor THREADS, which is concurrency."
  }
}

variable "bundles" {
  description = "The path of each function's bundle, from `muster bundle`."
  type        = map(string)

  validation {
    condition     = var.images != null || alltrue([for bundle in values(var.bundles) : fileexists(bundle)])
    error_message = "bundles: a file is missing. Build the bundles first: `muster bundle`, or `make bundle` in a checkout."
  }
}

variable "images" {
  description = "The image of each function by digest, `…@sha256:…`: the functions are then Cloud Run services, and `bundles`, `runtime`, `worker_pool` and `build_account` are not used. If null, Cloud Functions builds them from `bundles`."
  type        = map(string)
  default     = null

  validation {
    condition     = var.images == null || try(toset(keys(var.images)) == toset(["client_api", "operator_api", "aggregator", "committer"]), false)
    error_message = "images must name client_api, operator_api, aggregator and committer."
  }

  validation {
    condition     = var.images == null || try(alltrue([for image in values(var.images) : can(regex("@sha256:[0-9a-f]{64}$", image))]), false)
    error_message = "images: an image must be named by digest, as …@sha256:…, since a tag may name another image tomorrow."
  }
}

variable "runtime" {
  description = "The Python runtime of Cloud Functions."
  type        = string
  default     = "python311"
}

variable "worker_pool" {
  description = "A private pool of Cloud Build that builds the functions: `projects/P/locations/R/workerPools/W`; Google's default pool if null."
  type        = string
  default     = null
}

variable "sources" {
  description = "The bucket of the bundles."
  type        = string
}

variable "accounts" {
  description = "The e-mail addresses of the functions' service accounts, by function."
  type        = map(string)
}

variable "build_account" {
  description = "The e-mail address of the service account that builds images."
  type        = string
}

variable "repository" {
  description = "The Artifact Registry repository of the images."
  type        = string
}

variable "environment" {
  description = "Environment variables of all functions."
  type        = map(string)

  validation {
    condition     = !contains(keys(var.environment), "MUSTER_SECRET")
    error_message = "environment must not contain MUSTER_SECRET: it is in Secret Manager, for the client API alone."
  }
}

variable "secret" {
  description = "The key ring in Secret Manager, for the client API alone."
  type = object({
    id      = string
    version = string
  })
}

variable "invoker" {
  description = "The e-mail address of the account that may call the aggregator and the committer: Cloud Tasks' and Cloud Scheduler's."
  type        = string
}

variable "operators" {
  description = "The IAM members that Cloud Run admits to the operator API."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.operators : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+", member))])
    error_message = "operators must be IAM members such as group:operators@example.org, never allUsers or allAuthenticatedUsers."
  }
}

variable "public_clients" {
  description = "Open the client API to all callers, since devices have no Google identity. If false, grant roles/run.invoker on it yourself."
  type        = bool
  default     = true
}

variable "disable_invoker_check" {
  description = "Open the client API by switching off Cloud Run's invoker check, instead of granting `allUsers`. Only with `images`."
  type        = bool
  default     = false

  validation {
    condition     = !var.disable_invoker_check || (var.images != null && var.public_clients)
    error_message = "disable_invoker_check opens the client API of `images`: it needs images, and public_clients."
  }
}

variable "client_ingress" {
  description = "The permitted sources of requests to the client API: `ALLOW_ALL`, or `ALLOW_INTERNAL_AND_GCLB` where a load balancer is in front of it."
  type        = string
  default     = "ALLOW_ALL"

  validation {
    condition     = contains(["ALLOW_ALL", "ALLOW_INTERNAL_AND_GCLB"], var.client_ingress)
    error_message = "client_ingress must be ALLOW_ALL or ALLOW_INTERNAL_AND_GCLB."
  }
}

variable "vpc_connector" {
  description = "A Serverless VPC Access connector for the functions' calls to private addresses: `projects/P/locations/R/connectors/C`."
  type        = string
  default     = null
}

variable "vpc_network" {
  description = "A VPC network that the functions call private addresses through without a connector (Direct VPC egress): network or subnetwork, and network tags."
  type = object({
    network    = optional(string)
    subnetwork = optional(string)
    tags       = optional(list(string), [])
  })
  default = null

  validation {
    condition     = var.vpc_network == null || var.vpc_connector == null
    error_message = "vpc_network and vpc_connector exclude each other: set one of them."
  }
}

variable "vpc_egress" {
  description = "The calls that go through `vpc_connector` or `vpc_network`: `PRIVATE_RANGES_ONLY` or `ALL_TRAFFIC`."
  type        = string
  default     = "PRIVATE_RANGES_ONLY"

  validation {
    condition     = contains(["PRIVATE_RANGES_ONLY", "ALL_TRAFFIC"], var.vpc_egress)
    error_message = "vpc_egress must be PRIVATE_RANGES_ONLY or ALL_TRAFFIC."
  }
}

variable "kms_key" {
  description = "A Cloud KMS key that encrypts the functions' sources and images; Google's own if null."
  type        = string
  default     = null
}
