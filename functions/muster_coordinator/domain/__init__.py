"""The round, pure: frozen data and functions `(state, event) -> state`. No I/O, no clock, no chance."""
