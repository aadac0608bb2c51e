output "client_url" {
  description = "The `--url` of clients."
  value       = local.client_url
}

output "operator_url" {
  description = "The `--url` of operators; Cloud Run and Muster require an identity token of one of `operators`."
  value       = local.urls["operator_api"]
}

output "services" {
  description = "The names of the functions, which are those of their Cloud Run services, by function."
  value       = module.functions.services
}

output "accounts" {
  description = "The functions' service accounts, by function."
  value       = module.identity.accounts
}

output "invoker" {
  description = "The service account with which Cloud Tasks and Cloud Scheduler call the internal routes."
  value       = module.identity.invoker
}

output "buckets" {
  description = "The buckets, by content: `updates`, `partials`, `blobs`, `sources`."
  value       = module.state.buckets
}

output "database" {
  description = "The Firestore database."
  value       = module.state.database
}

output "audit_database" {
  description = "The Firestore database of the audit log and revoked enrolments; null if they are in `database`."
  value       = module.state.audit_database
}

output "commits_queue" {
  description = "The Cloud Tasks queue of the committer's work."
  value       = module.queue.commits
}

output "log_sink_writer" {
  description = "The member that writes to `log_sink`: grant it the role to do so; null without a sink."
  value       = module.logging.writer
}

output "queue" {
  description = "The Cloud Tasks queue of the aggregator's work."
  value       = module.queue.name
}

output "tick" {
  description = "The Cloud Scheduler job that ticks."
  value       = module.queue.tick
}

output "secret" {
  description = "The id of the Secret Manager secret that holds the key ring."
  value       = module.state.secret.id
}

output "bundles" {
  description = "The names of the deployed bundles' objects, by function; the hash in a name is the bundle's SHA-256."
  value       = module.functions.bundles
}

output "bundle_digests" {
  description = "The SHA-256 of each function's deployed bundle, for `bundle_digests` of another environment; empty with `images`."
  value       = module.functions.bundle_digests
}

output "images" {
  description = "The images of the functions, for `images` of another environment; empty if they are built from bundles."
  value       = var.images == null ? {} : var.images
}

output "quota" {
  description = "The CPUs and GiB of memory that each function takes at most: Cloud Run compares them with the region's quotas `CpuAllocPerProjectRegion` and `MemAllocPerProjectRegion`, 20 CPUs and 40 GiB in a new project."
  value       = local.quota
}

output "open_to_all" {
  description = "Whether any caller may join rounds as any number of clients: `clients` is open, and the client API public."
  value       = local.open_to_all
}

output "accepts_gcloud_tokens" {
  description = "Whether the operator API accepts tokens that are made for gcloud itself."
  value       = var.accept_gcloud_tokens
}

output "smoke" {
  description = "A command, for a checkout, that runs one real round with two clients and reports each step."
  value       = "make smoke URL=${local.client_url} OPERATOR_URL=${local.urls["operator_api"]}"
}

output "dns_records" {
  description = "The records that the domain needs, where its DNS is not in the project; empty without a domain."
  value       = var.domain == null ? [] : module.edge[0].dns_records
}

output "dashboard" {
  description = "The id of the dashboard in Cloud Monitoring."
  value       = module.monitoring.dashboard
}
