variable "project_id" {
  description = "The monitored project, which also holds alerts, metrics and dashboard."
  type        = string
}

variable "project_number" {
  description = "The project's number, which a budget needs."
  type        = string

  validation {
    condition     = can(regex("^[0-9]+$", var.project_number))
    error_message = "project_number must be digits; `gcloud projects describe PROJECT --format 'value(projectNumber)'` prints it."
  }
}

variable "name" {
  description = "Prefix of the names of all resources of this module."
  type        = string
  default     = "muster"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,20}$", var.name))
    error_message = "name must start with a lower-case letter and have at most 21 lower-case letters, digits and hyphens."
  }
}

variable "labels" {
  description = "Labels of the alert policies, in addition to `component`."
  type        = map(string)
  default     = {}
}

variable "notification_channels" {
  description = "Ids of the notification channels of alerts, as `projects/P/notificationChannels/N`. Without any, incidents show in the console only."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for channel in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", channel))])
    error_message = "Each of notification_channels must look like projects/PROJECT/notificationChannels/NUMBER."
  }
}

variable "services" {
  description = "The Cloud Run service of each function: `client_api`, `operator_api`, `aggregator` and `committer`."
  type        = map(string)

  validation {
    condition     = toset(keys(var.services)) == toset(["client_api", "operator_api", "aggregator", "committer"])
    error_message = "services must name the four functions client_api, operator_api, aggregator and committer."
  }
}

variable "queue" {
  description = "The id of the Cloud Tasks queue."
  type        = string
}

variable "buckets" {
  description = "Names of the buckets, by content: `updates`, `partials` and `blobs`."
  type        = map(string)
}

variable "firestore_database" {
  description = "The id of the Firestore database."
  type        = string
}

variable "thresholds" {
  description = <<-EOT
    When alerts fire:
    - `round_stuck_seconds`: a round that should have advanced so long ago is stuck.
    - `abandon_rate`: the share of ended rounds, over an hour, that were abandoned below their minimum.
    - `error_rate`: the share of a function's requests, over five minutes, answered with 5xx.
    - `refused_updates`: refused updates in ten minutes, late clients not counted.
    - `queue_depth`: pieces of work that wait in the queue for ten minutes.
    - `update_age_seconds`: the age of the oldest single update. Raise it above the longest `round_seconds` of your tasks.
  EOT
  type = object({
    round_stuck_seconds = optional(number, 900)
    abandon_rate        = optional(number, 0.3)
    error_rate          = optional(number, 0.02)
    refused_updates     = optional(number, 20)
    queue_depth         = optional(number, 1000)
    update_age_seconds  = optional(number, 3600)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for threshold in values(var.thresholds) : threshold > 0])
    error_message = "Each of thresholds must be above 0."
  }

  validation {
    condition     = var.thresholds.abandon_rate <= 1 && var.thresholds.error_rate <= 1
    error_message = "abandon_rate and error_rate are fractions: at most 1."
  }

  validation {
    condition     = var.thresholds.round_stuck_seconds >= 180
    error_message = "round_stuck_seconds must be 180 or more: the coordinator logs rounds from two minutes after their due time on."
  }
}

variable "budget" {
  description = <<-EOT
    A monthly budget of the project; null creates none.
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

  validation {
    condition     = var.budget == null || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.budget.billing_account))
    error_message = "budget.billing_account must look like 012345-6789AB-CDEF01."
  }

  validation {
    condition     = var.budget == null || try(var.budget.amount >= 1 && floor(var.budget.amount) == var.budget.amount, false)
    error_message = "budget.amount must be a whole number of at least 1."
  }
}
