"""From a recipe's name or file, a data family and the user's changes to a complete recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from deconfound.core.imported import is_spec
from deconfound.core.threat import parse_norm, parse_radius
from deconfound.data.families import plain_name
from deconfound.errors import InputError, require, unknown_name
from deconfound.recipes.cafe import with_gamma
from deconfound.recipes.hosts import with_perturbation
from deconfound.recipes.plain_files import read_yaml
from deconfound.recipes.registry import entry_of, objective_settings, stages_of
from deconfound.recipes.schema import Recipe, validated

Plain = dict[str, Any]


FAMILIES = "families"
"""The page of the book that is no recipe."""


class _Page(NamedTuple):
    """One recipe as it is written, and the name of its file."""

    file: str
    entry: Plain


@cache
def _pages() -> Mapping[str, _Page]:
    """The book by name: a recipe to a file, or several below ``recipes``, whose names may have a slash."""
    found: dict[str, _Page] = {}
    for file in resources.files("deconfound.recipes").joinpath("book").iterdir():
        if file.name.endswith(".yaml"):
            page = dict(yaml.load(file.read_text(), _Loader))
            stem = file.name.removesuffix(".yaml")
            found |= {name: _Page(stem, entry) for name, entry in page.get("recipes", {stem: page}).items()}
    return found


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def _book(name: str) -> Mapping[str, Any]:
    if is_spec(name):  # a defence of one's own: its objective on the families' settings
        return {"about": entry_of(name).about, "settings": {"objective": {"name": name}}}
    entry = _pages()[name].entry
    above = entry.get("based_on", [])
    whole: Mapping[str, Any] = {}
    for base in [above] if isinstance(above, str) else above:
        whole = _upon(whole, _book(base))
    return _upon(whole, entry) if whole else entry


def _upon(base: Mapping[str, Any], entry: Mapping[str, Any]) -> Plain:
    """A recipe that is based on another: its own settings, for all and for each family, on top of the other's.

    Both name an objective where they change it, so that settings of one do not replace those of another.
    """
    parts: Plain = {}
    for key in ("families", "data", "models"):
        names = [*base.get(key, {}), *entry.get(key, {})]
        parts[key] = {name: _upon(base.get(key, {}).get(name, {}), entry.get(key, {}).get(name, {})) for name in names}
    both = {"settings": merged(base.get("settings", {}), entry.get("settings", {}))}
    return {**entry} | {key: part for key, part in (parts | both).items() if part}


@cache
def names() -> tuple[str, ...]:
    """The recipes that come with the library, sorted."""
    return tuple(sorted(name for name in _pages() if name != FAMILIES and not name.startswith("_")))


def about(name: str) -> str:
    """One line on a recipe."""
    return str(_book(name)["about"])


def file_of(name: str) -> str:
    """The file of the book that a recipe lies in, without its ending.

    >>> file_of("trades"), file_of("cafe/trades")
    ('trades', 'cafe')
    """
    return _pages()[name].file


def family_radius(family: str, norm: str) -> float:
    """The family's usual radius for a norm, in [0, 1] pixels."""
    return parse_radius(_book("families")[family]["radii"][parse_norm(norm)])


def family_radii(family: str) -> dict[str, float]:
    """The family's usual radius of every norm."""
    return {norm: family_radius(family, norm) for norm in _book("families")[family]["radii"]}


def read_spec(spec: str | Path | Mapping[str, Any]) -> Plain:
    """A recipe by name, ``module:NAME`` of an objective of one's own, YAML file or mapping, as plain data.

    It has at least the key ``recipe``.

    Raises:
        InputError: no such recipe or file (with the nearest name), a file that is not a YAML mapping, a module that
            holds no such objective.
    """
    if isinstance(spec, Mapping):
        data = dict(spec)
    elif str(spec).endswith((".yaml", ".yml")):
        data = read_yaml(Path(spec), "recipe")
    else:
        data = {"recipe": str(spec)}
    if "recipe" not in data:
        if {"study", "runs"} & data.keys() and not isinstance(spec, Mapping):
            raise InputError("recipe", str(spec), f"a recipe; this is a study: deconfound study {spec} --out DIR")
        raise InputError("recipe", dict(data), f"the key recipe with one of {', '.join(names())}")
    name = str(data["recipe"])
    if is_spec(name):
        _check_own(name)
    elif name not in names():
        raise _unknown(name)
    return data


def _check_own(name: str) -> None:
    try:
        entry_of(name)
    except InputError as error:
        raise InputError("recipe", error.value, error.rule) from error


def _unknown(name: str) -> InputError:
    """No recipe: a run, another file, or a name that does not exist."""
    place = Path(name)
    if place.is_dir():
        again = f": {place / 'recipe.yaml'} trains it again" if (place / "recipe.yaml").is_file() else ""
        return InputError("recipe", name, f"a recipe's name or a YAML file; this is a folder{again}")
    if place.is_file():
        return InputError("recipe", name, "a recipe's name or a file that ends in .yaml")
    return unknown_name("recipe", name, (*names(), "module:NAME"))


