"""One self-contained HTML page from records: no network, no other file, readable without scripts and on paper."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deconfound.errors import require
from deconfound.records import AnalysisRecord, EvaluationRecord, Picture, StudyRecord, TrainingRecord, show_radius
from deconfound.reporting import strength, text
from deconfound.reporting.analyses import analysis_views
from deconfound.reporting.column_view import column_view
from deconfound.reporting.figures import curve_figure, history_keys, survivors_figure, svg, training_figure
from deconfound.reporting.inline_png import panel, png_size
from deconfound.reporting.lessons import Lessons
from deconfound.reporting.study import study_grids
from deconfound.reporting.study_dots import study_figure
from deconfound.reporting.study_leaderboard import questions
from deconfound.reporting.summary import groups, summarise
from deconfound.reporting.tables import ordered

# Base64 letters of pictures in one page; with five models of eight pictures it stays well below a megabyte.
PICTURE_BUDGET = 500_000


def render(
    evaluations: Sequence[EvaluationRecord],
    trainings: Sequence[TrainingRecord] = (),
    title: str = "Robustness report",
    *,
    analyses: Sequence[AnalysisRecord] = (),
    study: StudyRecord | None = None,
    lessons: Lessons | None = None,
) -> str:
    """The page as text; the same records give the same text.

    Every string from a record is escaped. A content security policy in the page forbids any request and any script but
    its own.

    Args:
        evaluations: at least one, or a study that was judged elsewhere.
        trainings: how the models came to be, if known.
        title: of the page.
        analyses: what was found in the models, if any was looked into.
        study: that the evaluations belong to; its tables come first.
        lessons: what was learned from all of it, and how it was done; before the summary.

    Raises:
        InputError: no evaluations.
    """
    enough = len(evaluations) > 0 or (study is not None and any(run.results for run in study.runs))
    require(enough, "evaluations", len(evaluations), "at least one evaluation record")
    records = ordered(evaluations)
    names = text.labels(records)
    environment = _environment()
    script = _source("report.js")
    return environment.get_template("report.html.j2").render(
        title=text.clean(title),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        styles=Markup(_source("report.css")),
        dark=Markup(_source("dark.css")),
        study=None if study is None else _study(study),
        lessons=lessons,
        summary=summarise(records, trainings),
        comparable=len(groups(records)) == 1,
        models=[
            _model(i, name, brief, record, len(records))
            for i, (name, brief, record) in enumerate(zip(names, text.shortened(names, 48), records, strict=True), 1)
        ],
        curves=_curves(records, names),
        meanings=list(dict.fromkeys((text.clean(record.suite), strength.strength(record)) for record in records)),
        audited=any(record.audit is not None for record in records),
        seeded=any(record.spread is not None for record in records),
        analyses=analysis_views(analyses, PICTURE_BUDGET),
        trainings=[
            _training(i, n, t)
            for i, (n, t) in enumerate(zip(text.training_labels(trainings), trainings, strict=True), 1)
        ],
    )


def _study(study: StudyRecord) -> dict[str, Any]:
    """Its words, its picture where anything was judged, and its tables."""
    about, drawn = text.clean(study.about), ""
    if questions(study):
        drawn = svg(study_figure(study), "study", "What each method withstands", about)
    return {"about": about, "figure": Markup(drawn), "grids": study_grids(study)}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("deconfound.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": text.percent,
        "value": text.value_text,
        "interval": lambda ends: text.interval(*ends),
        "settings": text.settings_text,
        "clean": text.clean,
        "duration": text.duration,
        "state": text.check_state,
        "unbroken": text.unbroken,
        "verdict": text.verdict_text,
    }
    return environment


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _model(number: int, name: str, brief: str, record: EvaluationRecord, models: int) -> dict[str, Any]:
    pictures, left_out = _pictures(record, PICTURE_BUDGET // models)
    low, high = record.robust_interval
    return {
        "id": f"model-{number}",
        "name": name,
        "brief": brief,
        "record": record,
        "threat": text.threat_text(record.threat),
        "suite": text.suite_text(record),
        "clean_interval": text.interval(*record.clean_interval),
        "robust_interval": text.interval(low, high),
        "verdict": text.verdict_text(record.verdict),
        "unchecked": sum(check.passed is None for check in record.verdict.checks),
        "bar": _bar(record.robust_accuracy, low, high),
        "strength": strength.strength(record),
        "audit": strength.audit_text(record),
        "audit_brief": strength.audit_brief(record),
        "spread": _spread(record),
        "survivors": Markup(_survivors(number, name, record)) if record.attacks or not record.columns else None,
        "sampled": any(strength.on_sample(record, attack) for attack in record.attacks),
        "columns": column_view(number, name, record),
        "pictures": pictures,
        "left_out": left_out,
        "classes": _classes(record.class_names),
        "machine": text.machine_text(record.machine),
    }


def _spread(record: EvaluationRecord) -> dict[str, str] | None:
    spread = record.spread
    if spread is None:
        return None
    return {
        "judge": strength.judge_text(spread),
        "clean": strength.deviation_text(spread.clean_deviation),
        "robust": strength.deviation_text(spread.robust_deviation),
        "clean_seeds": strength.seeds_text(spread.clean),
        "robust_seeds": strength.seeds_text(spread.robust),
    }


def _bar(share: float, low: float, high: float) -> dict[str, str] | None:
    if not all(math.isfinite(value) for value in (share, low, high)):
        return None
    return {"low": f"{100 * low:.1f}", "width": f"{max(100 * (high - low), 0.5):.1f}", "at": f"{100 * share:.1f}"}


def _classes(names: Sequence[str]) -> str:
    shown = [text.class_name(names, label) for label in range(min(len(names), 20))]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{text.count(len(names), 'class', 'classes')}: {', '.join(shown)}{more}"


def _survivors(number: int, name: str, record: EvaluationRecord) -> str:
    words = ", ".join(
        f"{text.clean(a.name)} tried on {a.attacked} survivors only"
        if strength.on_sample(record, a)
        else f"{text.clean(a.name)} {a.survivors} of {a.attacked}"
        for a in record.attacks
    )
    title = f"Survivors per attack, {name}"
    return svg(
        survivors_figure(record), f"survivors-{number}", title, f"Left after each attack: {words or 'no attack'}"
    )


def _curves(records: Sequence[EvaluationRecord], names: Sequence[str]) -> list[dict[str, Any]]:
    figures = []
    pairs = list(zip(records, names, strict=True))
    axes = dict.fromkeys((record.data, record.threat.norm) for record in records if record.curve)
    for place, (data, norm) in enumerate(axes, 1):
        members = [(r, name) for r, name in pairs if r.curve and (r.data, r.threat.norm) == (data, norm)]
        drawn = [record for record, _ in members]
        figure = curve_figure(drawn, [name for _, name in members])
        words = "; ".join(
            f"{name}: " + ", ".join(f"{text.percent(p.accuracy)} at {show_radius(p.eps)}" for p in record.curve)
            for record, name in members
        )
        points = [point for record in drawn for point in record.curve]
        sizes = sorted({point.n for point in points})
        figures.append(
            {
                "svg": Markup(
                    svg(figure, f"curve-{place}", f"Accuracy against radius, {text.clean(f'{data}, {norm}')}", words)
                ),
                "norm": text.clean(norm),
                "data": text.clean(data),
                "attacks": text.listing(list(dict.fromkeys(text.clean(point.attack) for point in points))),
                "n": str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
                "members": [{"name": name, "record": record} for record, name in members],
            }
        )
    return figures


def _training(number: int, name: str, training: TrainingRecord) -> dict[str, Any]:
    drawn = any(history_keys(training))
    words = f"Loss and accuracy over {text.count(training.epochs_run, 'epoch')}"
    figure = svg(training_figure(training), f"training-{number}", f"Training of {name}", words) if drawn else ""
    return {
        "id": f"training-of-{number}",
        "name": name,
        "record": training,
        "svg": Markup(figure),
        "machine": text.machine_text(training.machine),
    }


def _pictures(record: EvaluationRecord, budget: int) -> tuple[list[dict[str, Any]], int]:
    """The pictures that fit the budget, always the first, and how many were left out."""
    shown: list[dict[str, Any]] = []
    spent = 0
    for picture in record.gallery:
        spent += len(picture.clean_png) + len(picture.perturbation_png) + len(picture.adversarial_png)
        if shown and spent > budget:
            break
        shown.append(_picture(picture, record.class_names))
    return shown, len(record.gallery) - len(shown)


def _picture(picture: Picture, names: Sequence[str]) -> dict[str, Any]:
    label, before, after = (text.class_name(names, i) for i in (picture.label, picture.prediction, picture.adversarial))
    return {
        "index": picture.index,
        "label": label,
        "attack": text.clean(picture.attack),
        "distance": text.value_text(picture.distance),
        "panels": [
            panel("clean", picture.clean_png, before, f"Image {picture.index}, a {label}, predicted {before}"),
            panel("change x10", picture.perturbation_png, "", f"Perturbation of image {picture.index}, times ten"),
            panel("adversarial", picture.adversarial_png, after, f"Image {picture.index} attacked, predicted {after}"),
        ],
    }


__all__ = ["PICTURE_BUDGET", "png_size", "render"]
