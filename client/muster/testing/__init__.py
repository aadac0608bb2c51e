"""A coordinator in this process with a manual clock, for tests and simulation."""
