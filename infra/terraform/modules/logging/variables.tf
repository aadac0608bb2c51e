variable "project_id" {
  description = "The Google Cloud project."
  type        = string
}

variable "name" {
  description = "Prefix of the names of log buckets and sinks."
  type        = string
}

variable "location" {
  description = "The region of the log bucket of requests. It can't be changed later."
  type        = string
}

variable "services" {
  description = "The names of the functions' Cloud Run services."
  type        = set(string)

  validation {
    condition     = length(var.services) > 0 && alltrue([for service in var.services : can(regex("^[a-z][a-z0-9-]*$", service))])
    error_message = "services must name at least one Cloud Run service, such as muster-client-api: a filter without one would match every service of the project."
  }
}

variable "forwarding_rule" {
  description = "The name of the load balancer's forwarding rule, whose log also holds addresses of clients; null if there is none."
  type        = string
  default     = null
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
    A copy of Muster's log and of the audit logs of its stores, such as to a bucket in another project; null makes none. Grant the output `writer` the right to write there.
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
