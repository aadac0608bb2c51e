variable "project_id" {
  description = "The project of the load balancer."
  type        = string
}

variable "region" {
  description = "The region of the client API. The load balancer is regional too: TLS ends, and updates stay, in the region."
  type        = string
}

variable "name" {
  description = "Prefix of the names of all resources of this module."
  type        = string
  default     = "muster"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,20}$", var.name))
    error_message = "name must start with a lower-case letter and have at most 21 lower-case letters, digits and hyphens."
  }
}

variable "labels" {
  description = "Labels of the resources that support them, in addition to `component`."
  type        = map(string)
  default     = {}
}

variable "domain" {
  description = "The domain that clients call, without a scheme: `fl.example.org`."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,63}$", var.domain))
    error_message = "domain must be a name such as fl.example.org: no scheme, no path, no wildcard."
  }
}

variable "service" {
  description = "The name of client_api's Cloud Run service."
  type        = string
}

variable "rate_limit_per_minute" {
  description = "Requests per minute and address; more are answered with 429. Clients behind one NAT share an address, such as those of a hospital, or thousands of a carrier."
  type        = number
  default     = 600

  validation {
    condition     = var.rate_limit_per_minute >= 10 && var.rate_limit_per_minute <= 1000000 && floor(var.rate_limit_per_minute) == var.rate_limit_per_minute
    error_message = "rate_limit_per_minute must be a whole number from 10 to 1000000."
  }
}

variable "proxy_cidr" {
  description = "Addresses of the load balancer's own proxies, in a separate network; at least a /26."
  type        = string
  default     = "10.129.0.0/23"

  validation {
    condition     = can(cidrhost(var.proxy_cidr, 0)) && try(tonumber(split("/", var.proxy_cidr)[1]) <= 26, false)
    error_message = "proxy_cidr must be an IPv4 range of at least 64 addresses, such as 10.129.0.0/23."
  }
}

variable "dns_zone" {
  description = "A Cloud DNS zone of this project for the domain's records; null if DNS is elsewhere (then see the output `dns_records`)."
  type        = string
  default     = null
}
