"""Pure domain logic: frozen data and functions `(state, event) -> state`.

Nothing here does I/O, reads a clock or draws random numbers.
"""
