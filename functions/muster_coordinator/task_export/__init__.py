"""Exports a task with its whole state to a file, and imports it into another deployment. Not part of any function's bundle."""
