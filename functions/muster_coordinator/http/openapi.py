"""Generates the OpenAPI 3.1 document from the tables of routes and the message types.

One document describes all four functions, and each function serves it. The tag of an operation
names the function that serves the operation. `docs/openapi.json` is a copy for readers; a test
fails when it is out of date (`make openapi` rewrites it).
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
from muster_coordinator.http.responses import SAFETENSORS
from muster_coordinator.http.routing import PARAMETERS, PATTERNS, Route, Security

Json = dict[str, Any]

EVERY_FUNCTION = "every function"
_SCHEMA = "#/components/schemas/"

_TAGS = {
    "client_api": "Routes of clients: check-in, plan, broadcast, upload, start, report.",
    "operator_api": "Routes of operators: plans, tasks, rounds, results, checkpoints, the audit log.",
    "aggregator": "Routes that only the queue and the scheduler call: fold, close, sweep, tick.",
    "committer": "Routes that only the queue calls: commit, open.",
    EVERY_FUNCTION: "Routes that each of the four functions serves.",
}
_PARAMETERS = {
    "population": "Name of the population.",
    "task": "Name of the task.",
    "sha256": "Address of the plan: the SHA-256 of its manifest, in hex.",
    "round": "Number of the round, from 1.",
    "version": "Version of the server state: 0 is the initial state, n the state after round n.",
    "tag": "Tag of a checkpoint.",
    "request": "Idempotency key of the run.",
}
_SECURITY_SCHEMES = {
    Security.ASSIGNMENT: "Token of an assignment, from the check-in.",
    Security.OPERATOR: "An operator's key or OpenID Connect token. Not needed if MUSTER_OPERATORS is `open`.",
    Security.CLIENT: "A client's enrolment or OpenID Connect token. Not needed if MUSTER_CLIENTS is `open`.",
}
_BINARY = {
    SAFETENSORS: "A safetensors file; see docs/reference/protocol.md.",
    plan.CONTENT_TYPE: "A plan's file; see docs/reference/protocol.md.",
}
# Problems that every route may return.
_COMMON_PROBLEMS = (ProblemType.METHOD_NOT_ALLOWED, ProblemType.UNAVAILABLE, ProblemType.INTERNAL)
_INFO = """\
Muster's coordinator. Bodies are JSON unless a media type says otherwise; times are RFC 3339, durations are seconds.
Every error is a problem document (RFC 9457) of one of the types listed with it. A path that is not described here is
answered with 404, a method that a path does not accept with 405, both as problem documents.
"""


def document(functions: Mapping[str, Sequence[Route]]) -> Json:
    """Returns the OpenAPI document.

    Args:
      functions: Routes of each function, by the function's name, which becomes a tag.
    """
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
                security.value: {"type": "http", "scheme": "bearer", "description": text}
                for security, text in _SECURITY_SCHEMES.items()
            },
        },
    }


def encode(description: Json) -> bytes:
    """Returns the document as it is served and committed."""
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
            _header("If-None-Match", "ETag of a cached copy. The response is 304 if it is current."),
            _header("Range", "Range of bytes, such as `bytes=0-1023`. The response is 206 with this range."),
        ]
    if route.encoded and route.accepts is not None:
        parameters.append(_header("Content-Encoding", "Encoding of the body: zstd, gzip or none."))
    if route.encoded and route.returns in _BINARY:
        parameters.append(_header("Accept-Encoding", "Encodings that the client accepts: zstd, gzip."))
    if parameters:
        operation["parameters"] = parameters
    if route.accepts is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.accepts)}
    operation["responses"] = {**_successes(route), **_failures(route)}
    if route.security is not Security.NONE:
        credentials: list[Json] = [{route.security.value: []}]
        # An empty requirement makes the credentials optional.
        operation["security"] = [{}, *credentials] if route.security is Security.CLIENT else credentials
    return operation


def _operation_id(method: str, path: str) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", f"{method} {path}".lower().replace("/v1/", "/")))


def _link(link: Link) -> Json:
    encoded: Json = {"operationId": _operation_id(link.method, link.path)}
    if link.parameters:
        encoded["parameters"] = link.parameters
    if link.body is not None:
        encoded["requestBody"] = link.body
    return encoded


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
    return route.method == "GET" and route.returns in _BINARY


def _content(body: type[Message] | str) -> Json:
    if not isinstance(body, str):
        return {"application/json": {"schema": {"$ref": _SCHEMA + body.__name__}}}
    if body in _BINARY:
        return {body: {"schema": {"type": "string", "format": "binary", "description": _BINARY[body]}}}
    return {body: {"schema": {"type": "object"} if body == "application/json" else {"type": "string"}}}


def _successes(route: Route) -> Json:
    success: Json = {"description": HTTPStatus(route.status).phrase}
    if route.returns is not None:
        success["content"] = _content(route.returns)
    links = LINKS.get((route.method, route.path))
    if links:
        success["links"] = {link.name: _link(link) for link in links}
    responses = {str(int(route.status)): success}
    if route.repeat_status is not None:
        responses[str(int(route.repeat_status))] = {**success, "description": "A repeat; it already exists"}
    if _is_immutable(route):
        responses["206"] = {**success, "description": "The requested range"}
        responses["304"] = {"description": "The cached copy is current"}
    return responses


def _failures(route: Route) -> Json:
    types = {*route.problems, *_COMMON_PROBLEMS}
    if "{" in route.path:
        types.add(ProblemType.NOT_FOUND)
    if route.accepts is not None:
        types.update((ProblemType.TOO_LARGE, ProblemType.UPDATE_TRUNCATED))
    if _is_immutable(route):
        types.add(ProblemType.INVALID_REQUEST)  # a range that can't be satisfied
    by_status: dict[int, list[ProblemType]] = {}
    for problem in ProblemType:
        if problem in types:
            by_status.setdefault(STATUS[problem], []).append(problem)
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
        response["headers"] = {"Allow": {"description": "Methods that the path accepts", "schema": {"type": "string"}}}
    if STATUS[kinds[0]] == HTTPStatus.UNAUTHORIZED:
        response["headers"] = {
            "WWW-Authenticate": {"description": "Scheme of the required credentials", "schema": {"type": "string"}}
        }
    if ProblemType.UNAVAILABLE in kinds or ProblemType.RATE_LIMITED in kinds:
        response["headers"] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
    return response


def _schemas(routes: Iterable[Route]) -> Json:
    types: set[type[BaseModel]] = {Problem}
    for route in routes:
        types.update(body for body in (route.accepts, route.returns) if isinstance(body, type))
    models = sorted(types, key=lambda model: model.__name__)
    _, schema = models_json_schema([(model, "validation") for model in models], ref_template=_SCHEMA + "{model}")
    definitions: Json = schema["$defs"]
    return {name: definitions[name] for name in sorted(definitions)}
