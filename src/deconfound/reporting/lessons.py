"""What records of several methods teach, in plain words: every sentence follows from figures, none is written before.

A claim is made only where the figures carry it: of two methods on the same images by McNemar's test after Holm, of two
shares where their 95 % intervals are clear of each other. Everything else is said to be within noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deconfound.records import (
    AnalysisRecord,
    EffectsRecord,
    EvaluationRecord,
    ExposureRecord,
    InstrumentsRecord,
    RelianceRecord,
    StudyTest,
    StyleRecord,
    TrainingRecord,
)
from deconfound.reporting.comparison import p_text, points
from deconfound.reporting.instruments import findings
from deconfound.reporting.strength import UPPER_BOUND
from deconfound.reporting.text import (
    clean,
    count,
    interval,
    listing,
    percent,
    share_text,
    suite_text,
    threat_text,
    verdict_text,
)

LEVEL = 0.05
"""Of the tests against controls, after Holm."""


@dataclass(frozen=True)
class Lessons:
    """Sentences for the head of a page and the end of a screen.

    Attributes:
        about: how it was done, and what was left out.
        learned: what was found.
    """

    about: tuple[str, ...]
    learned: tuple[str, ...]


def lessons_of(
    evaluations: Sequence[EvaluationRecord],
    analyses: Sequence[AnalysisRecord],
    tests: Sequence[StudyTest],
    trainings: Sequence[TrainingRecord],
    about: Iterable[str] = (),
) -> Lessons:
    """What was learned from methods that were trained on the same data.

    Args:
        evaluations: at least one; the first defence of them is what the others are held against.
        analyses: of any kinds; those of other kinds than are spoken of are left to the page.
        tests: of methods against their controls.
        trainings: how the networks came to be.
        about: how it was done.
    """
    reliance = [one for one in analyses if isinstance(one, RelianceRecord)]
    learned = [
        *attack_lines(evaluations),
        *reliance_lines(reliance),
        *contrast_lines(evaluations, reliance),
        *control_lines(tests, evaluations),
        *(line for one in analyses for line in _analysis_lines(one)),
        *trust_lines(evaluations, trainings),
    ]
    return Lessons(about=tuple(about), learned=tuple(learned))


def name_of(record: EvaluationRecord | AnalysisRecord) -> str:
    """The defence, or the model where none is named."""
    return clean(record.defence or record.model) or "unnamed model"


def attack_lines(evaluations: Sequence[EvaluationRecord]) -> list[str]:
    """For each suite and number of images what every method loses and keeps."""
    groups: dict[str, list[EvaluationRecord]] = {}
    for one in evaluations:
        where = f"suite {suite_text(one)}, {threat_text(one.threat)}, n = {one.n}"
        groups.setdefault(where, []).append(one)
    return [f"Under attack ({where}) {'; '.join(map(_lost, members))}." for where, members in groups.items()]


def _lost(one: EvaluationRecord) -> str:
    doubt = "" if one.verdict.reliable else " (UNRELIABLE)"
    kept = f"{percent(one.robust_accuracy)} {interval(*one.robust_interval)}{doubt}"
    if one.robust_accuracy == one.clean_accuracy:
        return f"{name_of(one)} stays at {kept}"
    lost = f"{100 * (one.clean_accuracy - one.robust_accuracy):.1f}"
    return f"{name_of(one)} falls by {lost} points from {percent(one.clean_accuracy)} to {kept}"


def reliance_lines(records: Sequence[RelianceRecord]) -> list[str]:
    """How far each method leans on the confounder, and which lean on it more or less than the first."""
    known = [(name_of(one), one, one.own.reliance) for one in records if one.own.reliance is not None]
    if not known:
        return []
    sizes = listing(list(dict.fromkeys(str(one.n) for _, one, _ in known)))
    shares = "; ".join(f"{name} {' '.join(share_text(found))}" for name, _, found in known)
    lines = [f"Reliance, predictions that change under do(confounder = other), n = {sizes}: {shares}."]
    for name, one, _ in known:
        if one.unsteady is not None:
            lines.append(
                f"Of {name}'s predictions {' '.join(share_text(one.unsteady))} change when only its random numbers do."
            )
    return lines + _more_or_less([(name, found.interval) for name, _, found in known if found])


def _more_or_less(intervals: Sequence[tuple[str, tuple[float, float]]]) -> list[str]:
    (first, (low, high)), *others = intervals
    more = [name for name, ends in others if ends[0] > high]
    less = [name for name, ends in others if ends[1] < low]
    open_ = [name for name, ends in others if ends[0] <= high and ends[1] >= low]
    lines = []
    if more:
        lines.append(f"{listing(more)} {_lean(more)} on the confounder more than {first}, clear of its interval.")
    if less:
        lines.append(f"{listing(less)} {_lean(less)} on it less than {first}, clear of its interval.")
    if open_:
        lines.append(f"Whether {listing(open_)} {_lean(open_)} on it more or less than {first} is within noise.")
    return lines


def _lean(names: Sequence[str]) -> str:
    return "leans" if len(names) == 1 else "lean"


def contrast_lines(evaluations: Sequence[EvaluationRecord], reliance: Sequence[RelianceRecord]) -> list[str]:
    """Methods that withstand more than the first and lean on the confounder more, both clear of its intervals."""
    own = {name_of(one): one.own.reliance for one in reliance}
    first = name_of(evaluations[0])
    base = own.get(first)
    if base is None:
        return []
    ends = {one.suite: one.robust_interval[1] for one in evaluations if name_of(one) == first and one.verdict.reliable}
    found: dict[str, None] = {}
    for one in evaluations:
        name = name_of(one)
        leaning = own.get(name)
        harder = one.verdict.reliable and one.suite in ends and one.robust_interval[0] > ends[one.suite]
        if name != first and harder and leaning is not None and leaning.interval[0] > base.interval[1]:
            found[name] = None
    if not found:
        return []
    names = list(found)
    verb = "withstands" if len(names) == 1 else "withstand"
    return [
        f"{listing(names)} {verb} more than {first} and yet {_lean(names)} on the confounder more: robust accuracy does"
        " not say what a network looks at."
    ]


def control_lines(tests: Sequence[StudyTest], evaluations: Sequence[EvaluationRecord]) -> list[str]:
    """Whether each method beats its control in robust accuracy, with the paired intervals and McNemar's p after Holm.

    Suites that say the same of a method share a line.
    """
    found: dict[str, list[str]] = {}
    for one in sorted(tests, key=lambda test: [(other.method, other.control) for other in tests].index(_pair(test))):
        claim, figures = _judged(one, evaluations)
        found.setdefault(claim, []).append(figures)
    return [f"{claim}: {'; '.join(figures)}." for claim, figures in found.items()]


def _pair(one: StudyTest) -> tuple[str, str]:
    return one.method, one.control


def _judged(one: StudyTest, evaluations: Sequence[EvaluationRecord]) -> tuple[str, str]:
    """What a test says of a method, and its figures."""
    method, control, found = clean(one.method), clean(one.control), one.test.robust
    where = f"suite {clean(one.question)}"
    if found is None:
        return f"{method} is not compared with {control}", f"{where}, {clean(one.test.not_compared)}"
    low, high = found.interval
    p = found.p_value if found.adjusted_p_value is None else found.adjusted_p_value
    figures = (
        f"{points(found.difference)} points of robust accuracy [{points(low)}, {points(high)}]"
        f" ({where}, n = {one.test.n}, p {_p(p)}{'' if one.same_attacks else ', each against the attacks made for it'})"
    )
    doubtful = [
        name_of(record)
        for record in evaluations
        if record.suite == one.question and name_of(record) in (method, control) and not record.verdict.reliable
    ]
    if doubtful:
        return f"Whether {method} beats its control {control} is open, {listing(doubtful)} being UNRELIABLE", figures
    if p >= LEVEL:
        return f"{method} does not beat its control {control}, the difference is within noise", figures
    return f"{method} {'beats' if found.difference > 0 else 'falls behind'} its control {control}", figures


def _p(value: float) -> str:
    shown = p_text(value)
    return shown if shown.startswith("<") else f"= {shown}"


def _analysis_lines(record: AnalysisRecord) -> list[str]:
    """The one figure of an analysis that a reader would ask for first."""
    name = name_of(record)
    if isinstance(record, StyleRecord):
        content, style = record.content, record.trained.predictor
        return [
            f"Style of {name} (n = {record.n}): an attack takes the content logits from"
            f" {_moved(content.natural.share, content.adversarial.share)} right, the style predictor from"
            f" {_moved(style.natural.share, style.adversarial.share)}."
        ]
    if isinstance(record, EffectsRecord):
        kinds = {one.name: " ".join(share_text(one.accuracy)) for one in record.kinds}
        if {"adversarial", "adversarial_causal"} <= set(kinds):
            return [
                f"Causal effects of {name} (n = {record.n}): the head of its base network reads the label from"
                f" {kinds['adversarial']} of adversarial features and from {kinds['adversarial_causal']} of adversarial"
                " causal ones."
            ]
    if isinstance(record, ExposureRecord):
        return [
            f"Exposure of {name} (n = {record.n}): features per exposure vary over its looks by"
            f" {record.spread.value:.2f} of their size, features themselves by {record.raw_spread.value:.2f}."
        ]
    if isinstance(record, InstrumentsRecord):
        return [f"Instruments of {name} (n = {record.n}): {' '.join(text for text, _ in findings(record))}"]
    return []


def _moved(before: float, after: float) -> str:
    return f"{percent(before)} to {percent(after)}"


def trust_lines(evaluations: Sequence[EvaluationRecord], trainings: Sequence[TrainingRecord]) -> list[str]:
    """Which verdicts are unreliable, and what no figure here covers."""
    doubts = [one for one in evaluations if not one.verdict.reliable]
    lines = [
        f"Do not quote {name_of(one)} under suite {suite_text(one)}: {verdict_text(one.verdict)}." for one in doubts
    ]
    if not doubts:
        lines.append(f"No verdict was unreliable, in {count(len(evaluations), 'evaluation')}; {UPPER_BOUND}.")
    seeds = dict.fromkeys(one.seed for one in trainings)
    if len(seeds) == 1:
        lines.append(
            f"Every network was trained once, with seed {next(iter(seeds))}: intervals are for drawing the images, and"
            " another training may differ by more."
        )
    return lines


__all__ = [
    "LEVEL",
    "Lessons",
    "attack_lines",
    "contrast_lines",
    "lessons_of",
    "reliance_lines",
    "control_lines",
    "trust_lines",
]
