output "name" {
  description = "The queue's name."
  value       = google_cloud_tasks_queue.work.name
}

output "tick" {
  description = "The name of the scheduler's job."
  value       = google_cloud_scheduler_job.tick.name
}
