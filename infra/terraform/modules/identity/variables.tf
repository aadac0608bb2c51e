variable "project_id" {
  description = "The Google Cloud project."
  type        = string
}

variable "project_number" {
  description = "The project's number, which is part of the name of Cloud Functions' bucket of sources."
  type        = string

  validation {
    condition     = can(regex("^[0-9]+$", var.project_number))
    error_message = "project_number must be digits; `gcloud projects describe PROJECT --format 'value(projectNumber)'` prints it."
  }
}

variable "region" {
  description = "The region of functions, queue and images."
  type        = string
}

variable "name" {
  description = "Prefix of the ids of accounts and roles."
  type        = string
}

variable "access" {
  description = "Permissions of each function on blobs: function, store, prefix of names, actions. The project's own table is access.json, which a test compares with the code."
  type        = map(map(map(list(string))))

  validation {
    condition     = alltrue([for function in keys(var.access) : contains(["client_api", "operator_api", "aggregator", "committer"], function)])
    error_message = "access must be of client_api, operator_api, aggregator and committer."
  }

  validation {
    condition     = alltrue(flatten([for stores in values(var.access) : [for store in keys(stores) : contains(["updates", "partials", "blobs"], store)]]))
    error_message = "access must be to the stores updates, partials and blobs."
  }

  validation {
    condition = alltrue(flatten([for stores in values(var.access) : [for prefixes in values(stores) : [
      for prefix, actions in prefixes : can(regex("^[a-z]+/$", prefix)) && length(setsubtract(actions, ["create", "delete", "get", "list"])) == 0
    ]]]))
    error_message = "access: a prefix is a word and a slash, such as plans/, and an action is create, delete, get or list."
  }
}

variable "buckets" {
  description = "The buckets' names, by content: `updates`, `partials`, `blobs`, `sources`."
  type        = map(string)

  validation {
    condition     = length(setsubtract(["updates", "partials", "blobs", "sources"], keys(var.buckets))) == 0 && length(distinct(values(var.buckets))) == length(var.buckets)
    error_message = "buckets must have updates, partials, blobs and sources, each a separate bucket."
  }
}

variable "database" {
  description = "The Firestore database that the functions may use."
  type        = string
}

variable "audit_database" {
  description = "The Firestore database of the audit log and revoked enrolments, which the operator API may write; null if there is none besides `database`."
  type        = string
  default     = null
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

variable "queue" {
  description = "The Cloud Tasks queue that the functions enqueue work to."
  type        = string
}

variable "commits_queue" {
  description = "The Cloud Tasks queue of the committer's work, which the functions may enqueue to as well; null if there is one queue."
  type        = string
  default     = null
}

variable "secret" {
  description = "The id of the secret that holds the key ring, for the client API alone."
  type        = string
}

variable "repository" {
  description = "The Artifact Registry repository that builds write images to."
  type        = string
}
