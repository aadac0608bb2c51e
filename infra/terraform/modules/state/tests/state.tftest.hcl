# What the stores must hold to: nothing of an update stays, nothing is public, no index, and the newest key signs.

mock_provider "google" {}
mock_provider "random" {
  override_resource {
    target = random_bytes.signing["new"]
    values = { hex = "aa" }
  }
  override_resource {
    target = random_bytes.signing["old"]
    values = { hex = "bb" }
  }
}

variables {
  project_id         = "a-project"
  region             = "europe-west1"
  location           = "europe-west1"
  firestore_location = "europe-west1"
  name               = "muster"
  database           = "muster"
  signing_keys       = ["new", "old"]
}

# Applied, to the mocks, so that the keys are known.
run "by_default" {
  command = apply

  assert {
    condition     = toset(keys(google_storage_bucket.this)) == toset(["updates", "partials", "blobs", "sources"])
    error_message = "Updates, partials, blobs and sources are to be in buckets of their own."
  }
  assert {
    condition     = google_storage_bucket.this["updates"].soft_delete_policy[0].retention_duration_seconds == 0
    error_message = "A deleted update must be gone: soft delete of its bucket must be 0."
  }
  assert {
    condition     = google_storage_bucket.this["partials"].soft_delete_policy[0].retention_duration_seconds == 0
    error_message = "A deleted partial must be gone: soft delete of its bucket must be 0."
  }
  assert {
    condition     = google_storage_bucket.this["blobs"].soft_delete_policy[0].retention_duration_seconds == 7 * 86400
    error_message = "A deleted checkpoint is to be there for 7 days."
  }
  assert {
    condition     = alltrue([for bucket in google_storage_bucket.this : bucket.versioning[0].enabled == false])
    error_message = "Versioning would keep what was deleted: it must be off."
  }
  assert {
    condition     = alltrue([for bucket in google_storage_bucket.this : bucket.public_access_prevention == "enforced"])
    error_message = "Public access prevention must be enforced on every bucket, not inherited."
  }
  assert {
    condition     = alltrue([for bucket in google_storage_bucket.this : bucket.uniform_bucket_level_access == true])
    error_message = "Every bucket must have uniform access: an object's own list of access would go past IAM."
  }
  assert {
    condition     = [for rule in google_storage_bucket.this["updates"].lifecycle_rule : rule.condition[0].age if rule.action[0].type == "Delete"] == [1]
    error_message = "As a backstop, updates must be deleted after a day."
  }
  assert {
    condition     = [for rule in google_storage_bucket.this["partials"].lifecycle_rule : rule.condition[0].age if rule.action[0].type == "Delete"] == [30]
    error_message = "As a backstop, partials must be deleted after 30 days."
  }
  assert {
    condition     = length([for rule in google_storage_bucket.this["blobs"].lifecycle_rule : rule if rule.action[0].type == "Delete"]) == 0
    error_message = "No rule may delete plans, checkpoints and results."
  }
  assert {
    condition     = alltrue([for bucket in google_storage_bucket.this : !bucket.force_destroy]) && google_firestore_database.documents.delete_protection_state == "DELETE_PROTECTION_ENABLED"
    error_message = "Data must be protected from a destroy by default."
  }
  assert {
    condition     = google_firestore_database.documents.type == "FIRESTORE_NATIVE" && google_firestore_database.documents.point_in_time_recovery_enablement == "POINT_IN_TIME_RECOVERY_ENABLED"
    error_message = "The database must be in native mode, and can be restored to any minute by default."
  }
  assert {
    condition     = alltrue(flatten([for collection in ["tasks", "rounds", "tickets", "shards", "keys", "holders", "sweeps", "populations", "requests", "deleted", "checkins", "audit"] : [for field in ["data", "write"] : length(google_firestore_field.unindexed["${collection}.${field}"].index_config[0].indexes) == 0]]))
    error_message = "Both fields of every document must be exempt from indexes."
  }
  assert {
    condition     = alltrue([for field in google_firestore_field.unindexed : length(field.ttl_config) == 0])
    error_message = "No TTL: it deletes within a day or so, which is too late for privacy and too early for a round."
  }
  assert {
    condition     = alltrue([for field in google_firestore_field.unindexed : field.deletion_policy == "ABANDON"])
    error_message = "No exemption may be undone in a database that is left behind: it would be indexed again."
  }
  assert {
    condition     = google_firestore_backup_schedule.documents[0].retention == "1209600s" && length(google_firestore_backup_schedule.documents[0].daily_recurrence) == 1 && google_firestore_backup_schedule.documents[0].database == "muster"
    error_message = "By default the documents must have a daily backup that is stored for 14 days."
  }
  assert {
    condition     = length(google_firestore_database.audit) == 0 && length(google_firestore_field.audit_unindexed) == 0 && length(google_firestore_backup_schedule.audit) == 0 && output.audit_database == null
    error_message = "A deployment that does not ask for a second database must not get one."
  }
  assert {
    condition     = alltrue([for bucket in google_storage_bucket.this : length(bucket.cors) == 0])
    error_message = "Unless origins are named, no page may do anything with a bucket."
  }
  assert {
    condition     = google_secret_manager_secret_version.signing[0].secret_data == "new:aa,old:bb"
    error_message = "The key ring must have the newest key first: the first signs."
  }
  assert {
    condition     = alltrue([for key in random_bytes.signing : key.length == 32])
    error_message = "A signing key must have 32 bytes."
  }
}

