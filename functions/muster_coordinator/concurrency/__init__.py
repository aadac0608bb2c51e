"""Caches, locks and limits for the threads of one process. Processes share none of it."""
