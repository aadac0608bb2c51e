output "url" {
  description = "The address that clients call."
  value       = "https://${var.domain}"
}

output "address" {
  description = "The load balancer's IPv4 address."
  value       = google_compute_address.edge.address
}

output "dns_records" {
  description = "The records that the domain needs, where DNS is not in `dns_zone`: its address, and the one that authorizes the certificate."
  value = concat(
    [{ name = "${var.domain}.", type = "A", data = google_compute_address.edge.address }],
    [for record in google_certificate_manager_dns_authorization.edge.dns_resource_record : { name = record.name, type = record.type, data = record.data }],
  )
}

output "security_policy" {
  description = "The id of the Cloud Armor policy, to which you can add rules."
  value       = google_compute_region_security_policy.edge.id
}
