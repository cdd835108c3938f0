"""The folder of one training run."""

from __future__ import annotations

import shutil
from pathlib import Path

from deconfound.errors import InputError, require
from deconfound.store.atomic import cannot_write

FILES = (
    "recipe.yaml",
    "metrics.jsonl",
    "last.ckpt",
    "previous.ckpt",
    "model.safetensors",
    "players.safetensors",
    "record.json",
)
EPOCHS = "epochs"
FOLDERS = ("tensorboard", "stages", EPOCHS)
EVALUATIONS = "evaluate-*.json*"
CERTIFICATIONS = "certify-*.json*"
ANALYSES = "analyze-*"


class RunFolder:
    """Paths of a run, and the rules for starting one where something already lies.

    ``RUN/recipe.yaml`` (resolved), ``metrics.jsonl``, ``last.ckpt``, ``previous.ckpt``, ``model.safetensors``,
    ``players.safetensors``, ``record.json``, ``tensorboard/``, and once it was judged or looked into
    ``evaluate-*.json``, ``certify-*.json`` and ``analyze-*/``; what it was built on in ``stages/``, weights of earlier
    epochs, where they were to be kept, in ``epochs/``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe, self.metrics, self.last, self.previous, self.model, self.players, self.record = (
            self.path / f for f in FILES
        )
        self.tensorboard = self.path / "tensorboard"

    def epoch(self, number: int) -> RunFolder:
        """Where the weights after so many epochs are kept, as those of a run."""
        return RunFolder(self.path / EPOCHS / f"{number:04d}")

    def kept(self) -> dict[int, RunFolder]:
        """The epochs whose weights were kept, in order; the network is written last, so without it there are none."""
        places = sorted(self.path.glob(f"{EPOCHS}/*/{FILES[4]}"))
        return {int(place.parent.name): RunFolder(place.parent) for place in places if place.parent.name.isdecimal()}

    def forget_epochs(self) -> None:
        """Remove the weights of earlier epochs, as where training begins again."""
        shutil.rmtree(self.path / EPOCHS, ignore_errors=True)

    def exists(self) -> bool:
        """Whether a run lies here: its recipe is written first and never missing."""
        return self.recipe.is_file()

    def has_checkpoint(self) -> bool:
        """Whether there is anything to resume from."""
        return self.last.is_file() or self.previous.is_file()

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Say whether a run may start here; changes nothing.

        Raises:
            InputError: a file in the way, a folder with other content, a run without ``resume`` or ``overwrite``.
        """
        shown = str(self.path)
        require(not (resume and overwrite), "resume", True, "either resume or overwrite, not both")
        require(not self.path.exists() or self.path.is_dir(), "out", shown, "a folder; a file of this name exists")
        if self.exists():
            rule = "a new folder; a run lies here (--resume continues it, --overwrite replaces it)"
            require(resume or overwrite, "out", shown, rule)
        elif self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise InputError("out", shown, "a new or empty folder; this one holds files that are not a run")

    def prepare(self, *, overwrite: bool = False) -> None:
        """Make the folder; with ``overwrite``, remove an earlier run's files (and nothing else) first."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                for name in reversed(FILES):  # the recipe goes last: until then the folder is a run
                    (self.path / name).unlink(missing_ok=True)
                for judged in (*self.path.glob(EVALUATIONS), *self.path.glob(CERTIFICATIONS)):  # of what goes
                    judged.unlink()
                for folder in (*(self.path / name for name in FOLDERS), *self.path.glob(ANALYSES)):
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise cannot_write(self.path, error) from None
