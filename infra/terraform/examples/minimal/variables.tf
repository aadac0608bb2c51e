variable "project_id" {
  description = "The project that Muster is put into."
  type        = string
}

variable "region" {
  description = "The region of everything."
  type        = string
  default     = "us-central1"
}

variable "operator" {
  description = "Who creates tasks, by e-mail address: `you@example.org`."
  type        = string
}

variable "clients" {
  description = "How clients show who they are: `enrolment:KEY`, `oidc:…`, or `open`, to try it out: each is who it says."
  type        = string
  default     = "open"
}
