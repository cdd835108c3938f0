"""A recipe: everything that decides the result of a training run, as names and numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from deconfound.core.threat import Norm, ThreatModel, parse_norm, parse_radius
from deconfound.errors import InputError, nearest, require, unknown_name
from deconfound.recipes.ciiv import SamplerSettings
from deconfound.recipes.hosts import PerturbationSettings
from deconfound.recipes.registry import (
    OBJECTIVES,
    ObjectiveSettings,
    draws_views,
    entry_of,
    objective_settings,
    stages_of,
)
from deconfound.training.settings import LoopSettings, Settings

_ABSENT = "(none)"

Radius = Annotated[float, BeforeValidator(parse_radius)]
Pixels = tuple[Annotated[float, Field(ge=-10, le=10)], ...]
GIVEN = "a finished run"
Spread = tuple[Annotated[float, Field(gt=0, le=10)], ...]


class AugmentationSettings(Settings):
    """Random crop after padding, horizontal flip, rotation up to so many degrees."""

    crop: Annotated[int, Field(ge=0)] = 0
    padding: Literal["zero", "reflect"] = "zero"
    flip: bool = False
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0


class Normalisation(Settings):
    """Mean and standard deviation per channel (or one for all), applied inside the network."""

    mean: Pixels
    std: Spread


class Recipe(LoopSettings):
    """A validated, complete configuration of a training run.

    ``eps, norm, steps, step_size, attack_mode`` describe the inner attack (``step_size`` null: 2.5 eps / steps); its
    radius grows from 0 over the share ``eps_warmup`` of training. eps and norm are also the threat model that
    ``evaluate`` takes for the run. ``sampler`` stands in front of the network, ``awp`` around any objective with an
    adversarial example. ``stages`` says how each stage that the objective builds on is trained (a recipe and changes to
    it) or which finished run is taken. What the optimiser of a player leaves out is taken from ``optimizer``, unless it
    names another one. Everything else is inherited from ``LoopSettings``.
    """

    recipe: str
    data: str
    family: str
    model: str
    objective: SerializeAsAny[ObjectiveSettings]
    model_options: dict[str, Any] = {}
    normalisation: Normalisation | None = None
    sampler: SamplerSettings | None = None
    image_size: Annotated[int, Field(ge=1)] | None = None
    norm: Annotated[Norm, BeforeValidator(parse_norm)] = "linf"
    eps: Radius
    eps_warmup: Annotated[float, Field(ge=0, le=1)] = 0.0
    steps: Annotated[int, Field(ge=1)] = 10
    step_size: Radius | None = None
    attack_mode: Literal["eval", "train"] = "eval"
    augmentation: AugmentationSettings = AugmentationSettings()
    awp: PerturbationSettings | None = None
    stages: dict[str, Any] = {}

    @field_validator("objective", mode="before")
    @classmethod
    def _objective_by_name(cls, value: Any) -> ObjectiveSettings:
        if isinstance(value, ObjectiveSettings):
            return value
        return objective_settings({"name": value} if isinstance(value, str) else value)

    @model_validator(mode="after")
    def _radii_are_sensible(self) -> Recipe:
        norm = self.threat.norm  # made, so eps was checked
        rule = "at most 1 for linf: in pixels of [0, 1], so two levels are 2/255"
        within = self.step_size is None or norm != "linf" or self.step_size <= 1
        require(within, "step_size", self.step_size, rule)
        return self

    @model_validator(mode="after")
    def _awp_has_a_host(self) -> Recipe:
        if self.awp is not None and not entry_of(self.objective.name).adversarial:
            fitting = ", ".join(sorted(name for name, entry in OBJECTIVES.items() if entry.adversarial))
            rule = f"none with {self.objective.name}, which has no adversarial example; awp goes around {fitting}"
            raise InputError("awp", self.awp.model_dump(), rule)
        return self

    @model_validator(mode="after")
    def _views_are_drawn(self) -> Recipe:
        if self.sampler is not None and not draws_views(self.objective):
            fitting = ", ".join(sorted(name for name, entry in OBJECTIVES.items() if entry.views))
            rule = f"none with {self.objective.name}, which would train on one and the same draw; {fitting} draw views"
            raise InputError("sampler", self.sampler.model_dump(exclude_unset=True) or "a sampler", rule)
        return self

    @model_validator(mode="after")
    def _stages_are_needed(self) -> Recipe:
        needed = stages_of(self.objective)
        for name, how in self.stages.items():
            if not needed:
                raise InputError("stages", name, f"no stage: {self.objective.name} builds on none")
            if name not in needed:
                raise unknown_name("stages", name, needed)
            rule = "the folder of a finished run, or a recipe and changes to it"
            require(isinstance(how, str | Mapping), f"stages.{name}", how, rule)
        return self

    @property
    def threat(self) -> ThreatModel:
        """The threat model trained and, unless told otherwise, judged against."""
        return ThreatModel(self.norm, self.eps)

    def identity(self) -> dict[str, Any]:
        """What decides the result, as plain data: all but where data and given stages lie (their content is hashed)."""
        plain = self.model_dump(mode="json", exclude={"data"})
        if self.keep_every is None:
            del plain["keep_every"]  # recipes from before there was this key are what they were
        plain["stages"] = {name: GIVEN if isinstance(how, str) else how for name, how in self.stages.items()}
        return plain

    def digest(self) -> str:
        """SHA-256 of the sorted JSON of ``identity``."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved recipe as a YAML file that trains the same run again."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def differences(one: Recipe, other: Recipe) -> tuple[str, str] | None:
    """What two recipes say of the settings in which they differ, as dotted ``key=value`` words; None for equal ones."""
    mine, theirs = _flat(one.identity()), _flat(other.identity())
    keys = [key for key in {**mine, **theirs} if mine.get(key, _ABSENT) != theirs.get(key, _ABSENT)]
    if not keys:
        return None
    more = f" and {len(keys) - 3} other settings" if len(keys) > 3 else ""
    first, second = (", ".join(f"{k}={found.get(k, _ABSENT)}" for k in keys[:3]) for found in (mine, theirs))
    return first, second + more


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def validated(data: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Make a recipe from plain data.

    Raises:
        InputError: an unknown key (with the nearest one), a wrong type or range; the line names the dotted key.
    """
    try:
        return Recipe.model_validate(dict(data))
    except ValidationError as error:
        raise input_error(error, data, Recipe, source) from None


def input_error(
    error: ValidationError, data: Mapping[str, Any], model: type[BaseModel], source: str = ""
) -> InputError:
    """The first fault of a validation as one line, in plain words."""
    first = _first_fault(error)
    path = [str(part) for part in first["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    field, value, details = ".".join(path) or source, first.get("input"), first.get("ctx", {})
    cause = details.get("error")
    if isinstance(cause, InputError):  # a radius is called eps wherever it is parsed
        return InputError(field if path and cause.field == "eps" else cause.field or field, cause.value, cause.rule)
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1], data)
        field, near = _meant_key(field, value, known, model, data)
        return unknown_name(f"{source} key", field, known, near)
    if first["type"] == "missing":
        return InputError(f"{source}: {field}", None, "a value; this key is required")
    if first["type"] == "model_type":
        return InputError(field, value, f"keys below it: {', '.join(_known_keys(model, path, data))}")
    if first["type"] in _PLAIN_WORDS:
        return InputError(field, value, _PLAIN_WORDS[first["type"]].format(**details))
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return InputError(field, value, rule[0].lower() + rule[1:])


def _first_fault(error: ValidationError) -> Any:
    """The first one; a key that is misspelt is missing too, and then its spelling is the fault."""
    faults = error.errors()
    first = faults[0]
    if first["type"] != "missing":
        return first
    missing = [str(one["loc"][-1]) for one in faults if one["type"] == "missing"]
    unknown = (one for one in faults if one["type"] == "extra_forbidden")
    return next((one for one in unknown if nearest(str(one["loc"][-1]), missing)), first)


_PLAIN_WORDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "a name",
    "tuple_type": "a list in square brackets",
    "dict_type": "a mapping of keys to values",
    "invalid_key": "a word as key",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "at most {le:g}",
}


# What settings are called elsewhere.
_ELSEWHERE = {
    "alpha": "step_size",
    "arch": "model",
    "batch": "batch_size",
    "dataset": "data",
    "epsilon": "eps",
    "iterations": "steps",
    "learning_rate": "lr",
    "num_steps": "steps",
}


def _meant_key(
    field: str, value: Any, known: list[str], model: type[BaseModel], data: Mapping[str, Any]
) -> tuple[str, str]:
    """An unknown dotted key in full, and a key that ends as it does, at whatever depth; none where no key does."""
    while isinstance(value, Mapping) and len(value) == 1:  # pgd.steps=3 is unknown from pgd on
        key, value = next(iter(value.items()))
        field = f"{field}.{key}"
    last = field.rpartition(".")[2]
    tops = [name for name, one in model.model_fields.items() if get_origin(one.annotation) is not dict]
    below = [key for top in tops for key in _known_keys(model, [top], data)]
    everywhere = [*known, *model.model_fields, *below]
    for word in (last, _ELSEWHERE.get(last, "")):
        found = [key for key in everywhere if word and key.rpartition(".")[2] == word]
        if found:
            return field, found[0]
    return field, ""


def _known_keys(model: type[BaseModel], path: list[str], data: Mapping[str, Any]) -> list[str]:
    prefix = ".".join(path)
    kind: Any = model
    for part in path:
        value = data.get(part) if isinstance(data, Mapping) else None
        if part in ("objective", "host") and isinstance(value, Mapping):
            kind = type(objective_settings({"name": value.get("name")}))
        elif get_origin(kind) is dict:  # names of the user's choice
            kind = get_args(kind)[1]
        else:
            kind = next((inner.model_fields[part].annotation for inner in _models_in(kind)), None)
        data = value if isinstance(value, Mapping) else {}
    names = [name for inner in _models_in(kind)[:1] for name in inner.model_fields]
    return [f"{prefix}.{name}" if prefix else name for name in names]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]
