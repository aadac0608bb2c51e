"""Output folder of the demo, which it never clears if it holds foreign files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from muster.private_files import FOLDER_MODE, make_folder
from muster.wire.tensors import Array, encode

_MARK = "made-by-muster-demo.txt"
_MARK_TEXT = "`muster demo` created this folder and replaces its content. Copy the files that you want to keep.\n"
_WEIGHTS = "global_model_weights/trainable/"


class ForeignFolderError(RuntimeError):
    """Error raised when the folder holds files that the demo did not create."""


@dataclass(frozen=True)
class Folder:
    """Output folder of the demo."""

    root: Path

    @property
    def plan(self) -> Path:
        """Returns the path of the compiled plan."""
        return self.root / "digits.plan"

    @property
    def coordinator(self) -> Path:
        """Returns the folder of the coordinator."""
        return self.root / "coordinator"

    @property
    def clients(self) -> Path:
        """Returns the folder of the clients' data and logs."""
        return self.root / "clients"

    @property
    def log(self) -> Path:
        """Returns the path of the compiler's log."""
        return self.root / "compiling.log"

    @property
    def picture(self) -> Path:
        """Returns the path of the plot of accuracy and loss."""
        return self.root / "accuracy.png"

    @property
    def weights(self) -> Path:
        """Returns the path of the model's weights after the last round."""
        return self.root / "final_weights.safetensors"

    def prepare(self) -> None:
        """Creates the folder, or clears that of an earlier demo.

        Raises:
          ForeignFolderError: it holds foreign files, or it is a file.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ForeignFolderError(f"{self.root} is a file; give another --out")
        entries = list(self.root.iterdir()) if self.root.exists() else []
        own = {_MARK, "metrics.csv", "checkpoints"} | {
            path.name for path in (self.plan, self.coordinator, self.clients, self.log, self.picture, self.weights)
        }
        foreign = sorted(path.name for path in entries if path.name not in own)
        if foreign or (entries and not (self.root / _MARK).exists()):
            content = ", ".join(foreign[:3]) or "files and no mark of an earlier demo"
            raise ForeignFolderError(f"{self.root} holds {content}, which the demo did not create; give another --out")
        # The mark is removed last and written first, so that a killed demo leaves a folder with a
        # mark.
        for path in sorted(entries, key=lambda path: path.name == _MARK):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        make_folder(self.root)
        if os.name == "posix":
            self.root.chmod(FOLDER_MODE)  # earlier versions made it world-readable
        (self.root / _MARK).write_text(_MARK_TEXT)

    def save_weights(self, state: Mapping[str, Array]) -> None:
        """Writes the model's weights of a checkpoint, named `0`, `1`, … in layer order."""
        weights = {name.removeprefix(_WEIGHTS): value for name, value in state.items() if name.startswith(_WEIGHTS)}
        self.weights.write_bytes(encode(weights))
