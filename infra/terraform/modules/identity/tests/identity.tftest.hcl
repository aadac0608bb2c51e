# What each account may do, said once more and in other words than the code: that is the point.

mock_provider "google" {}

variables {
  project_id     = "a-project"
  project_number = "123456789012"
  region         = "europe-west1"
  name           = "muster"
  access         = jsondecode(file("../../access.json"))
  database       = "muster"
  queue          = "muster"
  commits_queue  = "muster-commits"
  secret         = "muster-signing-keys"
  repository     = "muster"
  buckets = {
    updates  = "b-updates"
    partials = "b-partials"
    blobs    = "b-blobs"
    sources  = "b-sources"
  }
}

run "by_default" {
  command = plan

  assert {
    condition     = toset([for account in google_service_account.this : account.account_id]) == toset(["muster-client-api", "muster-operator-api", "muster-aggregator", "muster-committer", "muster-invoker", "muster-build"])
    error_message = "Each function, the invoker and the build must have an account of its own."
  }

  # --- Updates
  assert {
    condition     = toset([for grant in google_storage_bucket_iam_member.functions : grant.role if grant.bucket == "b-updates" && grant.member == "serviceAccount:muster-client-api@a-project.iam.gserviceaccount.com"]) == toset(["projects/a-project/roles/muster_objects_create", "projects/a-project/roles/muster_objects_list"])
    error_message = "The client API may create and list updates, and must not read or delete one."
  }
  assert {
    condition     = toset([for grant in google_storage_bucket_iam_member.functions : grant.member if grant.bucket == "b-updates" && contains(["projects/a-project/roles/muster_objects_get", "projects/a-project/roles/muster_objects_delete"], grant.role)]) == toset(["serviceAccount:muster-aggregator@a-project.iam.gserviceaccount.com"])
    error_message = "Only the aggregator may read and delete updates."
  }
  assert {
    condition     = toset([for grant in google_storage_bucket_iam_member.functions : grant.member if grant.bucket == "b-updates"]) == toset(["serviceAccount:muster-client-api@a-project.iam.gserviceaccount.com", "serviceAccount:muster-aggregator@a-project.iam.gserviceaccount.com"])
    error_message = "Nobody but the client API and the aggregator may do anything to updates: the committer and the operator API see none."
  }

  # --- Partials
  assert {
    condition     = toset([for grant in google_storage_bucket_iam_member.functions : grant.member if grant.bucket == "b-partials"]) == toset(["serviceAccount:muster-aggregator@a-project.iam.gserviceaccount.com", "serviceAccount:muster-committer@a-project.iam.gserviceaccount.com"])
    error_message = "Nobody but the aggregator and the committer may do anything to partials."
  }
  assert {
    condition     = toset([for grant in google_storage_bucket_iam_member.functions : grant.member if grant.bucket == "b-partials" && grant.role == "projects/a-project/roles/muster_objects_delete"]) == toset(["serviceAccount:muster-aggregator@a-project.iam.gserviceaccount.com"])
    error_message = "Only the aggregator may delete partials."
  }

  # --- Basic roles of the project
  assert {
    condition     = alltrue([for bucket in ["b-updates", "b-partials"] : toset([for binding in google_storage_bucket_iam_binding.closed : binding.role if binding.bucket == bucket && length(binding.members) == 0]) == toset([for role in ["legacyBucketReader", "legacyBucketWriter", "legacyObjectOwner", "legacyObjectReader", "objectAdmin", "objectUser", "objectViewer"] : "roles/storage.${role}"])])
    error_message = "Nobody may read updates and partials by a role that Google grants to the project's Editors and Viewers."
  }
  assert {
    condition     = alltrue([for binding in google_storage_bucket_iam_binding.closed : binding.role == "roles/storage.legacyBucketOwner" && toset(binding.members) == toset(["projectOwner:a-project"]) if length(binding.members) > 0])
    error_message = "By default only the project's owners may administer the buckets of updates and partials."
  }
  assert {
    condition     = toset([for binding in google_storage_bucket_iam_binding.closed : binding.bucket]) == toset(["b-updates", "b-partials"]) && length(setintersection([for binding in google_storage_bucket_iam_binding.closed : binding.role], [for grant in google_storage_bucket_iam_member.functions : grant.role])) == 0
    error_message = "An authoritative binding must be on updates and partials alone, and of no role that a function has."
  }

  # --- Blobs
  assert {
    condition     = toset([for grant in google_storage_bucket_iam_member.functions : grant.role if grant.bucket == "b-blobs" && grant.member == "serviceAccount:muster-client-api@a-project.iam.gserviceaccount.com"]) == toset(["projects/a-project/roles/muster_objects_get", "projects/a-project/roles/muster_objects_list"])
    error_message = "The client API may read and look up blobs, and must not write or delete one."
  }
  assert {
    condition     = google_storage_bucket_iam_member.functions["client_api.blobs.get"].condition[0].expression == "resource.name.startsWith(\"projects/_/buckets/b-blobs/objects/broadcasts/\") || resource.name.startsWith(\"projects/_/buckets/b-blobs/objects/plans/\")"
    error_message = "The client API may read nothing but plans and broadcasts: no checkpoint, no result, no manifest."
  }
  assert {
    condition     = alltrue(flatten([for grant in google_storage_bucket_iam_member.functions : [for condition in grant.condition : !strcontains(condition.expression, "manifests/")] if startswith(grant.member, "serviceAccount:muster-operator-api@")]))
    error_message = "The operator API must not read manifests, which say who contributed."
  }

  assert {
    condition     = google_storage_bucket_iam_member.functions["operator_api.blobs.delete"].condition[0].expression == "resource.name.startsWith(\"projects/_/buckets/b-blobs/objects/plans/\")"
    error_message = "The operator API may replace plans, which takes a delete, and delete nothing else."
  }

  # --- All of them
  assert {
    condition     = alltrue([for role in google_project_iam_custom_role.objects : length(role.permissions) == 1 && length(setsubtract(role.permissions, ["storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list"])) == 0])
    error_message = "A role must hold one permission on objects, and no other."
  }
  assert {
    condition     = alltrue([for grant in google_storage_bucket_iam_member.functions : endswith(grant.role, "_list") || try(startswith(grant.condition[0].expression, "resource.name.startsWith(\"projects/_/buckets/${grant.bucket}/objects/"), false)])
    error_message = "Every grant on objects must be bound to prefixes of their names."
  }
  assert {
    condition     = length(google_storage_bucket_iam_member.functions) == sum(flatten([for stores in values(var.access) : [for prefixes in values(stores) : length(distinct(flatten(values(prefixes))))]]))
    error_message = "There must be a grant for each function, store and action of access.json, and no other."
  }

  # --- Documents, work, keys
  assert {
    condition     = toset([for grant in google_project_iam_member.documents : "${grant.member} ${grant.role}"]) == toset([for function in ["client-api", "operator-api", "aggregator", "committer"] : "serviceAccount:muster-${function}@a-project.iam.gserviceaccount.com roles/datastore.user"])
    error_message = "The four functions, and no one else, may use documents."
  }
  assert {
    condition     = alltrue([for grant in google_project_iam_member.documents : grant.condition[0].expression == "resource.name == \"projects/a-project/databases/muster\""])
    error_message = "Access to documents must be to this deployment's database alone."
  }
  assert {
    condition     = alltrue([for grant in google_cloud_tasks_queue_iam_member.enqueuer : grant.role == "roles/cloudtasks.enqueuer" && grant.name == "muster"])
    error_message = "Functions may put work into the queue, and not run, list or delete it."
  }
  assert {
    condition     = toset([for grant in google_cloud_tasks_queue_iam_member.commit_enqueuer : "${grant.member} ${grant.role} ${grant.name}"]) == toset([for function in ["client-api", "operator-api", "aggregator", "committer"] : "serviceAccount:muster-${function}@a-project.iam.gserviceaccount.com roles/cloudtasks.enqueuer muster-commits"])
    error_message = "Each function may put work into the committer's queue, and not run, list or delete it."
  }
  assert {
    condition     = length(google_project_iam_member.audit) == 0 && length(google_project_iam_custom_role.documents_get) == 0
    error_message = "Without a second database there must be no grant on one."
  }
  assert {
    condition     = alltrue([for grant in google_service_account_iam_member.acts_as_invoker : grant.role == "roles/iam.serviceAccountUser" && strcontains(grant.service_account_id, "/muster-invoker@")])
    error_message = "Functions may act as the invoker, for deliveries, and as nobody else."
  }
  assert {
    condition     = google_service_account_iam_member.signs_as_itself.member == "serviceAccount:muster-client-api@a-project.iam.gserviceaccount.com" && strcontains(google_service_account_iam_member.signs_as_itself.service_account_id, "/muster-client-api@")
    error_message = "The client API may sign as itself, and as nobody else."
  }
  assert {
    condition     = google_service_account_iam_member.signs_as_itself.role == "projects/a-project/roles/muster_sign_blob" && toset(google_project_iam_custom_role.sign_blob.permissions) == toset(["iam.serviceAccounts.signBlob"])
    error_message = "The client API may sign, and issue no tokens."
  }
  assert {
    condition     = google_secret_manager_secret_iam_member.signing_keys.member == "serviceAccount:muster-client-api@a-project.iam.gserviceaccount.com" && google_secret_manager_secret_iam_member.signing_keys.role == "roles/secretmanager.secretAccessor"
    error_message = "Only the client API may read the signing keys."
  }

  # --- The invoker and the build
  assert {
    condition     = !anytrue([for member in concat([for grant in google_storage_bucket_iam_member.functions : grant.member], [for grant in google_project_iam_member.documents : grant.member]) : strcontains(member, "muster-invoker@") || strcontains(member, "muster-build@")])
    error_message = "The invoker and the build must reach neither blobs nor documents."
  }
  assert {
    condition     = google_storage_bucket_iam_member.build_sources.bucket == "b-sources" && google_project_iam_member.build_copied_sources.condition[0].expression == "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-123456789012-europe-west1/\") || resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-123456789012-europe-west1-\")"
    error_message = "The build may read sources, and nothing else in the project's buckets."
  }
  assert {
    condition     = google_project_iam_member.build_logs.role == "roles/logging.logWriter" && google_artifact_registry_repository_iam_member.build_images.role == "roles/artifactregistry.writer" && google_artifact_registry_repository_iam_member.build_images.repository == "muster"
    error_message = "The build may write logs, and images into this deployment's repository."
  }
}

