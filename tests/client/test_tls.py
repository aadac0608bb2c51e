"""TLS: trusted authorities, and error texts for refused certificates."""

from __future__ import annotations

import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.double import Double
from werkzeug.serving import make_server

from muster.cli.failures import UNREACHABLE, explain
from muster.client import ConfigurationError, Transport, UnreachableError
from muster.wire.messages import CheckinRequest, CheckinResponse

NOW = datetime.now(timezone.utc)
DAY = timedelta(days=1)
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Certificate authority of a company."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ca.pem"
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed("A company", self._key, ca=True)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(
        self, *, host: str = "127.0.0.1", start: datetime = NOW - DAY, end: datetime = NOW + DAY
    ) -> ssl.SSLContext:
        """Returns a server's TLS context with a certificate for `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(host, key, start=start, end=end)
        file = self._folder / f"{certificate.serial_number}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _signed(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        ca: bool = False,
        start: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
    ) -> x509.Certificate:
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name.replace(" ", "-"))
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("A company"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    for name in BUNDLES:
        monkeypatch.delenv(name, raising=False)
    return Authority(tmp_path)


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


@pytest.fixture
def serve() -> Iterator[Callable[[ssl.SSLContext | None], str]]:
    """Serves the scripted coordinator over TLS and returns its address."""
    running = []

    def start(context: ssl.SSLContext | None) -> str:
        server = make_server("127.0.0.1", 0, Double(), threaded=True, ssl_context=context)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"https://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url: str) -> CheckinResponse:
    with Transport(url, attempts=1) as transport:
        return transport.call(
            "POST", "/v1/populations/devices:checkin", message=CheckinRequest(), answer=CheckinResponse
        )


def refused(url: str) -> tuple[str, str]:
    """Returns the error lines of the command line."""
    with pytest.raises(UnreachableError) as raised:
        ask(url)
    code, (error, fix) = explain(raised.value)
    assert code == UNREACHABLE
    return error, fix


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_each_variable_adds_a_trusted_authority(
    authority: Authority, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    url = serve(authority.context())
    monkeypatch.setenv(variable, str(authority.file))
    assert ask(url).answer.status == "assigned"


def test_untrusted_authority_is_reported_with_the_fix(authority: Authority, serve: Callable[..., str]) -> None:
    error, fix = refused(serve(authority.context()))
    assert "its certificate is not of an authority that this system trusts" in error
    assert "SSL_CERT_FILE" in fix
    assert "REQUESTS_CA_BUNDLE" in fix


def test_certificate_for_another_host_is_reported(trusted: Authority, serve: Callable[..., str]) -> None:
    error, fix = refused(serve(trusted.context(host="muster.example")))
    assert "its certificate is for another host" in error
    assert "name" in fix


@pytest.mark.parametrize(
    ("days", "reason", "advice"),
    [
        ((-2, -1), "its certificate has expired", "Renew"),
        ((1, 2), "its certificate is not valid yet", "clock"),
    ],
)
def test_expired_or_future_certificate_is_reported(
    trusted: Authority, serve: Callable[..., str], days: tuple[int, int], reason: str, advice: str
) -> None:
    start, end = (NOW + day * DAY for day in days)
    error, fix = refused(serve(trusted.context(start=start, end=end)))
    assert reason in error
    assert advice in fix


def test_https_to_an_http_port_is_reported(serve: Callable[..., str]) -> None:
    error, fix = refused(serve(None))
    assert "does not speak TLS" in error
    assert "http://" in fix


def test_http_to_an_https_port_is_unreachable(authority: Authority, serve: Callable[..., str]) -> None:
    refused(serve(authority.context()).replace("https:", "http:"))


def test_missing_ca_bundle_is_a_configuration_error(
    authority: Authority, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigurationError, match="can't be read") as raised:
        ask(serve(authority.context()))
    assert "REQUESTS_CA_BUNDLE" in raised.value.fix
