"""HTTP to a coordinator, as clients and operators share it: sessions, retries, bodies, downloads and typed failures."""
