"""Help of options that set a field of a model: the field's description is the option's help.

The models need pydantic, so they are imported when help is rendered and not before.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib import import_module
from typing import Any

from typer.core import TyperCommand, TyperOption

_STATES_DEFAULT = "By default"  # a description with these words states the default itself
_DEFAULT_SENTENCE = re.compile(r"By default[^.]*\.(?=\s|$)\s*")


class SchemaCommand(TyperCommand):
    """Command with options that are named like the fields of a model."""

    model = ""  # `module:class`
    unset = ""  # meaning of an option that is not set, if it is not the field's default
    others: frozenset[str] = frozenset()  # further options that `unset` applies to

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help, with the fields' descriptions."""
        self.describe_options()
        super().format_help(ctx, formatter)

    def describe_options(self) -> None:
        """Sets the help and the shown default of each option that is named like a field.

        The option's own help, such as a note on its format, follows the description.
        """
        module, _, name = self.model.partition(":")
        fields = getattr(import_module(module), name).model_fields
        for option in self.params:
            field = fields.get(option.name)
            if not isinstance(option, TyperOption) or (field is None and option.name not in self.others):
                continue
            if field is None:
                self._state_unset(option)
                continue
            description = _with_option_names(str(field.description), fields)
            note = option.help or ""
            if not note.startswith(description):
                option.help = f"{description} {note}".strip()
            if (
                self._state_unset(option)
                or _STATES_DEFAULT in description
                or field.is_required()
                or field.default is None
            ):
                continue
            option.show_default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)

    def _state_unset(self, option: TyperOption) -> bool:
        """States `unset` in place of the field's default. Returns False if there is no `unset`."""
        if not self.unset:
            return False
        option.help = _DEFAULT_SENTENCE.sub("", option.help or "").strip()
        option.show_default = self.unset
        return True


def documented_by(model: str, *, unset: str = "", others: Collection[str] = ()) -> type[SchemaCommand]:
    """Returns the class of a command whose options are documented by the fields of `model`.

    Args:
      model: A pydantic model, as `module:class`.
      unset: Meaning of an option that is not set; by default it is the field's default.
      others: Names of further options that `unset` applies to.
    """
    return type("DocumentedCommand", (SchemaCommand,), {"model": model, "unset": unset, "others": frozenset(others)})


def _with_option_names(description: str, fields: Any) -> str:
    """Replaces the names of fields in a description by those of options."""

    def option_name(match: re.Match[str]) -> str:
        return f"`--{match[1].replace('_', '-')}`" if match[1] in fields else match[0]

    return re.sub(r"`(\w+)`", option_name, description)
