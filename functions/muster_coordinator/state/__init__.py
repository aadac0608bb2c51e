"""Repositories and caches: how tasks, rounds, ledgers, plans and counters are read from the ports and written to them."""
