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
  description = "Who creates tasks, as an IAM member: `user:you@example.org`."
  type        = string
}
