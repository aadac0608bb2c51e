"""A load of synthetic clients on a coordinator, in this process or behind an address."""
