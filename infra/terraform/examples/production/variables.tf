variable "project_id" {
  description = "The project that Muster is deployed to."
  type        = string
}

variable "region" {
  description = "The region of all resources: one of Cloud Tasks and, in a new project, of Cloud Build's short list, as this one is."
  type        = string
  default     = "europe-west1"
}

variable "operators" {
  description = "Role by e-mail address: `operator` creates tasks, `viewer` watches them."
  type        = map(string)
}

variable "clients" {
  description = "Client identity: `enrolment:KEY`, with the key that `muster enrol key` prints, or `oidc:https://issuer?audience=…`."
  type        = string

  validation {
    condition     = var.clients != "open"
    error_message = "clients must not be open in production: one device could be a thousand."
  }
}

variable "trusted_signers" {
  description = "The public keys of plan signers, as `muster plan keygen` prints them."
  type        = list(string)

  validation {
    condition     = length(var.trusted_signers) > 0
    error_message = "trusted_signers must name a key: without one, any operator's plan runs on every device."
  }
}

variable "on_call" {
  description = "The e-mail address for alerts."
  type        = string
}

variable "domain" {
  description = "The domain that clients call: `fl.example.org`."
  type        = string
}

variable "dns_zone" {
  description = "The Cloud DNS zone of the project that holds the domain; null if DNS is elsewhere."
  type        = string
  default     = null
}

variable "kms_key" {
  description = "The Cloud KMS key, in the region, that encrypts all stored data: `projects/P/locations/L/keyRings/R/cryptoKeys/K`."
  type        = string
}

variable "vpc_connector" {
  description = "The Serverless VPC Access connector through which the functions reach private addresses: `projects/P/locations/L/connectors/C`, or null."
  type        = string
  default     = null
}

variable "budget" {
  description = "The billing account, and the amount in a month above which its administrators are notified."
  type = object({
    billing_account = string
    amount          = number
  })
}

variable "bundles" {
  description = "The folder of the bundles from `muster bundle`; `dist/bundles` of the checkout if null."
  type        = string
  default     = null
}
