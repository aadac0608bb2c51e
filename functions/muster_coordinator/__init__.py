"""Muster's coordinator: domain, ports, adapters, use cases and the HTTP routes of its functions."""
