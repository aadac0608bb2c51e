"""Adapters: the ports on a laptop (SQLite, a directory, a local queue) and, later, in the cloud. Only `bootstrap` names them."""
