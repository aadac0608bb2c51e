"""Repositories and caches of tasks, rounds, ledgers, plans and counters, over the ports."""
