"""Adapters: implementations of the ports on SQLite, a directory, Google Cloud and OpenID Connect.

Only `bootstrap` imports them. `tests/contract` runs one suite of tests over all of them.
"""
