"""Clients as threads that speak the protocol and give up for no outage, and what they know: whose update was sent, whose accepted."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Self

import jwt
import requests

from muster.wire.messages import Assignment, CheckinRequest, CheckinResponse, Receipt
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Committed


class StubbornClients:
    """Works while it is entered.

    Args:
      clients: How many.
      population: Where they check in.
      address: Where a request goes, by a client's own chance.
      update: The bytes that a client answers with.
      pause: Seconds after something failed.
      longest: Seconds that a client waits at most, whatever it is told.

    Attributes:
      sent: Whose update was sent, by round; some may be stored though no answer came.
      accepted: When each update was accepted (POSIX seconds), by round and client.
      unexpected: The bodies of answers with status 500.
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
        self._threads = [threading.Thread(target=self._live, args=(client,)) for client in range(clients)]
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
        """Asserts that a round's sums are of updates that were sent, each once, and of every one that was accepted in time.

        `ids`: the sum of `1 << client`; `count`: the sum of ones.
        """
        counted = {client for client in range(62) if ids >> client & 1}
        assert len(counted) == count == round_.tally.folded >= minimum, round_.key
        # A receipt that came before the round closed promises that the update counts; one without an answer may count too.
        promised = {who for who, at in self.accepted[round_.key].items() if at < round_.closed_at}
        assert promised <= counted <= self.sent[round_.key], round_.key

    def _live(self, client: int) -> None:
        randomness = random.Random(client)  # noqa: S311  fixed on purpose
        with requests.Session() as session:
            session.trust_env = False

            def ask(method: str, path: str, **more: object) -> requests.Response | None:
                return self._ask(session, method, self._address(randomness) + path, **more)

            while not self._stop.is_set():
                self._stop.wait(self._once(ask, client))

    def _once(self, ask: Callable[..., requests.Response | None], client: int) -> float:
        """One check-in, and its update if it brings work; seconds to the next."""
        body = CheckinRequest(client=f"client-{client}").encode()
        answer = ask("POST", f"/v1/populations/{self._population}:checkin", data=body)
        if answer is None or not answer.ok:
            return self._pause
        found = CheckinResponse.decode(answer.content).answer
        if not isinstance(found, Assignment):
            return min(found.retry_after, self._longest)
        claims = jwt.decode(found.token, options={"verify_signature": False})
        key = RoundKey(claims["task"], claims["round"], claims["epoch"])
        with self._lock:
            self.sent[key].add(client)
        headers = {"Authorization": f"Bearer {found.token}"}
        for _ in range(50):
            answer = ask("PUT", "/v1/updates", data=self._update(client), headers=headers)
            if answer is not None and answer.ok:
                with self._lock:
                    self.accepted[key].setdefault(client, time.time())
                return min(Receipt.decode(answer.content).retry_after, self._longest)
            if answer is not None and answer.status_code < 500:
                return self._pause / 2  # the round has closed, or the assignment has run out
            if self._stop.wait(self._pause):
                break
        return self._pause

    def _ask(self, session: requests.Session, method: str, url: str, **more: object) -> requests.Response | None:
        try:
            answer = session.request(method, url, timeout=20, **more)
        except requests.RequestException:
            return None
        if answer.status_code == 500:
            self.unexpected.append(answer.text)
        return answer
