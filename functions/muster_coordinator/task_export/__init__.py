"""Exports a task with its state to a file, and imports it. Not part of any function's bundle."""
