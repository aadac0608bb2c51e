variable "project_id" {
  description = "The project that Muster is deployed to."
  type        = string
}

variable "region" {
  description = "The region of all resources."
  type        = string
  default     = "us-central1"
}

variable "operator" {
  description = "E-mail address of the operator: `you@example.org`."
  type        = string
}

variable "clients" {
  description = "Client identity: `enrolment:KEY`, `oidc:…`, or `open` for trials, where it is self-asserted."
  type        = string
  default     = "open"
}
