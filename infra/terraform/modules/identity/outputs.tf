output "accounts" {
  description = "The e-mail addresses of the functions' accounts, by function."
  value       = { for function in local.functions : function => local.emails[function] }
}

output "invoker" {
  description = "The e-mail address of the account that calls the internal routes."
  value       = local.emails["invoker"]
}

output "build" {
  description = "The e-mail address of the account that builds images."
  value       = local.emails["build"]
}
