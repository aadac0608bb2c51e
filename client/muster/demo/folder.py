"""The demo's folder: what is in it, and how it is made empty without touching what is not the demo's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from muster.private_files import FOLDER_MODE, make_folder
from muster.wire.tensors import Array, encode

_MARK = "made-by-muster-demo.txt"
_MARK_TEXT = "`muster demo` made this folder and replaces all that is in it. Copy what you want to keep.\n"
_WEIGHTS = "global_model_weights/trainable/"


class ForeignFolderError(RuntimeError):
    """The folder holds something that the demo did not put there."""


@dataclass(frozen=True)
class Folder:
    """Where everything is that the demo leaves."""

    root: Path

    @property
    def plan(self) -> Path:
        """The compiled computation."""
        return self.root / "digits.plan"

    @property
    def coordinator(self) -> Path:
        """The coordinator's state, blobs and logs."""
        return self.root / "coordinator"

    @property
    def clients(self) -> Path:
        """The clients' data and logs."""
        return self.root / "clients"

    @property
    def log(self) -> Path:
        """What compiling noted."""
        return self.root / "compiling.log"

    @property
    def picture(self) -> Path:
        """Accuracy and loss by round."""
        return self.root / "accuracy.png"

    @property
    def weights(self) -> Path:
        """The model's weights after the last round."""
        return self.root / "final_weights.safetensors"

    def prepare(self) -> None:
        """Makes the folder, or empties one of an earlier demo.

        Raises:
          ForeignFolderError: It holds files and no earlier demo's mark, or is no folder.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ForeignFolderError(f"{self.root} is a file; give another --out")
        found = list(self.root.iterdir()) if self.root.exists() else []
        mine = {_MARK, "metrics.csv", "checkpoints"} | {
            path.name for path in (self.plan, self.coordinator, self.clients, self.log, self.picture, self.weights)
        }
        foreign = sorted(path.name for path in found if path.name not in mine)
        if foreign or (found and not (self.root / _MARK).exists()):
            what = ", ".join(foreign[:3]) or "files and no mark of an earlier demo"
            raise ForeignFolderError(f"{self.root} holds {what}, which is not the demo's; give another --out")
        # The mark goes last and comes first: a demo that was killed in between still knows its folder.
        for path in sorted(found, key=lambda path: path.name == _MARK):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        make_folder(self.root)
        if os.name == "posix":
            self.root.chmod(FOLDER_MODE)  # earlier versions made it world-readable
        (self.root / _MARK).write_text(_MARK_TEXT)

    def save_weights(self, state: Mapping[str, Array]) -> None:
        """Writes the model's weights out of a checkpoint, called `0`, `1` and so on in the order of the network's layers."""
        weights = {name.removeprefix(_WEIGHTS): value for name, value in state.items() if name.startswith(_WEIGHTS)}
        self.weights.write_bytes(encode(weights))
