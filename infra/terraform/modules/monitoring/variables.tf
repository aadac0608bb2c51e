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

variable "region" {
  description = "The region of functions, queues and the scheduler's job, for the commands in the instructions of alerts: gcloud has no default for it."
  type        = string
}

variable "queues" {
  description = "The ids of the Cloud Tasks queues. Alert and dashboard show each by itself."
  type        = list(string)

  validation {
    condition     = length(var.queues) > 0 && alltrue([for queue in var.queues : can(regex("^[A-Za-z0-9-]+$", queue))])
    error_message = "queues must name at least one queue, each by its id (letters, digits and hyphens) and not by its full name `projects/…`."
  }
}

variable "tick" {
  description = "The name of the Cloud Scheduler job that calls the aggregator's `/internal/tick`. An alert watches its attempts."
  type        = string
}

variable "health_url" {
  description = <<-EOT
    The base URL of client_api, as `https://fl.example.org`, for an uptime check of its `/health` from outside Google Cloud every five minutes; null makes none.
    Set it where the service is public: the check carries no token, so that Cloud Run would refuse it at a private service.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.health_url == null || can(regex("^https://[^/:]+$", var.health_url))
    error_message = "health_url must be https:// and a host, without a port and a path: the check asks port 443 for /health."
  }
}

variable "data_access_logs" {
  description = <<-EOT
    Whether the project writes Data Access audit logs of Cloud Storage (`DATA_READ`). If so, an alert says when an account other than `aggregator_account` reads an
    object of the bucket of updates. Off by default: without those logs there is nothing to watch.
  EOT
  type        = bool
  default     = false
  nullable    = false
}

variable "aggregator_account" {
  description = "The e-mail address of the aggregator's service account, the only one that reads updates; needed with `data_access_logs`."
  type        = string
  default     = null
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

  validation {
    condition     = var.objectives.check_in_availability >= 0.95 && var.objectives.check_in_availability < 1
    error_message = "objectives.check_in_availability must be at least 0.95 and below 1: at a lower objective no share of errors spends the budget 14.4 times too fast."
  }

  validation {
    condition     = var.objectives.rounds_in_time >= 0.9 && var.objectives.rounds_in_time < 1
    error_message = "objectives.rounds_in_time must be at least 0.9 and below 1: at a lower objective hardly any share of slow rounds spends the budget 6 times too fast."
  }

  validation {
    condition     = var.objectives.round_seconds > 0 && contains(range(1, 31), var.objectives.rolling_days)
    error_message = "objectives.round_seconds must be above 0, and objectives.rolling_days a whole number from 1 to 30."
  }
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
    - `error_requests`: a function with fewer requests in five minutes raises that alert only if every one fails, since one error among ten requests is no sign. It is also the least number in an hour for the alert on check-ins' error budget.
    - `refused_updates`: refused updates in ten minutes, late clients not counted.
    - `queue_depth`: pieces of work that wait in the queue for ten minutes.
    - `update_age_seconds`: the age of the oldest single update. Raise it above the longest `round_seconds` of your tasks.
    - `tick_silent_seconds`: the time without a finished tick, which should run every minute.
  EOT
  type = object({
    round_stuck_seconds = optional(number, 900)
    abandon_rate        = optional(number, 0.3)
    error_rate          = optional(number, 0.02)
    error_requests      = optional(number, 50)
    refused_updates     = optional(number, 20)
    queue_depth         = optional(number, 1000)
    update_age_seconds  = optional(number, 3600)
    tick_silent_seconds = optional(number, 600)
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

  validation {
    condition     = var.thresholds.tick_silent_seconds >= 600 && var.thresholds.tick_silent_seconds % 60 == 0
    error_message = "tick_silent_seconds must be whole minutes and 600 or more: points of a metric arrive some minutes late, and a new deployment has none."
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
