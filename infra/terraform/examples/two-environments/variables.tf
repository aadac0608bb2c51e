variable "environment" {
  description = "`staging` or `production`."
  type        = string
  default     = "staging"

  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment must be staging or production."
  }
}

variable "project_id" {
  description = "The project of this environment."
  type        = string
}

variable "region" {
  description = "The region of all resources."
  type        = string
  default     = "europe-west1"
}

variable "operators" {
  description = "Role by e-mail address: `operator` creates tasks, `viewer` watches them."
  type        = map(string)
}

variable "clients" {
  description = "Client identity: `enrolment:KEY`, with the key that `muster enrol key` prints, or `oidc:https://issuer?audience=…`. Each environment has its own."
  type        = string

  validation {
    condition     = var.clients != "open"
    error_message = "clients must not be open: staging tests what production does, and both are on the internet."
  }
}

variable "trusted_signers" {
  description = "The public keys of plan signers, as `muster plan keygen` prints them; any plan is accepted if empty."
  type        = list(string)
  default     = []
}

variable "bundles" {
  description = "The folder of the bundles: `dist/bundles` of the checkout for staging, if null; for production the folder that the promoted bundles were copied to."
  type        = string
  default     = null
}

variable "bundle_digests" {
  description = "Staging's output `bundle_digests`: production refuses any other bundle."
  type        = map(string)
  default     = null

  validation {
    condition     = var.environment != "production" || var.bundle_digests != null || var.images != null
    error_message = "production needs bundle_digests, or images: pass staging's output, so that nothing is deployed that staging did not run."
  }
}

variable "images" {
  description = "The images of the functions by digest, in place of bundles: staging's output `images`."
  type        = map(string)
  default     = null
}
