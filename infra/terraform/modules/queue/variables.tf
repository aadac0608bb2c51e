variable "project_id" {
  description = "The Google Cloud project."
  type        = string
}

variable "region" {
  description = "The region of the queue and of the scheduler's job."
  type        = string
}

variable "name" {
  description = "The queue's name; the committer's queue adds `-commits`. Once deleted, a name is taken for three days."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9-]{1,92}$", var.name))
    error_message = "name must be 1 to 92 letters, digits and hyphens: a queue's name has 100 at most, and the committer's queue adds -commits."
  }
}

variable "aggregator_url" {
  description = "The aggregator's base URL, and the audience of the tick's token."
  type        = string

  validation {
    condition     = can(regex("^https://[^/]+$", var.aggregator_url))
    error_message = "aggregator_url must be https:// and a host, without a path."
  }
}

variable "invoker" {
  description = "The e-mail address of the service account whose token the tick carries."
  type        = string
}

variable "rates" {
  description = "Rates of the aggregator's queue: deliveries per second, and concurrent deliveries; of the latter as many as the aggregator can process together. Work that instances of an earlier version enqueue for the committer also comes by this queue."
  type = object({
    dispatches_per_second = optional(number, 100)
    concurrent_dispatches = optional(number, 100)
  })
  default = {}

  validation {
    condition     = var.rates.dispatches_per_second > 0 && var.rates.dispatches_per_second <= 500
    error_message = "rates.dispatches_per_second must be above 0 and at most 500, the limit of a queue."
  }

  validation {
    condition     = var.rates.concurrent_dispatches >= 1 && var.rates.concurrent_dispatches <= 5000
    error_message = "rates.concurrent_dispatches must be from 1 to 5000."
  }
}

variable "commit_rates" {
  description = "Rates of the committer's queue: deliveries per second, and concurrent deliveries; of the latter `max_instances` × `concurrency` of the committer, so that no delivery meets a full one. The default fits the committer's, 10 × 1."
  type = object({
    dispatches_per_second = optional(number, 100)
    concurrent_dispatches = optional(number, 10)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.commit_rates.dispatches_per_second > 0 && var.commit_rates.dispatches_per_second <= 500
    error_message = "commit_rates.dispatches_per_second must be above 0 and at most 500, the limit of a queue."
  }

  validation {
    condition     = var.commit_rates.concurrent_dispatches >= 1 && var.commit_rates.concurrent_dispatches <= 5000
    error_message = "commit_rates.concurrent_dispatches must be from 1 to 5000."
  }
}

variable "retries" {
  description = "Back-off of failed deliveries: first and longest wait in seconds, and the number of doublings between."
  type = object({
    min_backoff_seconds = optional(number, 1)
    max_backoff_seconds = optional(number, 60)
    max_doublings       = optional(number, 6)
  })
  default = {}

  validation {
    condition     = var.retries.min_backoff_seconds > 0 && var.retries.min_backoff_seconds <= var.retries.max_backoff_seconds
    error_message = "retries.min_backoff_seconds must be above 0 and at most max_backoff_seconds."
  }
}

variable "tick_deadline_seconds" {
  description = "Time limit of a tick."
  type        = number
  default     = 180

  validation {
    condition     = var.tick_deadline_seconds >= 15 && var.tick_deadline_seconds <= 1800
    error_message = "tick_deadline_seconds must be from 15 to 1800."
  }
}

variable "log_sampling" {
  description = "Fraction of deliveries that Cloud Tasks logs, from 0 to 1."
  type        = number
  default     = 0.1

  validation {
    condition     = var.log_sampling >= 0 && var.log_sampling <= 1
    error_message = "log_sampling must be from 0 to 1."
  }
}
