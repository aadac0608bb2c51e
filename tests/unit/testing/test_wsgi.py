"""`requests` over a WSGI application in this process."""

from __future__ import annotations

import pytest
import requests
from werkzeug.wrappers import Request, Response

from muster.client import TensorBody, Transport
from muster.testing.wsgi import InProcessAdapter


@Request.application
def echo(request):
    if request.path == "/refuse":
        return Response('{"type": "x"}', status=503, headers={"Retry-After": "7"})
    summary = f"{request.method} {request.full_path} {request.content_length} {request.headers.get('Authorization')}"
    return Response(request.get_data(), headers={"Summary": summary})


@pytest.fixture
def session():
    with requests.Session() as made:
        made.mount("http://here", InProcessAdapter(echo))
        yield made


@pytest.mark.parametrize("body", [b"some bytes", "text", None], ids=["bytes", "text", "nothing"])
def test_request_and_body_arrive(session, body):
    answer = session.put("http://here/a/b", data=body, params={"q": "x y"}, headers={"Authorization": "Bearer t"})
    expected = (body.encode() if isinstance(body, str) else body) or b""
    assert answer.content == expected
    assert answer.headers["summary"] == f"PUT /a/b?q=x+y {len(expected)} Bearer t"


def test_body_of_chunks_arrives(session):
    body = TensorBody({"a": [1.0, 2.0]})
    answer = session.put("http://here/", data=body, stream=True)
    assert b"".join(answer.iter_content(16)) == b"".join(body)


def test_status_and_headers_are_returned(session):
    answer = session.get("http://here/refuse")
    assert (answer.status_code, answer.reason, answer.ok) == (503, "SERVICE UNAVAILABLE", False)
    assert answer.headers["retry-after"] == "7"


def test_transport_works_over_the_adapter(session):
    assert Transport("http://here", session=session).download("/a?b=c") == b""