def parse_changes(changes: Iterable[str] | Mapping[str, Any]) -> Plain:
    """``key=value`` words (or a mapping of dotted keys) as nested plain data; values are read as YAML.

    >>> parse_changes(["epochs=3", "objective.beta=2.5"])
    {'epochs': 3, 'objective': {'beta': 2.5}}
    """
    pairs = changes.items() if isinstance(changes, Mapping) else [_split(word) for word in changes]
    nested: Plain = {}
    for key, value in pairs:
        place = nested
        *parents, last = key.split(".")
        for parent in parents:
            inner = place[parent] = _as_mapping(parent, place.get(parent, {}))
            require(isinstance(inner, dict), "set", f"{key}={value}", f"either {parent} or keys below it, not both")
            place = inner
        if isinstance(place.get(last), dict):  # keys below it came first
            value = _as_mapping(last, value)
            require(isinstance(value, dict), "set", f"{key}={value}", f"either {last} or keys below it, not both")
            value = place[last] | value
        place[last] = value
    return nested


def _split(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    require(bool(equals and key.strip()), "set", word, "key=value, for example epochs=10")
    try:
        return key.strip(), yaml.safe_load(value) if value.strip() else None
    except yaml.YAMLError:
        raise InputError("set", word, "key=value with a value in YAML") from None


def merged(*layers: Mapping[str, Any]) -> Plain:
    """Layers of plain data, later ones winning; mappings merge, an objective of another name replaces.

    The options of a model do not outlive it.
    """
    result: Plain = {}
    for layer in layers:
        if "model" in layer and layer["model"] != result.get("model"):
            result.pop("model_options", None)
        for key, value in layer.items():
            before = _as_mapping(key, result.get(key))
            value = _as_mapping(key, value)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            if both and value.get("name", before.get("name")) == before.get("name"):
                result[key] = merged(before, value)
            else:
                result[key] = value
    return result


def _as_mapping(key: str, value: Any) -> Any:
    return {"name": value} if key in ("objective", "host") and isinstance(value, str) else value


def resolve(spec: Mapping[str, Any], *, data: str, family: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The complete recipe.

    Later layers win: the family's settings, the family's for data of this name, the recipe's, the recipe's for this
    family, the recipe's for data of this name, those of the three for the network, the keys of the user's file, the
    user's changes. The radius is the family's for the chosen norm where nobody names one.

    Raises:
        InputError: unknown family or key, wrong type or range; one line with the dotted key.
    """
    families = _book("families")
    if not isinstance(family, str) or family not in families:
        raise unknown_name("family", str(family), families)
    if changes and changes.get("recipe", spec["recipe"]) != spec["recipe"]:
        raise InputError(
            "set", f"recipe={changes['recipe']}", f"changes to the recipe {spec['recipe']}, not another one"
        )
    entry = _book(spec["recipe"])
    special = entry.get("families", {}).get(family, {})
    named = _for_data(entry, data)
    parts = (families[family], _for_data(families[family], data), entry, special, named)
    usual = [part.get("settings", {}) for part in parts]
    model = merged(*usual, spec, changes or {})["model"]
    suited = [_for_network(part, str(model)) for part in (entry, special, named)]
    plain = merged(*usual, {"model": model}, *suited, spec, changes or {})
    plain["data"], plain["family"] = data, family
    plain["stages"] = _with_stages(plain)
    plain["players"] = _with_optimizer(plain)
    if plain.get("eps") is None:
        plain["eps"] = family_radius(family, plain.get("norm", "linf"))
    found = validated(plain)
    return with_perturbation(with_gamma(found, radius_linf(found)))


def radius_linf(recipe: Recipe) -> float:
    """The recipe's radius in L-infinity, in [0, 1] pixels: its own, or its family's where its norm is another."""
    return recipe.eps if recipe.norm == "linf" else family_radius(recipe.family, "linf")


def _for_data(part: Mapping[str, Any], data: str) -> Plain:
    """What a part of the book has for a data set, by the beginning of its own name."""
    if not isinstance(data, str):  # which the whole recipe says better
        return {}
    found: Plain = next((own for name, own in part.get("data", {}).items() if plain_name(data).startswith(name)), {})
    return found


def _for_network(part: Mapping[str, Any], model: str) -> Plain:
    """What a part of the book has for a network, by the beginning of its name."""
    found = (own for name, own in part.get("models", {}).items() if model.startswith(name))
    own: Plain = next(found, {})
    return dict(own.get("settings", {}))


def _with_optimizer(plain: Plain) -> Any:
    """The players' optimisers: what one leaves out is the run's, unless it names another optimiser."""
    players, usual = plain.get("players", {}), plain.get("optimizer")
    if not isinstance(players, Mapping):
        return players
    return {name: merged({"optimizer": usual}, {"optimizer": own})["optimizer"] for name, own in players.items()}


def _with_stages(plain: Plain) -> Any:
    """The stages asked for, and the usual recipe for every other one that the objective builds on."""
    asked = plain.get("stages") or {}
    try:
        needed = stages_of(objective_settings(plain.get("objective")))
    except (InputError, ValidationError):  # which the whole recipe says better
        return asked
    if not isinstance(asked, Mapping):
        return asked
    found = dict(asked)
    for name, usual in needed.items():
        how = found.get(name, {})
        found[name] = {"recipe": usual, **how} if isinstance(how, Mapping) else how
    return found
