# Everything that outlives a request: documents in Firestore, blobs in three buckets, the bundles that are deployed, and the
# key ring that signs clients' tokens.

locals {
  # Lifetimes in days. Muster deletes its data itself; the rules only delete what it could not.
  buckets = {
    updates  = { delete_after = var.longest_round_days, soft_delete_days = 0 }
    partials = { delete_after = var.longest_round_days + 29, soft_delete_days = 0 } # a paused round keeps its partials
    blobs    = { delete_after = null, soft_delete_days = var.blobs_soft_delete_days }
    sources  = { delete_after = null, soft_delete_days = 0 }
  }

  # Each document is {data, write} (functions/muster_coordinator/adapters/firestore.py), and an exemption for a map covers all in it.
  exemptions = { for pair in setproduct(var.collections, ["data", "write"]) : "${pair[0]}.${pair[1]}" => {
    collection = pair[0]
    field      = pair[1]
  } }

  # Collections of the separate database for audit entries and enrolments, if there is one. Those of the main database stay exempt:
  # it holds what was written before the split.
  audit_exemptions = { for key, exemption in local.exemptions : key => exemption if var.audit_database != null && contains(["audit", "enrolments"], exemption.collection) }
}

resource "google_firestore_database" "documents" {
  project                           = var.project_id
  name                              = var.database
  location_id                       = var.firestore_location
  type                              = "FIRESTORE_NATIVE"
  concurrency_mode                  = "PESSIMISTIC"
  point_in_time_recovery_enablement = var.point_in_time_recovery ? "POINT_IN_TIME_RECOVERY_ENABLED" : "POINT_IN_TIME_RECOVERY_DISABLED"
  delete_protection_state           = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"

  # Otherwise `terraform destroy` would remove the database from the state and leave it. Firestore refuses to delete a protected one.
  deletion_policy = "DELETE"

  dynamic "cmek_config" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      kms_key_name = cmek_config.value
    }
  }
}

# Documents are only read or listed by name. An index costs a write with each write, and one over rising values limits a
# collection to 500 writes a second. By field, not `*`: the provider's open issue 19598.
# No TTL policy either: it deletes within about a day, which is too late for personal data.
resource "google_firestore_field" "unindexed" {
  for_each = local.exemptions

  project    = var.project_id
  database   = google_firestore_database.documents.name
  collection = each.value.collection
  field      = each.value.field

  index_config {}

  # A destroyed exemption indexes the field again, which is a long operation over the whole database. A restore points these resources
  # to another database, and must leave the old one as it is.
  deletion_policy = "ABANDON"
}

# Point-in-time recovery needs the database; a backup outlives it.
resource "google_firestore_backup_schedule" "documents" {
  count = var.backup_retention_days == 0 ? 0 : 1

  project   = var.project_id
  database  = google_firestore_database.documents.name
  retention = "${var.backup_retention_days * 86400}s"

  daily_recurrence {}
}

# Audit entries and enrolments in a separate database: Firestore has no permissions by collection, and a function that may write
# documents of rounds must not rewrite the audit log.
resource "google_firestore_database" "audit" {
  count = var.audit_database == null ? 0 : 1

  project                           = var.project_id
  name                              = var.audit_database
  location_id                       = var.firestore_location
  type                              = "FIRESTORE_NATIVE"
  concurrency_mode                  = "PESSIMISTIC"
  point_in_time_recovery_enablement = var.point_in_time_recovery ? "POINT_IN_TIME_RECOVERY_ENABLED" : "POINT_IN_TIME_RECOVERY_DISABLED"
  delete_protection_state           = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy                   = "DELETE" # as for the documents

  dynamic "cmek_config" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      kms_key_name = cmek_config.value
    }
  }

  lifecycle {
    precondition {
      condition     = var.audit_database != var.database
      error_message = "audit_database is the database of all other documents too. Name another one, such as muster-audit, or null for no second database."
    }
  }
}

resource "google_firestore_field" "audit_unindexed" {
  for_each = local.audit_exemptions

  project    = var.project_id
  database   = google_firestore_database.audit[0].name
  collection = each.value.collection
  field      = each.value.field

  index_config {}

  deletion_policy = "ABANDON" # as for the documents
}

resource "google_firestore_backup_schedule" "audit" {
  count = var.audit_database == null || var.backup_retention_days == 0 ? 0 : 1

  project   = var.project_id
  database  = google_firestore_database.audit[0].name
  retention = "${var.backup_retention_days * 86400}s"

  daily_recurrence {}
}

resource "google_storage_bucket" "this" {
  for_each = local.buckets

  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-${each.key}"
  location                    = var.location
  storage_class               = "STANDARD"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.force_destroy
  labels                      = var.labels

  versioning {
    enabled = false
  }

  # On by default, for seven days: it would retain single updates that were folded and deleted long ago.
  soft_delete_policy {
    retention_duration_seconds = each.value.soft_delete_days * 86400
  }

  dynamic "lifecycle_rule" {
    for_each = each.value.delete_after == null ? [] : [each.value.delete_after]
    content {
      action {
        type = "Delete"
      }
      condition {
        age        = lifecycle_rule.value
        with_state = "ANY"
      }
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }

  # A page with an assignment uploads a large update here itself, by a URL that client_api signed. It reads nothing.
  dynamic "cors" {
    for_each = each.key == "updates" && length(var.cors_origins) > 0 ? [var.cors_origins] : []
    content {
      origin          = cors.value
      method          = ["PUT", "DELETE"]
      response_header = ["Content-Type", "Content-Range", "Range", "x-goog-content-length-range", "x-goog-hash", "x-goog-if-generation-match"]
      max_age_seconds = 3600
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }
}

# The key ring `id:hex,id:hex`, newest first: the first key signs, all verify.
resource "random_bytes" "signing" {
  for_each = toset(var.signing_keys_secret == null ? var.signing_keys : [])

  length = 32
}

resource "google_secret_manager_secret" "signing" {
  count = var.signing_keys_secret == null ? 1 : 0

  project             = var.project_id
  secret_id           = "${var.name}-signing-keys"
  labels              = var.labels
  deletion_protection = var.deletion_protection

  replication {
    user_managed {
      replicas {
        location = var.region

        dynamic "customer_managed_encryption" {
          for_each = var.kms_key == null ? [] : [var.kms_key]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }
}

resource "google_secret_manager_secret_version" "signing" {
  count = var.signing_keys_secret == null ? 1 : 0

  secret      = google_secret_manager_secret.signing[0].id
  secret_data = join(",", [for id in var.signing_keys : "${id}:${random_bytes.signing[id].hex}"])

  # The old version is destroyed only when the function runs with the new one: an instance that starts meanwhile still reads it.
  lifecycle {
    create_before_destroy = true
  }
}

# The images that Cloud Build makes of the bundles. A separate repository, since the functions' default one is shared with
# all other deployments of the project.
resource "google_artifact_registry_repository" "images" {
  project       = var.project_id
  location      = var.region
  repository_id = var.name
  description   = "Images of Muster's functions, made by Cloud Build."
  format        = "DOCKER"
  labels        = var.labels
  kms_key_name  = var.kms_key

  cleanup_policies {
    id     = "keep-the-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 10
    }
  }

  cleanup_policies {
    id     = "delete-the-old"
    action = "DELETE"
    condition {
      older_than = "2592000s" # 30 days
    }
  }
}
