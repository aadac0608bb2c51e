"""Test support: ports that fail on purpose, and processes that write and get killed."""
