"""A recipe by its name and changes in words, and its objective on a small network."""

from __future__ import annotations

from deconfound.recipes.loading import build_model
from deconfound.recipes.registry import build_objective
from deconfound.recipes.resolve import parse_changes, read_spec, resolve
from toys import stand_ins


def recipe(name, *words, family="digits", data="digits"):
    return resolve(read_spec(name), data=data, family=family, changes=parse_changes(words))


def built(name, *words, family="digits", size=16):
    found = recipe(name, "model=small", *words, family=family)
    shape = (1, size, size)
    return build_objective(build_model(found, 4, shape), found, stand_ins(found, 4, shape))
