variable "project_id" {
  description = "The project that Muster is deployed to."
  type        = string
}

variable "region" {
  description = "The region of all resources: one of Cloud Tasks and, in a new project, of Cloud Build's short list, as this one is."
  type        = string
  default     = "europe-west1"
}

variable "operator" {
  description = "E-mail address of the operator: `you@example.org`."
  type        = string
}

variable "clients" {
  description = "Client identity: `enrolment:KEY`, with the key that `muster enrol key` prints, `oidc:…`, or `open` for trials, where it is self-asserted."
  type        = string
}

variable "allow_open_clients" {
  description = "Accept `open` clients: any caller on the internet can then join rounds, as any number of clients."
  type        = bool
  default     = false
}

variable "bundles" {
  description = "The folder of the bundles from `muster bundle`; `dist/bundles` of the checkout if null."
  type        = string
  default     = null
}
