"""Proxies that lose requests or answers, in front of a service's emulator.

`plan` scripts the faults of the next calls of a method; other calls are forwarded. `calls` counts
all calls.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import grpc
import requests

from support.faults import When
from support.served import Loopback


class _FaultScript:
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._faults: defaultdict[str, deque[When | None]] = defaultdict(deque)
        self._lock = threading.Lock()

    def plan(self, method: str, *faults: When | None) -> None:
        """Scripts the faults of the next calls of `method`; None: no fault."""
        self._faults[method].extend(faults)

    def _next_fault(self, method: str) -> When | None:
        with self._lock:
            self.calls[method] += 1
            faults = self._faults[method]
            return faults.popleft() if faults else None


class FaultyGrpcProxy(_FaultScript):
    """Proxy of a gRPC service without TLS, such as the Firestore emulator. Methods: `Commit`, …"""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])
        self._server = grpc.server(ThreadPoolExecutor(16, "lossy"), handlers=(_Forwarding(self),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()
        self._target.close()

    def forward(self, method: str, request: bytes, context: grpc.ServicerContext) -> Any:
        """Forwards a call as a stream and returns the answers."""
        fault = self._next_fault(method.rpartition("/")[2])
        if fault is When.BEFORE:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the request was lost")
        metadata = [pair for pair in context.invocation_metadata() if not pair[0].startswith("grpc-")]
        try:
            answers = list(self._target.unary_stream(method)(request, metadata=metadata, timeout=30))
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
        if fault is When.AFTER:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        return iter(answers)


class _Forwarding(grpc.GenericRpcHandler):
    def __init__(self, proxy: FaultyGrpcProxy) -> None:
        self._proxy = proxy

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_stream_rpc_method_handler(
            lambda request, context: self._proxy.forward(details.method, request, context)
        )


class FaultyHttpProxy(_FaultScript, Loopback):
    """Proxy of an HTTP service, such as fake-gcs-server. Methods: `POST`, …"""

    def __init__(self, target: str) -> None:
        _FaultScript.__init__(self)
        self._target = target
        self._session = requests.Session()
        self._session.trust_env = False
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _forward(self) -> None:
                fault = proxy._next_fault(self.command)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if fault is not When.BEFORE:
                    headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
                    answer = proxy._session.request(
                        self.command, proxy._target + self.path, data=body, headers=headers, timeout=30, stream=True
                    )
                    content = answer.raw.read()
                if fault is not None:
                    self.close_connection = True  # without an answer
                    return
                self.send_response(answer.status_code)
                for key, value in answer.headers.items():
                    if key.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                        # Addresses in headers keep pointing to this proxy.
                        self.send_header(key, value.replace(proxy._target, proxy.url))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        for verb in ("GET", "POST", "PUT", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler._forward)
        Loopback.__init__(self, ThreadingHTTPServer(("127.0.0.1", 0), Handler))