run "with_a_separate_audit_database" {
  command = plan

  variables {
    audit_database        = "muster-audit"
    bucket_administrators = ["serviceAccount:deployer@a-project.iam.gserviceaccount.com"]
  }

  assert {
    condition = { for grant in google_project_iam_member.audit : grant.member => grant.role } == {
      "serviceAccount:muster-client-api@a-project.iam.gserviceaccount.com"   = "projects/a-project/roles/muster_documents_get"
      "serviceAccount:muster-operator-api@a-project.iam.gserviceaccount.com" = "roles/datastore.user"
    }
    error_message = "Only the operator API may write the audit database; the client API may get from it, and the others have no permission."
  }
  assert {
    condition     = toset(google_project_iam_custom_role.documents_get[0].permissions) == toset(["datastore.entities.get"])
    error_message = "The client API must not list the audit log."
  }
  assert {
    condition     = alltrue([for grant in google_project_iam_member.audit : grant.condition[0].expression == "resource.name == \"projects/a-project/databases/muster-audit\""])
    error_message = "Access to the audit database must be to this database alone."
  }
  assert {
    condition     = alltrue([for grant in google_project_iam_member.documents : grant.condition[0].expression == "resource.name == \"projects/a-project/databases/muster\""])
    error_message = "A second database must leave the access to the first as it is."
  }
  assert {
    condition     = alltrue([for binding in google_storage_bucket_iam_binding.closed : toset(binding.members) == toset(["projectOwner:a-project", "serviceAccount:deployer@a-project.iam.gserviceaccount.com"]) if binding.role == "roles/storage.legacyBucketOwner"])
    error_message = "The named administrators must administer the buckets besides the project's owners."
  }
}

run "with_one_queue_and_open_sources" {
  command = plan

  variables {
    commits_queue          = null
    restrict_build_sources = false
  }

  assert {
    condition     = google_project_iam_member.build_copied_sources.condition[0].expression == "!resource.name.startsWith(\"projects/_/buckets/b-updates\") && !resource.name.startsWith(\"projects/_/buckets/b-partials\")"
    error_message = "No build may read updates and partials, whatever else it may read."
  }

  assert {
    condition     = length(google_cloud_tasks_queue_iam_member.commit_enqueuer) == 0 && length(google_cloud_tasks_queue_iam_member.enqueuer) == 4
    error_message = "With one queue there must be grants on that queue alone."
  }
}

run "refuses_what_can_not_be" {
  command = plan

  variables {
    project_number = "a-project"
    access         = { anyone = { updates = { "updates/" = ["get"] } } }
    buckets        = { updates = "one", partials = "one", blobs = "one", sources = "one" }

    bucket_administrators = ["projectEditor:a-project"]
  }

  expect_failures = [
    var.project_number,
    var.access,
    var.buckets,
    var.bucket_administrators,
  ]
}
