# A regional external Application Load Balancer before client_api: one address, one certificate, HTTPS alone, a limit for each
# address. Regional rather than global, since clients' updates then pass no server outside the deployment's region, TLS
# included; the anycast of a global one makes no difference to a device that uploads once an hour.

locals {
  labels = merge(var.labels, { component = "edge" })
  # Names in Compute Engine contain no project, and no one types these by hand.
  name = "${var.name}-edge"
}

# The load balancer's proxies are Envoys of the region, and need a separate subnet. Nothing else uses it, so
# no firewall rule admits traffic.
resource "google_compute_network" "edge" {
  project                 = var.project_id
  name                    = local.name
  auto_create_subnetworks = false
}

resource "google_compute_subnetwork" "proxies" {
  project       = var.project_id
  region        = var.region
  name          = "${local.name}-proxies"
  network       = google_compute_network.edge.id
  ip_cidr_range = var.proxy_cidr
  purpose       = "REGIONAL_MANAGED_PROXY"
  role          = "ACTIVE"
}

resource "google_compute_address" "edge" {
  project      = var.project_id
  region       = var.region
  name         = local.name
  address_type = "EXTERNAL"
  network_tier = "PREMIUM"
  labels       = local.labels
}

# A 2nd-gen function is a Cloud Run service, and is addressed as one.
resource "google_compute_region_network_endpoint_group" "client_api" {
  project               = var.project_id
  region                = var.region
  name                  = local.name
  network_endpoint_type = "SERVERLESS"

  cloud_run {
    service = var.service
  }
}

resource "google_compute_region_security_policy" "edge" {
  project     = var.project_id
  region      = var.region
  name        = local.name
  description = "A limit for each address; all else is let through to the client API, which checks every token itself"
  type        = "CLOUD_ARMOR"

  rules {
    priority    = 1000
    description = "At most ${var.rate_limit_per_minute} requests a minute from one address"
    action      = "throttle"

    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }

    rate_limit_options {
      conform_action = "allow"
      exceed_action  = "deny(429)"
      enforce_on_key = "IP"

      rate_limit_threshold {
        count        = var.rate_limit_per_minute
        interval_sec = 60
      }
    }
  }

  # The last rule, which every policy has: it refuses every request that no other rule matches.
  rules {
    priority    = 2147483647
    description = "Nothing comes past the limit"
    action      = "deny(403)"

    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }
}

resource "google_compute_region_backend_service" "client_api" {
  project               = var.project_id
  region                = var.region
  name                  = local.name
  protocol              = "HTTPS"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  security_policy       = google_compute_region_security_policy.edge.id

  backend {
    group           = google_compute_region_network_endpoint_group.client_api.id
    balancing_mode  = "UTILIZATION"
    capacity_scaler = 1.0
  }

  log_config {
    enable      = true
    sample_rate = 0.01
  }
}

resource "google_compute_region_url_map" "edge" {
  project         = var.project_id
  region          = var.region
  name            = local.name
  default_service = google_compute_region_backend_service.client_api.id
}

# A DNS record proves the ownership of the domain, so the certificate exists before the first client.
resource "google_certificate_manager_dns_authorization" "edge" {
  project  = var.project_id
  location = var.region
  name     = local.name
  domain   = var.domain
  type     = "PER_PROJECT_RECORD"
  labels   = local.labels
}

resource "google_certificate_manager_certificate" "edge" {
  project  = var.project_id
  location = var.region
  name     = local.name
  labels   = local.labels

  managed {
    domains            = [var.domain]
    dns_authorizations = [google_certificate_manager_dns_authorization.edge.id]
  }
}

resource "google_compute_region_ssl_policy" "edge" {
  project         = var.project_id
  region          = var.region
  name            = local.name
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"
}

resource "google_compute_region_target_https_proxy" "edge" {
  project                          = var.project_id
  region                           = var.region
  name                             = local.name
  url_map                          = google_compute_region_url_map.edge.id
  certificate_manager_certificates = [google_certificate_manager_certificate.edge.id]
  ssl_policy                       = google_compute_region_ssl_policy.edge.id
}

# Port 443 and no other: a client that speaks plain HTTP gets no answer, rather than a redirect after it has sent its token.
resource "google_compute_forwarding_rule" "https" {
  project               = var.project_id
  region                = var.region
  name                  = local.name
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_protocol           = "TCP"
  ip_address            = google_compute_address.edge.id
  port_range            = "443"
  network               = google_compute_network.edge.id
  network_tier          = "PREMIUM"
  target                = google_compute_region_target_https_proxy.edge.id
  labels                = local.labels

  depends_on = [google_compute_subnetwork.proxies]
}

resource "google_dns_record_set" "address" {
  count = var.dns_zone == null ? 0 : 1

  project      = var.project_id
  managed_zone = var.dns_zone
  name         = "${var.domain}."
  type         = "A"
  ttl          = 300
  rrdatas      = [google_compute_address.edge.address]
}

resource "google_dns_record_set" "authorization" {
  count = var.dns_zone == null ? 0 : 1

  project      = var.project_id
  managed_zone = var.dns_zone
  name         = google_certificate_manager_dns_authorization.edge.dns_resource_record[0].name
  type         = google_certificate_manager_dns_authorization.edge.dns_resource_record[0].type
  ttl          = 300
  rrdatas      = [google_certificate_manager_dns_authorization.edge.dns_resource_record[0].data]
}
