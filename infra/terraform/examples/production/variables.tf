variable "project_id" {
  description = "The project that Muster is put into."
  type        = string
}

variable "region" {
  description = "The region of everything."
  type        = string
  default     = "europe-west4"
}

variable "operators" {
  description = "Who creates and watches tasks, as IAM members: `group:fl-operators@example.org`."
  type        = set(string)
}

variable "on_call" {
  description = "The e-mail address that alerts go to."
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
  description = "The Cloud KMS key, in the region, that everything kept is encrypted with: `projects/P/locations/L/keyRings/R/cryptoKeys/K`."
  type        = string
}

variable "vpc_connector" {
  description = "The Serverless VPC Access connector through which the functions reach private addresses: `projects/P/locations/L/connectors/C`."
  type        = string
}

variable "budget" {
  description = "The billing account, and the amount in a month above which its administrators are told."
  type = object({
    billing_account = string
    amount          = number
  })
}
