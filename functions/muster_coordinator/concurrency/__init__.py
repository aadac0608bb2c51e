"""Caches, locks, limits and parallel store calls for the threads of one process. Nothing here is shared between processes."""
