"""A study of two methods that takes seconds, and how a refusal of one reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deconfound.errors import InputError
from deconfound.recipes.studying import study
from deconfound.recipes.targets import evaluate_target

TINY = {"epochs": 1, "steps": 1, "selection.steps": 1, "batch_size": 512}
DEFINITION = {
    "study": "tiny",
    "about": "Two methods.",
    "data": "digits",
    "set": TINY,
    "judge": {"deterministic": [{"suite": "quick", "n": 10}, {"suite": "pgd-2", "n": 30}]},
    "runs": [
        {"recipe": "standard", "seeds": [0, 1]},
        {"recipe": "pgd-at", "seeds": [0, 1], "control": "standard"},
    ],
}


def refused(match, spec=DEFINITION, **arguments):
    with pytest.raises(InputError, match=match) as caught:
        study(spec, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lightly(target, judging, **more):
    """Neither checks nor curve, which take most of the time of so small an evaluation."""
    return evaluate_target(target, replace(judging, checks=False, curve=False, batch_size=10), **more)
