"""Analyses as studies ask for them: which runs they fit, where they lie, whether what lies there answers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from deconfound.analysis import iv, saliency
from deconfound.errors import require
from deconfound.recipes.analysing import ALL, KINDS, Look, default_folder
from deconfound.recipes.cafe import AMRGMMSettings, CafeSettings
from deconfound.recipes.causal import CausalAdvSettings
from deconfound.recipes.effect_attacks import parse_attacks
from deconfound.recipes.entries import HostedSettings, ObjectiveSettings
from deconfound.recipes.registry import is_stochastic
from deconfound.recipes.relying import parse_rhos
from deconfound.recipes.schema import Recipe
from deconfound.records import ANALYSES, AnalysisRecord, EffectsRecord, RelianceRecord
from deconfound.training.settings import Settings

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=1)]

# Two agreement probabilities that stand for the same data.
_SAME = 1e-9


class Analysis(Settings):
    """What a study looks for in a run: the options of ``deconfound analyze`` that change what is found.

    ``n`` null: all test images. The others are those of single kinds, as ``Look`` has them.
    """

    kind: str
    n: Count | None = None
    sample: Seed | None = None
    seed: Seed = 0
    rho: str | tuple[float | str, ...] | None = None
    layer: str | None = None
    treatments: int | None = None
    instruments: int | None = None
    steps: int | None = None
    attack: str | tuple[str, ...] | None = None

    @field_validator("rho", mode="before")
    @classmethod
    def _one_rho(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _is_a_look(self) -> Analysis:
        require(self.kind != ALL, "kind", self.kind, f"a single kind: {', '.join(sorted(KINDS))}")
        self.look("run")
        return self

    def look(self, run: str | Path, **more: Any) -> Look:
        """The arguments of the job.

        Args:
            run: folder.
            more: further fields, such as the device.

        Raises:
            InputError: an unknown kind, or an option that it does not take.
        """
        own = self.model_dump()
        rho = own.pop("rho")
        return Look(run=str(run), rho=rho if rho is None or isinstance(rho, str) else ",".join(map(str, rho)),
                    **own, **more)  # fmt: skip

    @property
    def name(self) -> str:
        """What the folder of the analysis is called, below that of the run.

        >>> Analysis(kind="reliance", n=600, rho="sweep").name
        'analyze-reliance-n600-rhosweep'
        """
        return default_folder(self.look("run")).name

    def record(self, run: Path) -> Path:
        """The file of its record in a run's folder."""
        return run / self.name / f"{self.kind}.json"


def _any_of(settings: ObjectiveSettings, fits: Callable[[ObjectiveSettings], bool]) -> bool:
    """Whether an objective fits, or the host that it is around."""
    return fits(settings) or (isinstance(settings, HostedSettings) and _any_of(settings.host, fits))


def _has_style(settings: ObjectiveSettings) -> bool:
    return isinstance(settings, CausalAdvSettings) and settings.alpha > 0


def _is_cut(recipe: Recipe) -> bool:
    return recipe.sampler is None and not is_stochastic(recipe.objective)


FITS: Mapping[str, Callable[[Recipe], bool]] = {
    "style": lambda recipe: _any_of(recipe.objective, _has_style),
    "reliance": lambda recipe: True,
    "instruments": _is_cut,
    "pictures": _is_cut,
    "exposure": lambda recipe: recipe.sampler is not None,
    "effects": lambda recipe: isinstance(recipe.objective, AMRGMMSettings | CafeSettings),
    "checkpoints": lambda recipe: recipe.keep_every is not None and _any_of(recipe.objective, _has_style),
}
"""Whether runs of a recipe will have what a kind of analysis needs; what data must have is not asked."""

_LIBRARIES: Mapping[str, Callable[[], Any]] = {"instruments": iv.load_library, "pictures": saliency.load_library}


def check_fits(analysis: Analysis, recipe: Recipe, name: str) -> None:
    """An analysis can be made of a run of a recipe.

    Args:
        analysis: asked for.
        recipe: of the run, complete.
        name: of the method, for the message.

    Raises:
        InputError: it needs what such runs do not have.
    """
    rule = f"a kind that fits {name}, which is trained with {recipe.recipe}; this one needs {KINDS[analysis.kind].fits}"
    require(FITS[analysis.kind](recipe), "analyze: kind", analysis.kind, rule)


def check_possible(analysis: Analysis, data: str, tests: int, operations: bool, confounded: bool) -> None:
    """The data have what an analysis needs, and so has this installation.

    Args:
        analysis: asked for.
        data: their name.
        tests: number of test images.
        operations: whether the test images have do-operations.
        confounded: whether they have an agreement probability.

    Raises:
        InputError: more images than there are, no do-operations, a library that is missing.
    """
    count = analysis.n
    require(count is None or count <= tests, "analyze: n", count, f"between 1 and the split's {tests} images")
    if analysis.kind == "reliance":
        rule = f"a kind that fits the data, {data}; this one needs {KINDS['reliance'].fits}"
        require(operations, "analyze: kind", analysis.kind, rule)
        rule = "none: these data do not say how often their confounder agrees"
        require(confounded or analysis.rho is None, "analyze: rho", analysis.rho, rule)
    check_library(analysis.kind)


def check_library(kind: str) -> None:
    """The library that a kind of analysis rests on loads; it is needed only after a training.

    Args:
        kind: of analysis.

    Raises:
        InputError: it is missing or broken.
    """
    _LIBRARIES.get(kind, lambda: None)()


def read_record(analysis: Analysis, file: Path) -> AnalysisRecord:
    """The record of an analysis.

    Raises:
        InputError: another kind of record, or a newer schema.
    """
    return ANALYSES[f"{analysis.kind}-analysis"].read(file)


def check_record(analysis: Analysis, file: Path, asked: Mapping[str, Any]) -> None:
    """What lies in a file is what an analysis asks for.

    Args:
        analysis: asked for.
        file: of the record.
        asked: further fields that it must have, such as the digest of the model.

    Raises:
        InputError: it is about something else.
    """
    record = read_record(analysis, file)
    wanted = {"seed": analysis.seed, **asked} | ({} if analysis.n is None else {"n": analysis.n})
    for key, value in wanted.items():
        found = getattr(record, key)
        require(found == value, f"{file}: {key}", found, f"{value}, as the study asks of this run")
    if isinstance(record, EffectsRecord) and analysis.attack is not None:
        names = tuple(one.attack.name for one in record.attacks)
        wanted_names = parse_attacks(analysis.attack)
        require(names == wanted_names, f"{file}: attack", names, f"{wanted_names}, as the study asks of this run")
    if isinstance(record, RelianceRecord):
        rhos = [point.rho for point in record.points if point.rho is not None]
        for rho in parse_rhos(analysis.look("run").rho) or ():
            there = any(abs(rho - one) < _SAME for one in rhos)
            require(there, f"{file}: rho", rhos, f"{rho:g} among them, as the study asks of this run")


__all__ = ["FITS", "Analysis", "check_fits", "check_library", "check_possible", "check_record", "read_record"]
