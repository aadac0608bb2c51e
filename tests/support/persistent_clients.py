"""Client threads that retry through any outage, and record sent and accepted updates."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

import jwt
import requests

from muster.wire.messages import Assignment, CheckinRequest, CheckinResponse, Receipt
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Committed


class PersistentClients:
    """Clients that run inside the `with` block.

    Args:
      clients: The number of clients.
      population: The population that they check in to.
      address: Returns the address of a request; it may draw from the client's randomness.
      update: Returns the update of a client.
      pause: Seconds between a failure and the retry.
      longest: The longest wait of a client in seconds, even if the coordinator asks for more.

    Attributes:
      sent: The clients whose update was sent, by round. An update may be stored although the
        response was lost.
      accepted: The time at which each update was accepted (POSIX seconds), by round and client.
      unexpected: The bodies of responses with status 500.
    """

    def __init__(
        self,
        clients: int,
        *,
        population: str,
        address: Callable[[random.Random], str],
        update: Callable[[int], bytes],
        pause: float,
        longest: float,
    ) -> None:
        self._population = population
        self._address = address
        self._update = update
        self._pause = pause
        self._longest = longest
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in range(clients)]
        self.sent: dict[RoundKey, set[int]] = defaultdict(set)
        self.accepted: dict[RoundKey, dict[int, float]] = defaultdict(dict)
        self.unexpected: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def check(self, round_: Committed, ids: int, count: int, *, minimum: int) -> None:
        """Asserts that a round's sums hold every accepted update once, and only sent updates.

        Args:
          round_: The round.
          ids: The sum of `1 << client`.
          count: The sum of ones.
          minimum: The round's minimum.
        """
        counted = {client for client in range(62) if ids >> client & 1}
        assert len(counted) == count == round_.tally.folded >= minimum, round_.key
        # A receipt before the close promises that the update counts. An update without a response
        # may count too.
        promised = {client for client, at in self.accepted[round_.key].items() if at < round_.closed_at}
        assert promised <= counted <= self.sent[round_.key], round_.key

    def _run(self, client: int) -> None:
        randomness = random.Random(client)  # noqa: S311  fixed on purpose
        with requests.Session() as session:
            session.trust_env = False

            def send(method: str, path: str, **options: Any) -> requests.Response | None:
                return self._send(session, method, self._address(randomness) + path, **options)

            while not self._stop.is_set():
                self._stop.wait(self._check_in(send, client))

    def _check_in(self, send: Callable[..., requests.Response | None], client: int) -> float:
        """Checks a client in, and uploads its update if it gets an assignment.

        Returns the wait in seconds.
        """
        body = CheckinRequest(client=f"client-{client}").encode()
        response = send("POST", f"/v1/populations/{self._population}:checkin", data=body)
        if response is None or not response.ok:
            return self._pause
        answer = CheckinResponse.decode(response.content).answer
        if not isinstance(answer, Assignment):
            return min(answer.retry_after, self._longest)
        claims = jwt.decode(answer.token, options={"verify_signature": False})
        key = RoundKey(claims["task"], claims["round"], claims["epoch"])
        with self._lock:
            self.sent[key].add(client)
        headers = {"Authorization": f"Bearer {answer.token}"}
        for _ in range(50):
            response = send("PUT", "/v1/updates", data=self._update(client), headers=headers)
            if response is not None and response.ok:
                with self._lock:
                    self.accepted[key].setdefault(client, time.time())
                return min(Receipt.decode(response.content).retry_after, self._longest)
            if response is not None and response.status_code < 500:
                return self._pause / 2  # the round has closed, or the assignment has expired
            if self._stop.wait(self._pause):
                break
        return self._pause

    def _send(self, session: requests.Session, method: str, url: str, **options: Any) -> requests.Response | None:
        """Sends a request. Returns None if it fails."""
        try:
            response = session.request(method, url, timeout=20, **options)
        except requests.RequestException:
            return None
        if response.status_code == 500:
            self.unexpected.append(response.text)
        return response
