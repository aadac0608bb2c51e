variable "project_id" {
  description = "The project that the pipeline deploys Muster to."
  type        = string
}

variable "region" {
  description = "The region of the bucket for Terraform's state."
  type        = string
  default     = "europe-west1"
}

variable "name" {
  description = "Prefix of the names of the pool, the accounts and the bucket. It may equal the deployment's `name`."
  type        = string
  default     = "muster"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,14}[a-z0-9]$", var.name))
    error_message = "name must be 4 to 16 lower-case letters, digits and hyphens, and start with a letter: ids of service accounts have 30 characters at most."
  }
}

variable "repository" {
  description = "The GitHub repository whose workflows deploy, as `owner/name`."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$", var.repository))
    error_message = "repository must be owner/name, such as example/federation: not a URL."
  }
}

variable "repository_id" {
  description = "The numeric id of that repository (`gh api repos/OWNER/NAME --jq .id`). A name can be taken over by another owner after a deletion or a rename, an id can't."
  type        = string

  validation {
    condition     = can(regex("^[0-9]+$", var.repository_id))
    error_message = "repository_id must be digits; `gh api repos/OWNER/NAME --jq .id` prints it."
  }
}

variable "branch" {
  description = "The branch whose workflows may apply. Workflows of pull requests may only plan."
  type        = string
  default     = "main"

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._/-]*$", var.branch))
    error_message = "branch must be a branch's name, such as main: without refs/heads/, and without wildcards."
  }
}

variable "environment" {
  description = "The GitHub environment of the apply job. Give it required reviewers: they approve the plan that is applied."
  type        = string
  default     = "production"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]+$", var.environment))
    error_message = "environment must be letters, digits, '_' and '-': other names can't be compared safely."
  }
}

variable "further_roles" {
  description = "Further project roles of the deployer, for what your deployment uses: with a `domain` `roles/compute.admin` and `roles/certificatemanager.owner`, with a `dns_zone` `roles/dns.admin`, with a `kms_key` in this project `roles/cloudkms.admin`."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for role in var.further_roles : can(regex("^(roles/|projects/[^/]+/roles/|organizations/[^/]+/roles/).+", role)) && !contains(["roles/owner", "roles/editor"], role)])
    error_message = "further_roles must be roles such as roles/compute.admin, and neither roles/owner nor roles/editor: they hold far more than a deployment needs."
  }
}

variable "state_users" {
  description = "Further members who may read and write Terraform's state, such as `user:me@example.org`, for an apply by hand in an emergency. All others lose the access that a new bucket grants by default."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for member in var.state_users : can(regex("^(user|group|serviceAccount):.+", member))])
    error_message = "state_users must be IAM members such as user:me@example.org, never allUsers or a whole domain: the state may hold keys."
  }
}
