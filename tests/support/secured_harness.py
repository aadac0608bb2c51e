"""A coordinator with all access controls: authentication of every caller, and signed plans.

The methods of the harness send the credentials that each route requires, so a test states only what
an attacker changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from werkzeug.test import TestResponse

from muster.wire.enrolment import Enrolment, PrivateKey
from muster.wire.messages import Assignment, CheckinRequest, CheckinResponse, Wait
from muster.wire.plan import Plan
from muster.wire.signatures import SigningKey
from muster_coordinator.adapters.client_authenticators import parse_clients
from muster_coordinator.adapters.invoker_authenticator import OidcInvokerAuthenticator
from muster_coordinator.adapters.operator_authenticators import parse_operators
from muster_coordinator.state.platform import Platform
from muster_coordinator.use_cases.enrolment_revocations import EnrolmentRevocations
from support.harness import POPULATION, START, Harness
from support.issuer import TokenIssuer
from support.plans import sum_plan

OPERATOR, VIEWER = "muster-operator-of-alice", "muster-operator-of-bob"
ENROLLER, SIGNER = PrivateKey.generate(), SigningKey.generate()
ORIGIN = "https://app.example"
QUEUE = "queue@muster-test.iam.gserviceaccount.com"
FUNCTIONS = {"aggregator": "https://aggregator.example", "committer": "https://committer.example"}
CHECKIN = f"/v1/populations/{POPULATION}:checkin"
DAY = 86400.0  # seconds


def enrolment(name: object, *, population: str = POPULATION, issued_at: float = START, days: float = 90.0) -> Enrolment:
    """Returns the enrolment of a client."""
    return Enrolment(population, f"client-{name}", issued_at=issued_at, expires_at=issued_at + days * DAY)


class SecuredHarness(Harness):
    """`Harness` with all access controls.

    `bare` sends no credentials; other methods send those of their route.
    """

    def __init__(self, root: Path, issuer: TokenIssuer, *, plan: Plan | None = None, **options: Any) -> None:
        self.issuer = issuer
        self._overrides = options.pop("given", {})

        def guards(platform: Platform) -> dict[str, Any]:
            hashed = (hashlib.sha256(key.encode()).hexdigest() for key in (OPERATOR, VIEWER))
            revoked = EnrolmentRevocations(platform, seconds=0.0).is_revoked
            return {
                "operators": parse_operators("keys:alice:operator:{},bob:viewer:{}".format(*hashed)),
                "clients": parse_clients(
                    f"enrolment:{ENROLLER.public}", clock=platform.clock, revoked=revoked, proxy_secret=None
                ),
                "invoker": OidcInvokerAuthenticator(issuer=issuer.url, account=QUEUE, audiences=FUNCTIONS),
                "trusted_signers": frozenset({SIGNER.signer}),
                "cors_origins": (ORIGIN,),
                **self._overrides,
            }

        super().__init__(root, plan=(plan or sum_plan()).signed(SIGNER), guards=guards, **options)

    def bare(self, method: str, path: str, **options: Any) -> TestResponse:
        """Sends a request without further credentials."""
        return super().call(method, path, **options)

    def call(
        self, method: str, path: str, *, body: bytes = b"", token: str | None = None, **options: Any
    ) -> TestResponse:
        """Sends a request, by default with the credentials of its route."""
        if token is None:
            if path.startswith("/internal/"):
                function = "committer" if path.endswith(("/commit", "/open")) else "aggregator"
                token = self.issuer.token(account=QUEUE, audience=FUNCTIONS[function])
            elif path.startswith(("/v1/tasks", "/v1/audit", "/v1/revocations")) or method == "PUT":
                token = OPERATOR
        return super().call(method, path, body=body, token=token, **options)

    def checkin(
        self, client: object = None, *, cookie: str | None = None, token: str | None = None
    ) -> Assignment | Wait:
        """Checks a client in, by default with an enrolment token issued now."""
        token = token or ENROLLER.issue(enrolment(client, issued_at=self.clock.now()))
        body = CheckinRequest(cookie=cookie).encode()
        return CheckinResponse.decode(self.ask("POST", CHECKIN, body=body, token=token)).answer
