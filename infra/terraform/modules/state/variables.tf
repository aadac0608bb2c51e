variable "project_id" {
  description = "The Google Cloud project."
  type        = string
}

variable "region" {
  description = "The region of the key ring's secret."
  type        = string
}

variable "location" {
  description = "Location of the buckets: a region, preferably the functions', or a multi-region such as `EU`."
  type        = string
}

variable "firestore_location" {
  description = "Location of the Firestore database: a region, or a multi-region such as `eur3`. It can't be changed later."
  type        = string
}

variable "name" {
  description = "Prefix of the names of all resources of this module. Bucket names also start with the project, since they are global."
  type        = string
}

variable "labels" {
  description = "Labels of all resources that support them."
  type        = map(string)
  default     = {}
}

variable "database" {
  description = "The Firestore database: a separate one, so that access to it is access to nothing else."
  type        = string

  validation {
    condition     = can(regex("^(\\(default\\)|[a-z][a-z0-9-]{2,61}[a-z0-9])$", var.database))
    error_message = "database must be (default), or 4 to 63 lower-case letters, digits and hyphens that start with a letter."
  }
}

variable "collections" {
  description = "Ids of the collections of documents, at any depth (`functions/muster_coordinator/domain/names.py`); none of them is indexed."
  type        = set(string)
  default     = ["audit", "checkins", "deleted", "enrolments", "holders", "keys", "populations", "requests", "rounds", "shards", "sweeps", "tasks", "tickets"]

  validation {
    condition     = length(var.collections) * 2 <= 200
    error_message = "collections: Firestore allows 200 exemptions in a database, and each collection takes two."
  }
}

variable "point_in_time_recovery" {
  description = "Store seven days of the documents' history, to read or restore the database as of any minute."
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
  description = "A second Firestore database, for the audit log and revoked enrolments alone; null stores them with all other documents. See the README before you set it for a live deployment."
  type        = string
  default     = null

  validation {
    condition     = var.audit_database == null || can(regex("^[a-z][a-z0-9-]{2,61}[a-z0-9]$", var.audit_database))
    error_message = "audit_database must be 4 to 63 lower-case letters, digits and hyphens that start with a letter, or null for no second database."
  }
}

variable "deletion_protection" {
  description = "Refuse to delete the databases and the secret."
  type        = bool
  default     = true
}

variable "force_destroy" {
  description = "Allow `terraform destroy` to delete buckets that are not empty."
  type        = bool
  default     = false
}

variable "longest_round_days" {
  description = "The longest `round_seconds` of the tasks, in days, rounded up: after so many days the bucket deletes an update, and 29 days later a partial."
  type        = number
  default     = 1

  validation {
    condition     = var.longest_round_days >= 1 && var.longest_round_days <= 31 && floor(var.longest_round_days) == var.longest_round_days
    error_message = "longest_round_days must be a whole number from 1 to 31: a round may last 30 days, and Cloud Storage counts whole ones."
  }
}

variable "blobs_soft_delete_days" {
  description = "Days in which a deleted plan, checkpoint or result can be restored. Updates and partials never can."
  type        = number
  default     = 7

  validation {
    condition     = var.blobs_soft_delete_days == 0 || (var.blobs_soft_delete_days >= 7 && var.blobs_soft_delete_days <= 90)
    error_message = "blobs_soft_delete_days must be 0, or 7 to 90."
  }
}

variable "signing_keys" {
  description = "Ids of the signing keys, newest first; the first signs, all verify. Put a new id in front, and remove the last one when everything that it signed has expired."
  type        = list(string)

  validation {
    condition     = length(var.signing_keys) > 0 && length(distinct(var.signing_keys)) == length(var.signing_keys) && alltrue([for id in var.signing_keys : can(regex("^[a-z0-9][a-z0-9_.-]{0,31}$", id))])
    error_message = "signing_keys must name at least one key, each once, by 1 to 32 of a-z, 0-9, '.', '_' and '-', such as k1 or 2026-03-01."
  }
}

variable "signing_keys_secret" {
  description = "A Secret Manager secret of this project whose newest version is the key ring, instead of keys created here, which Terraform's state holds."
  type        = string
  default     = null

  validation {
    condition     = var.signing_keys_secret == null || can(regex("^[A-Za-z0-9_-]{1,255}$", var.signing_keys_secret))
    error_message = "signing_keys_secret must be the id of a secret in this project, such as muster-keys, not a path."
  }
}

variable "kms_key" {
  description = "A Cloud KMS key that encrypts documents, blobs and the secret; Google's own if null."
  type        = string
  default     = null
}

variable "cors_origins" {
  description = "The origins whose pages may upload updates to the bucket by signed URLs."
  type        = set(string)
  default     = []
}
