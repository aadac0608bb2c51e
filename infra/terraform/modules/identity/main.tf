# The functions' accounts and all their permissions. The permitted callers of functions are in modules/functions.

locals {
  functions = ["client_api", "operator_api", "aggregator", "committer"]
  accounts = merge(
    { for function in local.functions : function => "Runs Muster's ${function}." },
    {
      invoker = "Calls Muster's internal routes, on behalf of Cloud Tasks and Cloud Scheduler."
      build   = "Builds the images of Muster's functions."
    },
  )

  # From the accounts' ids, which are known before the accounts exist, so that a plan shows each grant.
  emails = { for account, made in google_service_account.this : account => "${made.account_id}@${var.project_id}.iam.gserviceaccount.com" }

  # One binding for each function, store and action, with its permitted prefixes.
  grants = merge(flatten([
    for function, stores in var.access : [
      for store, prefixes in stores : {
        for action in ["create", "delete", "get", "list"] : "${function}.${store}.${action}" => {
          function = function
          bucket   = var.buckets[store]
          action   = action
          prefixes = [for prefix, actions in prefixes : prefix if contains(actions, action)]
        } if anytrue([for actions in values(prefixes) : contains(actions, action)])
      }
    ]
  ])...)

  # By the object's name. A listing is requested of the bucket and has no object name: it returns names, which reveal no identity,
  # and is granted on the whole bucket. (`objectListPrefix` is documented for credential access boundaries; where a policy does not
  # support it, every listing would fail, and so would check-ins.)
  conditions = {
    for key, grant in local.grants : key => join(" || ", [
      for prefix in grant.prefixes : "resource.name.startsWith(\"projects/_/buckets/${grant.bucket}/objects/${prefix}\")"
    ]) if grant.action != "list"
  }
}

resource "google_service_account" "this" {
  for_each = local.accounts

  project      = var.project_id
  account_id   = "${var.name}-${replace(each.key, "_", "-")}"
  display_name = "Muster: ${each.key}"
  description  = each.value
}

# --- Blobs ---------------------------------------------------------------------------------------------------------------

# A role for each action. Google's own hold more: its object creator may abort others' uploads, its object user overwrite.
resource "google_project_iam_custom_role" "objects" {
  for_each = toset(["create", "delete", "get", "list"])

  project     = var.project_id
  role_id     = "${replace(var.name, "-", "_")}_objects_${each.key}"
  title       = "Muster: ${each.key} objects"
  description = "storage.objects.${each.key} and nothing else."
  permissions = ["storage.objects.${each.key}"]
}

resource "google_storage_bucket_iam_member" "functions" {
  for_each = local.grants

  bucket = each.value.bucket
  role   = "projects/${var.project_id}/roles/${google_project_iam_custom_role.objects[each.value.action].role_id}"
  member = "serviceAccount:${local.emails[each.value.function]}"

  dynamic "condition" {
    for_each = each.value.action == "list" ? [] : [local.conditions[each.key]]
    content {
      title       = "${each.value.action} ${join(", ", each.value.prefixes)}"
      description = "See infra/terraform/access.json."
      expression  = condition.value
    }
  }
}

# Google grants the project's basic roles on each new bucket: Editors and Viewers read every object by roles/storage.legacyObjectReader,
# roles/storage.legacyObjectOwner and the bucket's legacy roles. Updates and partials are one person's or few persons' data, so here
# these bindings are authoritative, and empty. The custom roles of the functions are other roles, which they leave alone. Not a policy:
# one can't be combined with the functions' members, and to replace these would interrupt a deployment that is live.
locals {
  closed_roles = {
    "roles/storage.legacyBucketOwner"  = setunion(["projectOwner:${var.project_id}"], var.bucket_administrators) # administers, reads nothing
    "roles/storage.legacyBucketReader" = []
    "roles/storage.legacyBucketWriter" = []
    "roles/storage.legacyObjectOwner"  = []
    "roles/storage.legacyObjectReader" = []
    "roles/storage.objectAdmin"        = []
    "roles/storage.objectUser"         = []
    "roles/storage.objectViewer"       = []
  }
}

resource "google_storage_bucket_iam_binding" "closed" {
  for_each = { for pair in setproduct(["updates", "partials"], keys(local.closed_roles)) : "${pair[0]} ${pair[1]}" => { bucket = var.buckets[pair[0]], role = pair[1] } }

  bucket  = each.value.bucket
  role    = each.value.role
  members = local.closed_roles[each.value.role]
}

# --- Documents -----------------------------------------------------------------------------------------------------------

resource "google_project_iam_member" "documents" {
  for_each = toset(local.functions)

  project = var.project_id
  role    = "roles/datastore.user"
  member  = "serviceAccount:${local.emails[each.key]}"

  condition {
    title      = "only ${var.database}"
    expression = "resource.name == \"projects/${var.project_id}/databases/${var.database}\""
  }
}

