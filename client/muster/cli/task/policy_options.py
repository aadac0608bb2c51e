"""Options of the fields of a task's policy, which several commands of `muster task` share."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Callable, Optional

import typer
from typing_extensions import get_annotations

# Type of each option; the model, which needs pydantic, documents them when help is rendered.
_TYPES: Mapping[str, Any] = {
    "rounds": int,
    "goal": int,
    "minimum": int,
    "over_selection": float,
    "round_seconds": float,
    "assignment_seconds": float,
    "chunk": int,
    "shards": int,
    "interval_seconds": float,
    "starts_at": datetime,
    "separation_seconds": float,
    "allow_non_finite": bool,
    "max_update_norm": float,
    "clip": bool,
    "max_update_age": float,
    "graph_seconds": float,
    "weight": float,
}
_OPTIONS: Mapping[str, Any] = {
    "starts_at": typer.Option("--starts-at", help="The option takes local time."),
    "allow_non_finite": typer.Option("--allow-non-finite/--refuse-non-finite"),
    "clip": typer.Option("--clip/--no-clip"),
}
_PARTS: Mapping[str, tuple[Any, Any]] = {
    "window": (
        list[str],
        typer.Option(
            "--window",
            metavar="WINDOW",
            help="Hours in which clients are assigned, such as `22:00-06:00` or `sat,sun 08:00-20:00 Europe/Berlin`. "
            "Repeat the option for several. By default at any time.",
        ),
    ),
    "require": (
        list[str],
        typer.Option(
            "--require",
            metavar="RULE",
            help="Rule about an attribute that clients state, such as `app_version version_gte 2.1`, "
            "`locale in de,fr` or `charging exists`. Repeat the option for several. By default every client is "
            "eligible.",
        ),
    ),
    "keep_last": (
        int,
        typer.Option(
            "--keep-last",
            min=1,
            help="Number of newest checkpoints to store. Tagged ones are stored too. By default all are.",
        ),
    ),
    "keep_every": (
        int,
        typer.Option(
            "--keep-every",
            min=1,
            help="Store every checkpoint whose version is a multiple of this, beside --keep-last. By default none.",
        ),
    ),
    "pause_if_worse": (
        str,
        typer.Option(
            "--pause-if-worse",
            metavar="GUARD",
            help="Pause the task when a metric gets worse in so many rounds in a row (3), such as "
            "`loss:5`, or `accuracy:3:higher` where larger values are better. By default it never pauses.",
        ),
    ),
}
PART_NAMES = frozenset(_PARTS)
_WINDOW = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:[,-][a-z]{3})*)\s+)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)(?:\s+(?P<zone>\S+))?\Z"
)
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?(e-?[0-9]{1,3})?")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def with_policy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds an option of each field of a policy to a command.

    Args:
      command: A function with a keyword-only parameter `policy`, which receives the fields of the
        options that are set.
    """
    annotations = get_annotations(command, eval_str=True)
    parameters = [
        parameter.replace(annotation=annotations[parameter.name])
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "policy"
    ]
    options = {name: (kind, _OPTIONS.get(name, typer.Option())) for name, kind in _TYPES.items()}
    parameters += [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Optional[kind], option]
        )
        for name, (kind, option) in {**options, **_PARTS}.items()
    ]

    @functools.wraps(command)
    def run(*arguments: Any, **values: Any) -> None:
        given = {name: values.pop(name) for name in (*_TYPES, *_PARTS)}
        command(*arguments, policy=_fields(given), **values)

    # typer reads the signature and the annotations; these have no text to evaluate left.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the policy's fields of the options that are set."""
    fields = {name: given[name] for name in _TYPES if given[name] is not None}
    if "starts_at" in fields:
        fields["starts_at"] = fields["starts_at"].astimezone()
    if given["window"]:
        fields["windows"] = tuple(map(window_of, given["window"]))
    if given["require"]:
        fields["eligibility"] = tuple(map(rule_of, given["require"]))
    if given["pause_if_worse"] is not None:
        fields["guards"] = {"worsening": worsening_of(given["pause_if_worse"])}
    if given["keep_last"] is not None:
        fields["retention"] = {"last": given["keep_last"], "every": given["keep_every"]}
    elif given["keep_every"] is not None:
        raise typer.BadParameter("needs --keep-last, the number of newest checkpoints", param_hint="--keep-every")
    return fields


def window_of(text: str) -> dict[str, Any]:
    """Returns the fields of a `Window` such as `mon-fri 22:00-06:00 Europe/Berlin`.

    Raises:
      typer.BadParameter: the text has another form.
    """
    match = _WINDOW.match(text.strip())
    days = None if match is None else _days_of(match["days"])
    if match is None or days is None:
        raise typer.BadParameter(
            f"{text!r} is not a window such as `22:00-06:00` or `mon-fri 22:00-06:00 Europe/Berlin`",
            param_hint="--window",
        )
    return {"days": days, "start": match["start"], "end": match["end"], "time_zone": match["zone"] or "UTC"}


def _days_of(text: Optional[str]) -> Optional[tuple[str, ...]]:
    """Returns the days of `mon-wed,sat`, or None if one is not valid. No text is every day."""
    days: list[str] = []
    for item in filter(None, (text or "").split(",")):
        first, _, last = item.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            return None
        start, length = _DAYS.index(first), (_DAYS.index(last or first) - _DAYS.index(first)) % len(_DAYS)
        days += [_DAYS[(start + offset) % len(_DAYS)] for offset in range(length + 1)]
    return tuple(dict.fromkeys(days))


def rule_of(text: str) -> dict[str, Any]:
    """Returns the fields of an `EligibilityRule` such as `app_version version_gte 2.1`.

    Raises:
      typer.BadParameter: the text has fewer than two words.
    """
    key, _, rest = text.strip().partition(" ")
    op, _, values = rest.strip().partition(" ")
    if not op:
        raise typer.BadParameter(
            f"{text!r} is not a rule such as `app_version version_gte 2.1` or `locale in de,fr`", param_hint="--require"
        )
    parsed = tuple(_value_of(item.strip(), op=op) for item in values.split(",")) if values.strip() else ()
    return {"key": key, "op": op, "values": parsed}


def _value_of(text: str, *, op: str) -> Any:
    """Returns a value as a boolean or a number where the text is one; a version stays text."""
    if text in ("true", "false"):
        return text == "true"
    if op.startswith("version"):
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def worsening_of(text: str) -> dict[str, Any]:
    """Returns the fields of a `WorseningGuard` such as `client_work/train/loss:5`.

    Raises:
      typer.BadParameter: the part behind the metric is not valid.
    """
    metric, *more = text.split(":")
    guard: dict[str, Any] = {"metric": metric}
    for item in more:
        if item.isdecimal():
            guard["rounds"] = int(item)
        elif item in ("higher", "lower"):
            guard["better"] = item
        else:
            raise typer.BadParameter(
                f"{item!r} is neither a number of rounds nor `higher` or `lower`", param_hint="--pause-if-worse"
            )
    return guard
