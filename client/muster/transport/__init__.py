"""HTTP transport to a coordinator, shared by client and operator SDK.

sessions    `requests` sessions: certificates and proxies
http        `Transport`: requests, retries and time-outs
body        request bodies
downloads   downloads over several requests
failures    errors by the origin of an answer
"""
