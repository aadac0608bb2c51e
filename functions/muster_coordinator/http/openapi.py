"""The OpenAPI 3.1 description of all routes, made from the route tables and the messages, so that it can't fall behind them.

One document describes all four functions; each operation's tag names the function that serves it, and any function serves
the document. `docs/openapi.json` is the same, for readers; a test fails when it has fallen behind (`make openapi`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from muster.wire import plan, problems
from muster.wire.base import Message
from muster.wire.problems import STATUS, Problem, ProblemType
from muster_coordinator.http.links import LINKS, Link
from muster_coordinator.http.routing import PARAMETERS, PATTERNS, Route

Json = dict[str, Any]

EVERY_FUNCTION = "every function"
_SAFETENSORS = "application/octet-stream"
_SCHEMA = "#/components/schemas/"
_BEARER = "assignment"
_OPERATOR = "operator"
_CLIENT = "client"

_TAGS = {
    "client_api": "What clients call: check-in, plan, broadcast, upload, start, report.",
    "operator_api": "What operators call: plans, tasks, rounds, results, checkpoints, the audit log.",
    "aggregator": "Called by the queue and the scheduler alone: fold, close, sweep, tick.",
    "committer": "Called by the queue alone: commit, open.",
    EVERY_FUNCTION: "Served by each of the four.",
}
_PARAMETERS = {
    "population": "The population's name.",
    "task": "The task's name.",
    "sha256": "The plan's address: the SHA-256 of its manifest, in hex.",
    "round": "The round's number, from 1.",
    "version": "The version of the server state: 0 is the initial one, n the state after round n.",
}
_BINARY = {
    _SAFETENSORS: "A safetensors file; see docs/reference/protocol.md.",
    plan.CONTENT_TYPE: "A plan's file; see docs/reference/protocol.md.",
}
# What any route may answer, whatever it does.
_ANYWHERE = (ProblemType.METHOD_NOT_ALLOWED, ProblemType.UNAVAILABLE, ProblemType.INTERNAL)
_INFO = """\
Muster's coordinator. Bodies are JSON unless a media type says otherwise; times are RFC 3339, durations are seconds.
Every error is a problem document (RFC 9457) of one of the types listed with it. A path that is not described here is
answered with 404, a method that a path does not take with 405, both as problem documents.
"""


def document(functions: Mapping[str, Sequence[Route]]) -> Json:
    """The description of `functions`: by name (a tag of the document), what each serves."""
    paths: dict[str, Json] = {}
    for tag, routes in functions.items():
        for route in routes:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, tag)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Muster", "version": "1", "description": _INFO, "license": {"name": "Apache-2.0"}},
        "tags": [{"name": tag, "description": _TAGS[tag]} for tag in functions],
        "paths": paths,
        "components": {
            "schemas": _schemas(route for routes in functions.values() for route in routes),
            "securitySchemes": {
                _BEARER: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of an assignment, as the check-in gives it.",
                },
                _OPERATOR: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An operator's key or OpenID Connect token. Not needed where MUSTER_OPERATORS is open.",
                },
                _CLIENT: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Who the client is: an enrolment or OpenID Connect token, as MUSTER_CLIENTS wants it; none where that is open.",
                },
            },
        },
    }


def encode(description: Json) -> bytes:
    """The document as it is served and committed."""
    return (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()


def _operation(route: Route, tag: str) -> Json:
    operation: Json = {
        "tags": [tag],
        "summary": route.summary,
        "operationId": _operation_id(route.method, route.path),
    }
    parameters = [*_path_parameters(route), *_query_parameters(route)]
    if _is_immutable(route):
        parameters += [
            _header("If-None-Match", "An ETag: the answer is 304 if that is what there is."),
            _header("Range", "The bytes wanted, such as `bytes=0-1023`: the answer is 206 with just them."),
        ]
    if route.encoded and route.takes is not None:
        parameters.append(_header("Content-Encoding", "The body's encoding: zstd, gzip or none."))
    if route.encoded and route.gives in _BINARY:
        parameters.append(_header("Accept-Encoding", "The encodings that the answer may have: zstd, gzip."))
    if parameters:
        operation["parameters"] = parameters
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.takes)}
    operation["responses"] = {**_successes(route), **_failures(route)}
    if route.bearer:
        operation["security"] = [{_BEARER: []}]
    if route.operator:
        operation["security"] = [{_OPERATOR: []}]
    if route.client:
        operation["security"] = [{}, {_CLIENT: []}]
    return operation


def _operation_id(method: str, path: str) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", f"{method} {path}".lower().replace("/v1/", "/")))


def _link(link: Link) -> Json:
    found: Json = {"operationId": _operation_id(link.method, link.path)}
    if link.parameters:
        found["parameters"] = link.parameters
    if link.body is not None:
        found["requestBody"] = link.body
    return found


def _path_parameters(route: Route) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PARAMETERS[name],
            "schema": _parameter_schema(PARAMETERS[name]),
        }
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]


def _parameter_schema(kind: str) -> Json:
    return (
        {"type": "integer", "minimum": 0, "maximum": 999_999_999}
        if kind == "number"
        else {"type": "string", "pattern": f"^{PATTERNS[kind]}$"}
    )


def _query_parameters(route: Route) -> list[Json]:
    return [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in route.query.items()
    ]


def _header(name: str, description: str) -> Json:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}


def _is_immutable(route: Route) -> bool:
    return route.method == "GET" and route.gives in _BINARY


def _content(body: type[Message] | str) -> Json:
    if not isinstance(body, str):
        return {"application/json": {"schema": {"$ref": _SCHEMA + body.__name__}}}
    if body in _BINARY:
        return {body: {"schema": {"type": "string", "format": "binary", "description": _BINARY[body]}}}
    return {body: {"schema": {"type": "object"} if body == "application/json" else {"type": "string"}}}


def _successes(route: Route) -> Json:
    success: Json = {"description": HTTPStatus(route.status).phrase}
    if route.gives is not None:
        success["content"] = _content(route.gives)
    links = LINKS.get((route.method, route.path))
    if links:
        success["links"] = {link.name: _link(link) for link in links}
    found = {str(int(route.status)): success}
    if route.repeat_status is not None:
        found[str(int(route.repeat_status))] = {**success, "description": "It was there already"}
    if _is_immutable(route):
        found["206"] = {**success, "description": "The bytes that `Range` asked for"}
        found["304"] = {"description": "It has not changed; it never does"}
    return found


def _failures(route: Route) -> Json:
    types = {*route.problems, *_ANYWHERE}
    if "{" in route.path:
        types.add(ProblemType.NOT_FOUND)
    if route.takes is not None:
        types.update((ProblemType.TOO_LARGE, ProblemType.UPDATE_TRUNCATED))
    if _is_immutable(route):
        types.add(ProblemType.INVALID_REQUEST)  # a range that can't be met
    by_status: dict[int, list[ProblemType]] = {}
    for kind in ProblemType:
        if kind in types:
            by_status.setdefault(STATUS[kind], []).append(kind)
    return {str(status): _failure(by_status[status]) for status in sorted(by_status)}


def _failure(kinds: Sequence[ProblemType]) -> Json:
    examples = [problems.ProblemError(kind, "").to_problem() for kind in kinds]
    response: Json = {
        "description": "; ".join(
            f"`{kind.value}`: {example.title}" for kind, example in zip(kinds, examples, strict=True)
        ),
        "content": {
            problems.CONTENT_TYPE: {
                "schema": {
                    "allOf": [
                        {"$ref": _SCHEMA + Problem.__name__},
                        {"properties": {"type": {"enum": [example.type for example in examples]}}},
                    ]
                }
            }
        },
    }
    if ProblemType.METHOD_NOT_ALLOWED in kinds:
        response["headers"] = {"Allow": {"description": "What the path takes", "schema": {"type": "string"}}}
    if STATUS[kinds[0]] == HTTPStatus.UNAUTHORIZED:
        response["headers"] = {"WWW-Authenticate": {"description": "What is wanted", "schema": {"type": "string"}}}
    if ProblemType.UNAVAILABLE in kinds or ProblemType.RATE_LIMITED in kinds:
        response["headers"] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
    return response


def _schemas(routes: Iterable[Route]) -> Json:
    used: set[type[BaseModel]] = {Problem}
    for route in routes:
        used.update(body for body in (route.takes, route.gives) if isinstance(body, type))
    models = sorted(used, key=lambda model: model.__name__)
    _, schema = models_json_schema([(model, "validation") for model in models], ref_template=_SCHEMA + "{model}")
    found: Json = schema["$defs"]
    return {name: found[name] for name in sorted(found)}
