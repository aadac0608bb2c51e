"""An issuer of OpenID Connect tokens, as Google is one: it signs them, and publishes its keys over HTTP."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from support.served import Loopback


class TokenIssuer(Loopback):
    """Runs while it is entered, as a context manager. `fetches` counts how often its keys were asked for."""

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
        """Signs with a new key from now on; the old ones are published no more."""
        self._keys = {f"key-{time.monotonic_ns()}": rsa.generate_private_key(public_exponent=65537, key_size=2048)}

    def token(self, *, account: str, audience: str, age: float = 0.0, **more: Any) -> str:
        """A token as Cloud Tasks gets it for an account: good for an hour, of which `age` seconds have passed."""
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
            **more,
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
