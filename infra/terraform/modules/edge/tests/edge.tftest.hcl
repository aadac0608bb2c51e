# What must hold of the edge: HTTPS alone, a certificate for the domain, a limit for each address, and nothing let past it.

mock_provider "google" {
  mock_resource "google_certificate_manager_dns_authorization" {
    defaults = {
      dns_resource_record = [{ name = "_acme-challenge.fl.example.org.", type = "CNAME", data = "1234.authorize.certificatemanager.goog." }]
    }
  }

  mock_resource "google_compute_address" {
    defaults = {
      address = "203.0.113.7"
    }
  }
}

variables {
  project_id = "some-project"
  region     = "europe-west4"
  domain     = "fl.example.org"
  service    = "muster-client-api"
}

run "https_alone" {
  command = apply

  assert {
    condition     = google_compute_forwarding_rule.https.port_range == "443"
    error_message = "the load balancer must listen on port 443 alone"
  }
  assert {
    condition     = google_compute_region_ssl_policy.edge.min_tls_version == "TLS_1_2"
    error_message = "TLS below 1.2 must be refused"
  }
  assert {
    condition     = google_compute_region_target_https_proxy.edge.certificate_manager_certificates == tolist([google_certificate_manager_certificate.edge.id])
    error_message = "the proxy must serve the managed certificate"
  }
  assert {
    condition     = google_certificate_manager_certificate.edge.managed[0].domains == tolist(["fl.example.org"])
    error_message = "the certificate must be for the domain"
  }
  assert {
    condition     = google_compute_region_network_endpoint_group.client_api.cloud_run[0].service == "muster-client-api"
    error_message = "requests must go to client_api and nowhere else"
  }
  assert {
    condition     = output.dns_records == [{ name = "fl.example.org.", type = "A", data = "203.0.113.7" }, { name = "_acme-challenge.fl.example.org.", type = "CNAME", data = "1234.authorize.certificatemanager.goog." }]
    error_message = "the records that the domain needs must be told"
  }
  assert {
    condition     = length(google_dns_record_set.address) == 0 && output.url == "https://fl.example.org"
    error_message = "without a zone no record may be made"
  }
}

run "limit" {
  command = apply

  variables {
    rate_limit_per_minute = 120
  }

  assert {
    condition     = google_compute_region_backend_service.client_api.security_policy == google_compute_region_security_policy.edge.id
    error_message = "the policy must stand before client_api"
  }
  assert {
    condition = [for rule in google_compute_region_security_policy.edge.rules : [for limit in rule.rate_limit_options :
    [limit.enforce_on_key, limit.exceed_action, limit.rate_limit_threshold[0].count]] if rule.action == "throttle"] == [[["IP", "deny(429)", 120]]]
    error_message = "each address must be limited, and told so with 429"
  }
  assert {
    condition     = [for rule in google_compute_region_security_policy.edge.rules : rule.action if rule.priority == 2147483647] == ["deny(403)"]
    error_message = "the default rule must refuse what came past the limit"
  }
}

run "zone" {
  command = apply

  variables {
    dns_zone = "example-org"
  }

  assert {
    condition     = google_dns_record_set.address[0].name == "fl.example.org." && google_dns_record_set.address[0].rrdatas == tolist(["203.0.113.7"])
    error_message = "the domain's record must hold the load balancer's address"
  }
  assert {
    condition     = google_dns_record_set.authorization[0].name == "_acme-challenge.fl.example.org."
    error_message = "the record that shows the domain to be yours must be made"
  }
}

run "refuses_a_url_for_a_domain" {
  command = plan

  variables {
    domain = "https://fl.example.org/"
  }

  expect_failures = [var.domain]
}