run "with_keys_and_secret_of_ones_own" {
  command = plan

  variables {
    kms_key             = "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
    signing_keys_secret = "my-keys"
    deletion_protection = false
    force_destroy       = true
    cors_origins        = ["https://app.example"]
    longest_round_days  = 30
  }

  assert {
    condition     = [for kind in ["updates", "partials"] : [for rule in google_storage_bucket.this[kind].lifecycle_rule : rule.condition[0].age if rule.action[0].type == "Delete"]] == [[30], [59]]
    error_message = "No update and no partial of a round that still collects may be deleted by age."
  }

  assert {
    condition     = [for kind, bucket in google_storage_bucket.this : kind if length(bucket.cors) > 0] == ["updates"] && toset(google_storage_bucket.this["updates"].cors[0].origin) == toset(["https://app.example"]) && google_storage_bucket.this["updates"].cors[0].method == tolist(["PUT", "DELETE"])
    error_message = "Pages of the named origins may put updates, and read nothing."
  }

  assert {
    condition     = length(random_bytes.signing) == 0 && length(google_secret_manager_secret.signing) == 0 && length(google_secret_manager_secret_version.signing) == 0
    error_message = "With a secret of one's own, Terraform must make no key: its state would hold it."
  }
  assert {
    condition     = output.secret == { id = "my-keys", version = "latest" }
    error_message = "The client API must read the secret that was given."
  }
  assert {
    condition     = alltrue([for bucket in google_storage_bucket.this : bucket.encryption[0].default_kms_key_name == var.kms_key]) && google_firestore_database.documents.cmek_config[0].kms_key_name == var.kms_key && google_artifact_registry_repository.images.kms_key_name == var.kms_key
    error_message = "The key that was given must encrypt documents, blobs and images."
  }
  assert {
    condition     = google_storage_bucket.this["updates"].soft_delete_policy[0].retention_duration_seconds == 0
    error_message = "A deleted update must be gone, whatever is set."
  }
}

run "with_a_separate_audit_database" {
  command = plan

  variables {
    audit_database = "muster-audit"
    kms_key        = "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
  }

  assert {
    condition     = output.audit_database == "muster-audit" && google_firestore_database.audit[0].type == "FIRESTORE_NATIVE" && google_firestore_database.audit[0].location_id == "europe-west1"
    error_message = "The audit log must be in a database of its own, in the location of the documents."
  }
  assert {
    condition     = google_firestore_database.audit[0].delete_protection_state == "DELETE_PROTECTION_ENABLED" && google_firestore_database.audit[0].point_in_time_recovery_enablement == "POINT_IN_TIME_RECOVERY_ENABLED" && google_firestore_database.audit[0].cmek_config[0].kms_key_name == var.kms_key
    error_message = "The audit database must be protected, recoverable and encrypted as the documents are."
  }
  assert {
    condition     = toset(keys(google_firestore_field.audit_unindexed)) == toset(["audit.data", "audit.write", "enrolments.data", "enrolments.write"]) && alltrue([for field in google_firestore_field.audit_unindexed : field.database == "muster-audit" && field.deletion_policy == "ABANDON" && length(field.index_config[0].indexes) == 0 && length(field.ttl_config) == 0])
    error_message = "Both fields of audit entries and enrolments must be exempt from indexes in their own database."
  }
  assert {
    condition     = google_firestore_backup_schedule.audit[0].database == "muster-audit" && google_firestore_backup_schedule.audit[0].retention == google_firestore_backup_schedule.documents[0].retention
    error_message = "The audit database must be backed up as the documents are."
  }
  assert {
    condition     = toset(keys(google_firestore_field.unindexed)) == toset([for pair in setproduct(var.collections, ["data", "write"]) : join(".", pair)])
    error_message = "The main database must keep its exemptions: it holds what was written before the split."
  }
}

run "without_backups" {
  command = plan

  variables {
    audit_database        = "muster-audit"
    backup_retention_days = 0
  }

  assert {
    condition     = length(google_firestore_backup_schedule.documents) == 0 && length(google_firestore_backup_schedule.audit) == 0
    error_message = "With 0 days of retention there must be no backups."
  }
}

run "refuses_one_database_for_both" {
  command = plan

  variables {
    audit_database = "muster"
  }

  expect_failures = [
    google_firestore_database.audit,
  ]
}

run "refuses_what_can_not_be" {
  command = plan

  variables {
    signing_keys           = []
    signing_keys_secret    = "projects/p/secrets/s"
    longest_round_days     = 0
    blobs_soft_delete_days = 3
    backup_retention_days  = 99
    database               = "X"
    audit_database         = "(default)"
  }

  expect_failures = [
    var.signing_keys,
    var.signing_keys_secret,
    var.longest_round_days,
    var.blobs_soft_delete_days,
    var.backup_retention_days,
    var.database,
    var.audit_database,
  ]
}
