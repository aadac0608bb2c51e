"""Proxies of the environment: bypassed on loopback, and named in errors."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.double import Double
from support.served import Loopback
from typer.testing import CliRunner

from muster.cli.app import app
from muster.cli.failures import UNREACHABLE
from muster.client import (
    ConfigurationError,
    Contributed,
    ForeignAnswerError,
    MusterClient,
    Transport,
    UnreachableError,
    new_session,
)
from muster.transport.sessions import is_loopback, proxy_of
from muster.wire.messages import CheckinRequest, CheckinResponse

FAR = "http://muster.example"  # resolved by the proxy only
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class CorporateProxy(Loopback):
    """Answers as company proxies do: a page with 403 for http, 407 for a tunnel."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _refuse(self) -> None:
                proxy.requests.append(self.requestline)
                page = b"<html>Blocked by policy</html>"
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(407 if self.command == "CONNECT" else 403)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            do_GET = do_POST = do_PUT = do_CONNECT = _refuse  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[CorporateProxy]:
    with CorporateProxy() as proxy:
        address = proxy.url.replace("//", "//user:secret@")
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, address)
        yield proxy


def ask(url: str, **more: Any) -> CheckinResponse:
    with Transport(url, attempts=1, **more) as transport:
        return transport.call("POST", "/v1/populations/p:checkin", message=CheckinRequest(), answer=CheckinResponse)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1"])
def test_loopback_addresses_bypass_proxies(double: Double, proxy: CorporateProxy, host: str) -> None:
    url = double.url.replace("127.0.0.1", host)
    with MusterClient(url, "devices", lambda: {"id": 0}, runtime_factory=_worker) as client:
        assert isinstance(client.run_once(), Contributed)
    assert proxy.requests == []


def _worker(_: Any) -> Any:
    from support.double import Worker

    return Worker()


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "a.localhost", "localhost.", "127.0.0.1", "127.9.8.7", "127.1", "::1"),
        *("::ffff:127.0.0.1", "0.0.0.0"),  # noqa: S104
    ],
)
@pytest.mark.usefixtures("proxy")
def test_all_forms_of_loopback_addresses_are_recognized(host: str) -> None:
    assert is_loopback(host)
    url = f"http://[{host}]:1/" if ":" in host else f"http://{host}:1/"
    with new_session() as session:
        assert proxy_of(session, url) is None


@pytest.mark.parametrize("host", ["localhost.example", "127.example", "10.0.0.1", "::2", "", "example"])
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_foreign_answer_names_the_proxy_without_credentials(proxy: CorporateProxy) -> None:
    with pytest.raises(ForeignAnswerError) as raised:
        ask(FAR)
    assert f"through the proxy {proxy.url} (HTTP_PROXY)" in str(raised.value)
    assert "403" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert proxy.requests == [f"POST {FAR}/v1/populations/p:checkin HTTP/1.1"]


def test_operator_command_names_the_proxy_and_exits_with_3(proxy: CorporateProxy) -> None:
    result = CliRunner().invoke(app, ["task", "list", "--url", FAR])
    assert result.exit_code == UNREACHABLE
    assert f"through the proxy {proxy.url} (HTTP_PROXY)" in result.output
    assert "Something between here and the coordinator answered" in result.output


def test_refused_tunnel_states_reason_and_fix(proxy: CorporateProxy) -> None:
    with pytest.raises(UnreachableError) as raised:
        ask("https://muster.example")
    text = str(raised.value)
    assert f"through the proxy {proxy.url} (HTTPS_PROXY): the proxy refuses the connection (407 " in text
    assert "the coordinator was not tried" in text
    assert "credentials" in raised.value.fix
    assert "secret" not in text


def test_absent_proxy_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{unused_port}")
    with pytest.raises(UnreachableError, match=r"\(all_proxy\): the proxy can't be used \(Connection refused\)"):
        ask(FAR)


def test_no_proxy_is_honored(proxy: CorporateProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "muster.example")
    with new_session() as session:
        assert proxy_of(session, FAR) is None
        assert proxy_of(session, "http://other.example") == f"{proxy.url} (HTTP_PROXY)"


def test_proxy_of_the_session_is_used_for_loopback(double: Double, proxy: CorporateProxy) -> None:
    with new_session() as session:
        session.proxies["http"] = proxy.url
        with pytest.raises(ForeignAnswerError, match="from the session"):
            ask(double.url, session=session)


@pytest.mark.parametrize("address", ["http://", "socks5://127.0.0.1:1"])
def test_unsupported_proxy_ends_the_client(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", address)
    with MusterClient(FAR, "devices", dict) as client, pytest.raises(ConfigurationError, match="proxy"):
        client.run()
