"""The use cases: one module for each request of a caller.

A use case reads through the ports, decides with the domain, and writes with creates or
compare-and-set.
"""
