output "name" {
  description = "The name of the queue of the aggregator's work, and of all work where `MUSTER_QUEUE` names no second queue."
  value       = google_cloud_tasks_queue.work.name
}

output "commits" {
  description = "The name of the queue of the committer's work: `commits` in the query of `MUSTER_QUEUE`."
  value       = google_cloud_tasks_queue.commits.name
}

output "tick" {
  description = "The name of the scheduler's job."
  value       = google_cloud_scheduler_job.tick.name
}
