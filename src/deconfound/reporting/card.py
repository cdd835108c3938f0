"""A model card as Markdown, made from its record alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from deconfound.records import CardEvaluation, ModelCard
from deconfound.reporting import text
from deconfound.reporting.strength import deviation_text, judge_text

_NOT_SETTINGS = ("name",)
_OF_THE_ATTACK = ("steps", "step_size", "attack_mode", "eps_warmup")


def card_text(card: ModelCard) -> str:
    """The card; every accuracy stands with n, interval, seed, threat model, suite and verdict, or not at all."""
    recipe = card.training.recipe
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            card=card,
            recipe=recipe,
            training=card.training,
            threat=text.threat_text(card.threat),
            defence_settings=text.settings_text(_defence(card)),
            shape=" x ".join(str(side) for side in card.shape),
            batch=f"(B, {', '.join(str(side) for side in card.shape)})",
            sizes=", ".join(str(side) for side in card.shape),
            data=shlex.quote(recipe["data"] or "path/to/data"),
            formats={file.format: file for file in card.files},
            versions=text.settings_text(card.machine.versions),
            yaml=yaml.safe_dump(recipe, sort_keys=False).rstrip(),
        )
    )


def _defence(card: ModelCard) -> dict[str, Any]:
    """What the defence itself is set to; its inner attack where it has one."""
    recipe = card.training.recipe
    own = {key: value for key, value in recipe["objective"].items() if key not in _NOT_SETTINGS}
    attack = {key: recipe[key] for key in _OF_THE_ATTACK if key in recipe} if card.adversarial else {}
    return _given(own | attack)


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that have a value; the others follow from those."""
    return {key: value for key, value in settings.items() if value is not None}


def _accuracy(row: CardEvaluation, which: str) -> str:
    """An accuracy with its interval, and its standard deviation over the seeds of a random judge."""
    share, ends = getattr(row, f"{which}_accuracy"), getattr(row, f"{which}_interval")
    spread = f" {deviation_text(getattr(row.spread, f'{which}_deviation'))}" if row.spread else ""
    return f"{text.percent(share)}{spread} {text.interval(*ends)}"


def markdown(value: Any) -> str:
    r"""Any recorded value as a line of Markdown that shows what it is, in a table too.

    >>> markdown("a|b_c <i>")
    'a\\|b\\_c \\<i\\>'
    """
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text.value_text(value))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("deconfound.reporting", "templates"),
        autoescape=False,  # Markdown; what is not ours goes through the filter md
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "md": markdown,
        "threat": text.threat_text,
        "accuracy": _accuracy,
        "given": _given,
        "judge": judge_text,
        "suite": text.suite_text,
        "verdict": text.verdict_text,
        "settings": text.settings_text,
    }
    return environment