# The second database, if there is one. The client API gets the list of revoked enrolments by its name; without a permission to list
# it finds no audit entry, whose names it can't know.
resource "google_project_iam_custom_role" "documents_get" {
  count = var.audit_database == null ? 0 : 1

  project     = var.project_id
  role_id     = "${replace(var.name, "-", "_")}_documents_get"
  title       = "Muster: get documents"
  description = "datastore.entities.get and nothing else: no list and no query."
  permissions = ["datastore.entities.get"]
}

resource "google_project_iam_member" "audit" {
  for_each = var.audit_database == null ? {} : {
    client_api   = "projects/${var.project_id}/roles/${google_project_iam_custom_role.documents_get[0].role_id}"
    operator_api = "roles/datastore.user"
  }

  project = var.project_id
  role    = each.value
  member  = "serviceAccount:${local.emails[each.key]}"

  condition {
    title      = "only ${var.audit_database}"
    expression = "resource.name == \"projects/${var.project_id}/databases/${var.audit_database}\""
  }
}

# --- Work ----------------------------------------------------------------------------------------------------------------

resource "google_cloud_tasks_queue_iam_member" "enqueuer" {
  for_each = toset(local.functions)

  project  = var.project_id
  location = var.region
  name     = var.queue
  role     = "roles/cloudtasks.enqueuer"
  member   = "serviceAccount:${local.emails[each.key]}"
}

# Each function may cause a commit or the opening of a round, which are the committer's work.
resource "google_cloud_tasks_queue_iam_member" "commit_enqueuer" {
  for_each = toset(var.commits_queue == null ? [] : local.functions)

  project  = var.project_id
  location = var.region
  name     = var.commits_queue
  role     = "roles/cloudtasks.enqueuer"
  member   = "serviceAccount:${local.emails[each.key]}"
}

# A function that enqueues work names the account whose token the delivery carries, and must be permitted to act as it.
resource "google_service_account_iam_member" "acts_as_invoker" {
  for_each = toset(local.functions)

  service_account_id = "projects/${var.project_id}/serviceAccounts/${local.emails["invoker"]}"
  role               = "roles/iam.serviceAccountUser"
  member             = "serviceAccount:${local.emails[each.key]}"
}

# --- Keys ----------------------------------------------------------------------------------------------------------------

# Google's own role for signing, the token creator, also issues access and identity tokens.
resource "google_project_iam_custom_role" "sign_blob" {
  project     = var.project_id
  role_id     = "${replace(var.name, "-", "_")}_sign_blob"
  title       = "Muster: sign as a service account"
  description = "iam.serviceAccounts.signBlob and nothing else."
  permissions = ["iam.serviceAccounts.signBlob"]
}

# Signs URLs for large updates as itself (signBlob), so no key file is needed.
resource "google_service_account_iam_member" "signs_as_itself" {
  service_account_id = "projects/${var.project_id}/serviceAccounts/${local.emails["client_api"]}"
  role               = "projects/${var.project_id}/roles/${google_project_iam_custom_role.sign_blob.role_id}"
  member             = "serviceAccount:${local.emails["client_api"]}"

  # A deployment of an earlier version has the token creator, which goes only when the new grant is made: uploads are signed meanwhile.
  lifecycle {
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "signing_keys" {
  project   = var.project_id
  secret_id = var.secret
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${local.emails["client_api"]}"
}

# --- Builds --------------------------------------------------------------------------------------------------------------

resource "google_project_iam_member" "build_logs" {
  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = "serviceAccount:${local.emails["build"]}"
}

resource "google_artifact_registry_repository_iam_member" "build_images" {
  project    = var.project_id
  location   = var.region
  repository = var.repository
  role       = "roles/artifactregistry.writer"
  member     = "serviceAccount:${local.emails["build"]}"
}

resource "google_storage_bucket_iam_member" "build_sources" {
  bucket = var.buckets["sources"]
  role   = "roles/storage.objectViewer"
  member = "serviceAccount:${local.emails["build"]}"
}

# Cloud Functions copies a bundle into its own bucket and builds from there. It creates the bucket with the first function, so
# the grant has to be the project's. With a customer-managed key the bucket's name ends with a hash of the key.
resource "google_project_iam_member" "build_copied_sources" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = "serviceAccount:${local.emails["build"]}"

  # Without the restriction, all but updates and partials, which no build may read.
  condition {
    title = var.restrict_build_sources ? "only Cloud Functions' copies of sources" : "no updates and no partials"
    expression = var.restrict_build_sources ? join(" || ", [
      for end in ["/", "-"] : "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-${var.project_number}-${var.region}${end}\")"
      ]) : join(" && ", [
      for store in ["updates", "partials"] : "!resource.name.startsWith(\"projects/_/buckets/${var.buckets[store]}\")"
    ])
  }
}
