# One dashboard: rounds, clients' requests, and use of the platform. A chart is a title, a unit and its lines.

locals {
  in_run   = "resource.type=\"cloud_run_revision\""
  our_runs = "${local.in_run} AND resource.labels.service_name=monitoring.regex.full_match(\"${join("|", sort(values(var.services)))}\")"

  our_queues = "resource.type=\"cloud_tasks_queue\" AND resource.labels.queue_id=one_of(${join(", ", [for queue in var.queues : "\"${queue}\""])})"

  # Lines: a filter, the alignment of its points, the reduction of series, and their grouping. Points are a minute apart, the resolution
  # of all of these metrics but `daily`.
  rate    = { aligner = "ALIGN_RATE", reducer = "REDUCE_SUM" }
  total   = { aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM" }
  highest = { aligner = "ALIGN_MAX", reducer = "REDUCE_SUM" }
  slow    = { aligner = "ALIGN_PERCENTILE_95", reducer = "REDUCE_MAX" }
  mean    = { aligner = "ALIGN_MEAN", reducer = "REDUCE_SUM" }
  daily   = { aligner = "ALIGN_MEAN", reducer = "REDUCE_SUM", period = "86400s" }

  charts = [
    { title = "Rounds committed and abandoned", unit = "rounds", lines = [
      merge(local.total, { filter = "${local.in_run} AND metric.type=\"${local.metric.rounds_committed}\"", by = [], legend = "committed" }),
      merge(local.total, { filter = "${local.in_run} AND metric.type=\"${local.metric.rounds_abandoned}\"", by = ["metric.label.below_minimum"], legend = "abandoned" }),
    ] },
    { title = "Rounds: seconds from opening to commit, and from close to commit (95 %)", unit = "s", lines = [
      merge(local.slow, { filter = "${local.in_run} AND metric.type=\"${local.metric.round_seconds}\"", by = [], legend = "round" }),
      merge(local.slow, { filter = "${local.in_run} AND metric.type=\"${local.metric.commit_seconds}\"", by = [], legend = "close to commit" }),
    ] },
    { title = "Updates in a round (95 %)", unit = "updates", lines = [
      merge(local.slow, { filter = "${local.in_run} AND metric.type=\"${local.metric.updates_folded}\"", by = [], legend = "folded" }),
    ] },
    { title = "Refused updates by problem", unit = "updates", lines = [
      merge(local.total, { filter = "${local.in_run} AND metric.type=\"${local.metric.updates_refused}\"", by = ["metric.label.problem"], legend = "" }),
    ] },
    { title = "Requests by clients (check-ins, downloads, uploads) by class of answer", unit = "1/s", lines = [
      merge(local.rate, { filter = "${local.in_run} AND resource.labels.service_name=\"${var.services.client_api}\" AND metric.type=\"run.googleapis.com/request_count\"", by = ["metric.label.response_code_class"], legend = "" }),
    ] },
    { title = "Answered with 5xx, by function", unit = "1/s", lines = [
      merge(local.rate, { filter = "${local.our_runs} AND metric.type=\"run.googleapis.com/request_count\" AND metric.labels.response_code_class=\"5xx\"", by = ["resource.label.service_name"], legend = "" }),
    ] },
    { title = "Latency by function (95 %); of the aggregator it is a fold, of the committer a commit", unit = "ms", lines = [
      merge(local.slow, { filter = "${local.our_runs} AND metric.type=\"run.googleapis.com/request_latencies\"", by = ["resource.label.service_name"], legend = "" }),
    ] },
    { title = "Instances by function", unit = "instances", lines = [
      merge(local.highest, { filter = "${local.our_runs} AND metric.type=\"run.googleapis.com/container/instance_count\"", by = ["resource.label.service_name"], legend = "" }),
    ] },
    { title = "Memory in use by function (95 %)", unit = "share", lines = [
      merge(local.slow, { filter = "${local.our_runs} AND metric.type=\"run.googleapis.com/container/memory/utilizations\"", by = ["resource.label.service_name"], legend = "" }),
    ] },
    { title = "Queues: pieces of work that wait", unit = "pieces", lines = [
      merge(local.mean, { filter = "${local.our_queues} AND metric.type=\"cloudtasks.googleapis.com/queue/depth\"", by = ["resource.label.queue_id"], legend = "" }),
    ] },
    { title = "Queues: attempts by answer", unit = "1/s", lines = [
      merge(local.rate, { filter = "${local.our_queues} AND metric.type=\"cloudtasks.googleapis.com/queue/task_attempt_count\"", by = ["resource.label.queue_id", "metric.label.response_code"], legend = "" }),
    ] },
    { title = "Queues: time from due to delivered (95 %)", unit = "ms", lines = [
      merge(local.slow, { filter = "${local.our_queues} AND metric.type=\"cloudtasks.googleapis.com/queue/task_attempt_delays\"", by = ["resource.label.queue_id"], legend = "" }),
    ] },
    { title = "Bytes sent by function", unit = "By/s", lines = [
      merge(local.rate, { filter = "${local.our_runs} AND metric.type=\"run.googleapis.com/container/network/sent_bytes_count\"", by = ["resource.label.service_name"], legend = "" }),
    ] },
    { title = "Bytes in the buckets, measured once a day", unit = "By", lines = [for kind in sort(keys(var.buckets)) :
      merge(local.daily, { filter = "resource.type=\"gcs_bucket\" AND resource.labels.bucket_name=\"${var.buckets[kind]}\" AND metric.type=\"storage.googleapis.com/storage/v2/total_bytes\"", by = [], legend = kind })
    ] },
    { title = "Age of the oldest single update (95 %)", unit = "s", lines = [
      merge(local.slow, { filter = "${local.in_run} AND metric.type=\"${local.metric.oldest_update_seconds}\"", by = [], legend = "oldest" }),
    ] },
    { title = "Firestore: documents read and written", unit = "1/s", lines = [for kind in ["read", "write"] :
      merge(local.rate, { filter = "resource.type=\"firestore.googleapis.com/Database\" AND resource.labels.database_id=\"${var.firestore_database}\" AND metric.type=\"firestore.googleapis.com/document/${kind}_ops_count\"", by = [], legend = kind })
    ] },
  ]

  plots = [for chart in local.charts : {
    title = chart.title
    xyChart = {
      yAxis = { label = chart.unit, scale = "LINEAR" }
      dataSets = [for line in chart.lines : {
        plotType           = "LINE"
        targetAxis         = "Y1"
        legendTemplate     = line.legend
        minAlignmentPeriod = lookup(line, "period", "60s")
        timeSeriesQuery = {
          timeSeriesFilter = {
            filter = line.filter
            aggregation = {
              alignmentPeriod    = lookup(line, "period", "60s")
              perSeriesAligner   = line.aligner
              crossSeriesReducer = line.reducer
              groupByFields      = line.by
            }
          }
        }
      }]
    }
  }]

  # No metric has the state of a queue. Terraform does not read it either: a queue that was paused by hand stays so. These show it.
  queue_widgets = [
    {
      title = "Queues: work that waits while nothing is delivered for ten minutes (paused, or only deadlines)"
      xyChart = {
        yAxis = { label = "pieces", scale = "LINEAR" }
        dataSets = [{
          plotType           = "LINE"
          targetAxis         = "Y1"
          legendTemplate     = ""
          minAlignmentPeriod = "60s"
          timeSeriesQuery = {
            prometheusQuery = "sum by (queue_id) ({${local.queue_depth}}) > 0 unless sum by (queue_id) (increase({${local.attempts}}[10m])) > 0"
          }
        }]
      }
    },
    {
      title = "Queues: paused, resumed or purged, by whom"
      logsPanel = {
        resourceNames = ["projects/${var.project_id}"]
        filter = join(" AND ", [
          "log_id(\"cloudaudit.googleapis.com/activity\")",
          "protoPayload.serviceName=\"cloudtasks.googleapis.com\"",
          "protoPayload.methodName=~\"(PauseQueue|ResumeQueue|PurgeQueue)$\"",
          "protoPayload.resourceName=~\"/queues/(${join("|", var.queues)})$\"",
        ])
      }
    },
    {
      title = "Queues: state now"
      text = {
        format  = "MARKDOWN"
        content = "`RUNNING` or `PAUSED`:\n\n${local.queue_states}"
      }
    },
  ]

  widgets = concat(local.plots, local.queue_widgets)
}

resource "google_monitoring_dashboard" "muster" {
  project = var.project_id

  dashboard_json = jsonencode({
    displayName = "${var.name}: federated learning"
    labels      = { for key, value in local.labels : key => value }
    mosaicLayout = {
      columns = 48
      tiles = [for index, widget in local.widgets : {
        xPos   = (index % 2) * 24
        yPos   = floor(index / 2) * 14
        width  = 24
        height = 14
        widget = widget
      }]
    }
  })

  depends_on = [google_logging_metric.counter, google_logging_metric.distribution]
}
