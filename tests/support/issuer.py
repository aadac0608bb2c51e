"""A test double of an issuer of OpenID Connect tokens, which serves its keys over HTTP."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from support.served import Loopback


class TokenIssuer(Loopback):
    """Issuer that runs inside its `with` block. `fetches` counts the requests for its keys."""

    def __init__(self) -> None:
        self.fetches = 0
        self._keys: dict[str, rsa.RSAPrivateKey] = {}
        self.rotate()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(issuer._document(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))

    def rotate(self) -> None:
        """Replaces the key: signs with a new one, and no longer publishes the old one."""
        self._keys = {f"key-{time.monotonic_ns()}": rsa.generate_private_key(public_exponent=65537, key_size=2048)}

    def token(self, *, account: str, audience: str, age: float = 0.0, **claims_: Any) -> str:
        """Returns a token as Cloud Tasks sends it, `age` seconds old and valid for an hour."""
        ((name, key),) = self._keys.items()
        now = time.time() - age
        claims = {
            "iss": self.url,
            "aud": audience,
            "email": account,
            "email_verified": True,
            "sub": "1",
            "iat": now,
            "exp": now + 3600,
            **claims_,
        }
        return jwt.encode(claims, key, algorithm="RS256", headers={"kid": name})

    def _document(self, path: str) -> dict[str, Any]:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/certs"}
        self.fetches += 1
        return {
            "keys": [
                {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": name, "use": "sig"}
                for name, key in self._keys.items()
            ]
        }
