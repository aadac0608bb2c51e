"""Benchmarks of Muster, each run as a module from `tests`: `python -m benchmarks.suite`."""
