"""Policy of a device, from a TOML file: which plans may run, what may leave it, and how often.

    plans = ["c9a370f4…"]            # full addresses
    minimum = 10

    [budget]
    per_day = 4

A rule that the file does not set allows everything. `muster.client.policy_guard` applies the rules;
`docs/how-to/set-a-client-policy.md` lists them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Optional, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from typing_extensions import Self

from muster.client.limits import Limits
from muster.client.policy_faults import PolicyFileError, faults_of
from muster.wire.manifest import FoldKind
from muster.wire.messages import TaskKind
from muster.wire.signatures import parse_signers

_ADDRESS_LENGTH = 64  # hex digits of a SHA-256
_DEFAULT_FILE = "budget"


def _check_address(text: str) -> str:
    address = text.strip().lower()
    if len(address) != _ADDRESS_LENGTH or set(address) - set("0123456789abcdef"):
        raise ValueError(
            f"is not a full plan address: it needs the {_ADDRESS_LENGTH} hex digits that `muster plan show` prints"
        )
    return address


def _check_key(text: str) -> str:
    try:
        (key,) = parse_signers([text])
    except ValueError:
        raise ValueError("is not a public key: write ed25519: and 43 characters, each key as a separate text") from None
    return key


_Address = Annotated[str, AfterValidator(_check_address)]
_Key = Annotated[str, AfterValidator(_check_key)]
_Fold = Annotated[FoldKind, Field(strict=False)]
_Kind = Annotated[TaskKind, Field(strict=False)]
_Count = Annotated[int, Field(ge=0, le=10**9)]
_Bytes = Annotated[int, Field(ge=0)]


class _Rules(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BudgetRules(_Rules):
    """Limits on the number of contributions, counted on the device over all tasks and coordinators.

    A contribution is counted before its plan runs on the data, so that a failure, a crash and an
    update lost in transit count too. A limit of 0 stops all contributions.
    """

    per_day: Optional[_Count] = Field(
        default=None, description="Most contributions in any 24 hours.", examples=["per_day = 4"]
    )
    per_plan: Optional[_Count] = Field(
        default=None, description="Most contributions to one plan, ever.", examples=["per_plan = 100"]
    )
    per_broadcast: Optional[_Count] = Field(
        default=None,
        description=(
            "Most contributions to one plan with the same broadcast, ever: rollbacks, repeated rounds and two "
            "tasks of one plan repeat a broadcast. 2 allows one repeat of an abandoned round."
        ),
        examples=["per_broadcast = 2"],
    )
    separation_hours: Optional[Annotated[float, Field(gt=0, le=24 * 366 * 10, allow_inf_nan=False)]] = Field(
        default=None,
        description="Fewest hours between two contributions, over all tasks.",
        examples=["separation_hours = 12"],
    )
    file: Optional[Annotated[str, Field(min_length=1)]] = Field(
        default=None,
        description=(
            "File in which the device records its contributions; a relative path starts at the policy's folder. "
            "Several clients of a device share it. If not set: `budget` in systemd's `STATE_DIRECTORY`, else in "
            "`muster` in the user's state folder."
        ),
        examples=['file = "/var/lib/muster/budget"'],
    )

    @property
    def limits(self) -> dict[str, float]:
        """Returns the limits that are set, by name."""
        names = ("per_day", "per_plan", "per_broadcast", "separation_hours")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def path(self) -> Path:
        """Returns the file's absolute path.

        Raises:
          PolicyFileError: no file is set, and the user has no home folder.
        """
        if self.file is not None:
            return Path(self.file).expanduser().absolute()
        try:
            return (_state_folder() / _DEFAULT_FILE).absolute()
        except RuntimeError as error:
            raise PolicyFileError(
                "The budget has no path: this user has no home folder. Set one in the policy, for example "
                '[budget] file = "/var/lib/muster/budget"'
            ) from error


class ClientPolicy(_Rules):
    """Rules of a data owner, which the coordinator and its plans can't override.

    Build one in Python, or read a file with `ClientPolicy.load`.
    """

    plans: Optional[Annotated[tuple[_Address, ...], Field(strict=False, min_length=1)]] = Field(
        default=None,
        description=(
            "Full addresses (SHA-256) of the plans that may run. The strongest rule: list only reviewed plans."
        ),
        examples=['plans = ["c9a370f4…"], with all 64 digits'],
    )
    signers: Optional[Annotated[tuple[_Key, ...], Field(strict=False, min_length=1)]] = Field(
        default=None,
        description="Public keys of the signers that may vouch for a plan.",
        examples=['signers = ["ed25519:…"], as `muster plan keygen` prints it'],
    )
    signers_required: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Number of different `signers` that must have signed a plan.",
        examples=["signers_required = 2, with two keys or more in signers"],
    )
    minimum: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description=(
            "Fewest updates that may be released together. The plan's signed `release.minimum` must be at least "
            "this (a plan without one counts as 1), and so must the minimum that the coordinator announces."
        ),
        examples=["minimum = 10"],
    )
    goal: Optional[Annotated[int, Field(ge=1)]] = Field(
        default=None,
        description=(
            "Fewest updates that a round must aim for, as the coordinator announces it; not covered by a signature."
        ),
        examples=["goal = 20"],
    )
    folds: Optional[Annotated[tuple[_Fold, ...], Field(strict=False, min_length=1)]] = Field(
        default=None,
        description=(
            "Allowed folds of the aggregate's tensors: `sum`, `maximum`, `minimum`, `tensorflow`. All but sums "
            "may hold values of single clients."
        ),
        examples=['folds = ["sum"]'],
    )
    kinds: Optional[Annotated[tuple[_Kind, ...], Field(strict=False, min_length=1)]] = Field(
        default=None,
        description=(
            "Allowed kinds of work, as the coordinator announces them: `train`, `evaluate`, `analytics`; not covered "
            "by a signature."
        ),
        examples=['kinds = ["evaluate"]'],
    )
    clear_secure_sums: bool = Field(
        default=True,
        description="Whether the coordinator may read sums that the plan's computation requests as secure sums.",
        examples=["clear_secure_sums = false"],
    )
    string_tensors: bool = Field(
        default=True, description="Whether an update may hold text.", examples=["string_tensors = false"]
    )
    update_bytes_per_data_byte: Optional[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=None,
        description="Most bytes of an update's values for each byte of the data that the plan read.",
        examples=["update_bytes_per_data_byte = 0.2"],
    )
    max_update_bytes: Optional[_Bytes] = Field(
        default=None, description="Most bytes of an update.", examples=["max_update_bytes = 1_000_000"]
    )
    max_download_bytes: Optional[_Bytes] = Field(
        default=None,
        description="Most bytes of plan and broadcast together.",
        examples=["max_download_bytes = 50_000_000"],
    )
    max_seconds: Optional[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=None, description="Longest time that one assignment's work may take.", examples=["max_seconds = 600"]
    )
    budget: Optional[BudgetRules] = Field(
        default=None,
        description="How often this device may contribute; a section `[budget]`.",
        examples=["[budget], and per_day = 4 in a line below it"],
    )

    @field_validator("signers", "plans", "folds", "kinds")
    @classmethod
    def _without_repeats(cls, value: Optional[tuple[Any, ...]]) -> Optional[tuple[Any, ...]]:
        return None if value is None else tuple(dict.fromkeys(value))

    @field_validator("signers_required")
    @classmethod
    def _has_so_many_signers(cls, value: int, info: ValidationInfo) -> int:
        if "signers" in info.data and value > len(info.data["signers"] or ()):
            raise ValueError(f"is more than the {len(info.data['signers'] or ())} different keys in signers")
        return value

    @field_validator("budget")
    @classmethod
    def _has_a_limit(cls, value: Optional[BudgetRules]) -> Optional[BudgetRules]:
        if value is not None and not value.limits:
            raise ValueError("sets no limit")
        return value

    @classmethod
    def load(cls, path: Union[str, Path]) -> Self:
        """Reads a policy's file.

        Raises:
          PolicyFileError: the file can't be read or is not valid; the text lists every fault with
            its fix.
        """
        file = Path(path)
        document = _read(file)
        try:
            policy = cls.model_validate(document)
        except ValidationError as error:
            raise PolicyFileError("\n".join(f"{file}: {fault}" for fault in faults_of(error, cls, document))) from None
        if policy.budget is None or policy.budget.file is None:
            return policy
        budget_file = file.absolute().parent / Path(policy.budget.file).expanduser()
        return policy.model_copy(update={"budget": policy.budget.model_copy(update={"file": str(budget_file)})})

    @property
    def limits(self) -> Limits:
        """Returns the sizes and times among the rules."""
        return Limits(
            max_download_bytes=self.max_download_bytes,
            max_update_bytes=self.max_update_bytes,
            max_seconds=self.max_seconds,
        )


def _read(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        # Editors on Windows may write a byte order mark, which is not valid TOML.
        text = file.read_bytes().decode("utf-8-sig")
        return dict(tomllib.loads(text.replace("\r\n", "\n")))
    except OSError as error:
        raise PolicyFileError(
            f"{file}: {error.strerror or error}. Correct the policy's path, or write a policy: "
            "docs/how-to/set-a-client-policy.md has an example"
        ) from error
    except UnicodeDecodeError as error:
        raise PolicyFileError(f"{file} is not in UTF-8: save it in that encoding") from error
    except tomllib.TOMLDecodeError as error:
        raise PolicyFileError(
            f"{file} is not valid TOML: {error}. Put text in quotes and lists in brackets; "
            "examples/clients/ward.toml is an example"
        ) from error


def _state_folder() -> Path:
    """Returns the folder for this user's program state.

    Raises:
      RuntimeError: the user has no home folder.
    """
    directories = os.environ.get("STATE_DIRECTORY")  # set by a systemd unit with StateDirectory=; may list several
    if directories:
        return Path(directories.split(os.pathsep)[0])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "muster"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "muster"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "muster"
