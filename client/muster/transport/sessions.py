"""Creates requests sessions that use the system's CA store and no proxy for loopback addresses."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from pathlib import Path
from typing import Any, Optional
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy

_STORE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # OpenSSL's own


def new_session() -> requests.Session:
    """Returns a session that trusts the system's CA store.

    `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`, `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the store, in
    this order. If OpenSSL can read no store of the system, the certificates of `certifi` are used.
    """
    session = requests.Session()
    session.mount("https://", _SystemStoreAdapter())
    return session


def is_loopback(host: Optional[str]) -> bool:
    """Returns whether `host` is a loopback name or address."""
    name = (host or "").lower().rstrip(".").partition("%")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(name))  # short forms, such as 127.1
        except OSError:
            return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback or address.is_unspecified)


def proxies_for(url: str) -> dict[str, str]:
    """Returns the `proxies` argument of `requests` for `url`; it disables proxies on loopback."""
    host = urlsplit(url).hostname
    return {"no_proxy": host} if host is not None and is_loopback(host) else {}


def proxy_of(session: requests.Session, url: str) -> Optional[str]:
    """Returns the proxy of requests to `url` with the setting that names it, or None.

    For example `http://proxy.example:3128 (HTTPS_PROXY)`. Credentials are removed.
    """
    try:
        settings = session.merge_environment_settings(url, proxies_for(url), None, None, None)
        proxy: Optional[str] = select_proxy(url, settings["proxies"])
        if not proxy:
            return None
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "?"
        address = f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
    except ValueError:  # not an address
        return "of an address that is not valid"
    return f"{address} ({_setting_of(proxy, urlsplit(url).scheme)})"


def _setting_of(proxy: str, scheme: str) -> str:
    names = [f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"]
    return next((name for name in names if os.environ.get(name) == proxy), "from the session or the system's settings")


class _SystemStoreAdapter(HTTPAdapter):
    """Adapter that verifies certificates with the system's CA store, loaded at first use."""

    _store: Optional[ssl.SSLContext] = None

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        """Sends a request; see `HTTPAdapter.send`."""
        verify = more.get("verify", True)
        settings = self.poolmanager.connection_pool_kw
        if verify is not True:
            settings.pop("ssl_context", None)  # a custom certificate bundle replaces the store
        elif "ssl_context" not in settings:
            self._store = self._store or system_store()
            settings["ssl_context"] = self._store
        return super().send(request, *args, **more)

    def proxy_manager_for(self, proxy: Any, **more: Any) -> Any:
        """Returns the connections through a proxy; see `HTTPAdapter.proxy_manager_for`."""
        context = self.poolmanager.connection_pool_kw.get("ssl_context")
        return super().proxy_manager_for(proxy, **more, **({} if context is None else {"ssl_context": context}))

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Sets a connection's certificate verification; see `HTTPAdapter.cert_verify`."""
        super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]
        if verify is True:
            conn.ca_certs = conn.ca_cert_dir = None  # the store, not the bundle of certifi


def system_store() -> ssl.SSLContext:
    """Returns a context that trusts the system's CA store, or `certifi` if there is none."""
    context = ssl.create_default_context()
    if not any(os.environ.get(name) for name in _STORE_VARIABLES) and not _has_certificates(context):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _has_certificates(context: ssl.SSLContext) -> bool:
    if context.cert_store_stats()["x509_ca"]:
        return True
    folder = ssl.get_default_verify_paths().capath  # read when a certificate is verified
    return folder is not None and any(Path(folder).iterdir())


def is_address(url: str) -> bool:
    """Returns whether requests can be sent to `url`."""
    try:
        place = urlsplit(url)
        if place.scheme not in ("http", "https") or not place.hostname:
            return False
        place.hostname.encode("idna")
        requests.Request("GET", url).prepare()
    except (ValueError, UnicodeError):  # `requests.exceptions.InvalidURL` is a ValueError
        return False
    return True
