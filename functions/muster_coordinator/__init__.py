"""The coordinator: a pure domain, use cases over small ports, adapters, and the HTTP front that the four functions share."""
