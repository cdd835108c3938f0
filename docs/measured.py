"""Tables of the pages that are made from committed records: studies, benchmarks, sums from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from deconfound.recipes.pairing import tested_on
from deconfound.recipes.study_pairs import inside_only
from deconfound.recipes.study_tests import by_question
from deconfound.records import Machine, StudyRecord, StudyRun, StudyTest
from deconfound.reporting import leaderboard_grid, markdown_table
from deconfound.reporting.comparison import p_text, points
from deconfound.reporting.grid import markdown_rows as table
from deconfound.reporting.study_doubt import mark

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
STANDS = ("study", "method - control", "question", "n", "difference by seed, points", "p Holm by seed")


def study(name: str) -> str:
    """The tables of a committed study, and where and how long it ran."""
    record = StudyRecord.read(RESULTS / f"{name}.json")
    judged = sum(one.seconds for run in record.runs for one in run.results)
    hours = f"{sum(run.seconds for run in record.runs) / 3600:.1f} hours of training, {judged / 3600:.1f} of judging"
    machines = [one.machine for run in record.runs for one in (run, *run.results)]
    seen = "; ".join(dict.fromkeys(map(_where, machines)))
    commits = ", ".join(dict.fromkeys(f"`{one.commit[:12]}`" for one in machines if one.commit))
    made = f" Runs and judgements by {commits}." if commits else ""
    source = f"`benchmarks/results/{name}.json`, written at `{record.commit[:12] or 'an unknown commit'}`"
    return f"{markdown_table(record)}\n{hours} ({seen}).{made} Source: {source}."


def leaderboard(name: str) -> str:
    """One row for each method of a committed study."""
    return f"{leaderboard_grid(StudyRecord.read(RESULTS / f'{name}.json')).markdown()}\n"


def found(words: str) -> str:
    """What committed studies found of some methods: their rows of every leaderboard that has one."""
    asked, parts = set(words.split()), []
    for record in _studies():
        judged = {run.name for run in record.runs if run.results}
        if record.tests and judged & asked:
            parts.append(f"{record.about}\n\n{leaderboard_grid(record, asked).markdown()}")
    return "\n\n".join(parts) or "Nothing yet: the studies that have these methods are defined, and not run."


def standing(words: str) -> str:
    """Some methods minus their controls in every committed study: one row for each question."""
    asked, rows = set(words.split()), []
    for record in _studies():
        rows += _stands(record, [test for test in record.tests if test.method in asked])
    return table(STANDS, rows)


def versus(words: str) -> str:
    """Some methods minus one that need not be their control, in every study that says which examples stood."""
    reference, *methods = words.split()
    rows = []
    for record in _studies():
        rows += _stands(record, _against(record, reference, methods))
    return table(STANDS, rows)


def _studies() -> Iterator[StudyRecord]:
    """Every committed study, in the order of their files."""
    for file in sorted(RESULTS.glob("*.json")):
        if json.loads(text := file.read_text()).get("kind") == StudyRecord.expected_kind:
            yield StudyRecord.from_json(text, str(file))


def _against(record: StudyRecord, reference: str, methods: Sequence[str]) -> list[StudyTest]:
    """Methods against a reference of the same seed on the same data; Holm over all of them, question by question."""
    known = {
        (run.name, run.seed, one.question): (one, one.examples.stood)
        for run in record.runs
        for one in run.results
        if one.examples is not None and not inside_only(one)
    }
    tests = []
    for (name, seed, question), (one, stood) in known.items():
        other = known.get((reference, seed, question))
        if name not in methods or other is None or one.digests["data"] != other[0].digests["data"]:
            continue
        test = tested_on((name, one, stood), (reference, *other))
        same = one.digests["attacks"] == other[0].digests["attacks"]
        tests.append(
            StudyTest(method=name, control=reference, question=question, seed=seed, same_attacks=same, test=test)
        )
    return by_question(tests)


def _stands(record: StudyRecord, tests: Iterable[StudyTest]) -> list[tuple[str, ...]]:
    groups: dict[tuple[str, str, str], list[StudyTest]] = {}
    for test in tests:
        if test.test.robust is not None:
            groups.setdefault((test.method, test.control, test.question), []).append(test)
    rows = []
    for (method, control, question), tests in groups.items():
        found = [(test, test.test.robust) for test in tests if test.test.robust is not None]
        doubts = [mark(record, (method, control), question, [test.seed]) for test, _ in found]
        by_seed = [f"{points(one.difference)}{doubt}" for (_, one), doubt in zip(found, doubts, strict=True)]
        p_values = [p_text(one.adjusted_p_value) for _, one in found]
        sizes = " and ".join(sorted({str(test.test.n) for test in tests}))
        rows.append((record.study, f"{method} - {control}", question, sizes, ", ".join(by_seed), ", ".join(p_values)))
    return rows


def pivot(words: str) -> str:
    """One figure of an analysis, or ``robust``, of a study on several data sets: a row for each method."""
    name, _, figure = words.partition(" ")
    record = StudyRecord.read(RESULTS / f"{name}.json")
    cells: dict[str, dict[str, str]] = {}
    for run in record.runs:
        method, _, data = run.name.rpartition("/")
        if (found := _figure(run, figure)) is not None:
            low, high = found[1]
            doubted = figure == "robust" and not all(one.verdict.reliable for one in run.results)
            text = f"{100 * found[0]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]{' UNRELIABLE' if doubted else ''}"
            cells.setdefault(method, {})[data] = text
    heads = list(dict.fromkeys(data for row in cells.values() for data in row))
    return table(
        ("method", *heads), [(method, *(row.get(head, "-") for head in heads)) for method, row in cells.items()]
    )


def _figure(run: StudyRun, figure: str) -> tuple[float, tuple[float, float]] | None:
    if figure == "robust":
        found = [(one.robust_accuracy, one.robust_interval) for one in run.results]
    else:
        named = [one for analysis in run.analyses for one in analysis.figures if one.name == figure]
        found = [(one.value, one.interval) for one in named if one.interval is not None]
    return found[0] if found else None


def _where(machine: Machine) -> str:
    versions = ", ".join(
        f"{name} {machine.versions[name]}" for name in ("torch", "deconfound") if name in machine.versions
    )
    return f"{machine.processor}, {machine.threads} thread{'s' * (machine.threads != 1)}, {versions}"


def benchmark(name: str) -> str:
    """The figures of a committed benchmark: one row for whatever has seconds."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    rows = [
        (what, f"{facts['median_seconds']:.3g} s", f"{facts['ratio_to_peer']:.2f}")
        for what, facts in _timed(found["figures"], ())
    ]
    if not rows:
        raise ValueError(f"{name}.json has nothing with a median and a ratio")
    where = _where(Machine(**found["machine"]))
    return (
        f"{table(('what', 'median', 'ratio to the peer'), rows)}\n\n{where}. Source: `benchmarks/results/{name}.json`."
    )


def autoattack(name: str) -> str:
    """Suites against AutoAttack on the same images: seconds, ratio and what each left standing."""
    figures, rows = json.loads((RESULTS / f"{name}.json").read_text())["figures"], []
    for facts in figures.values():
        if isinstance(facts, Mapping) and "pyautoattack" in facts.get("survivors", {}):
            for who, seconds in facts["seconds"].items():
                left = f"{facts['survivors'][who]} of {facts['n']}"
                faster = f"{facts['summary'][who]:.2f}"
                rows.append((f"{facts['share_of_budgets']:g}", who, f"{median(seconds):.3g} s", faster, left))
    return table(("share of the budgets", "what", "median", "times faster than pyautoattack", "left standing"), rows)


def cost(figure: str) -> str:
    """What a step costs: ``ratio``, ``seconds`` or ``memory`` of methods by points, or the ``model`` of them."""
    found = json.loads((RESULTS / "cost.json").read_text())
    figures, setting = found["figures"], found["figures"]["setting"]
    if figure == "model":
        fit = {name: f"{value:.3g}" for name, value in figures["model"].items()}
        where = f"{_where(Machine(**found['machine']))}; ResNet-18 of width {setting['width']}, {setting['precision']}"
        return (
            f"Here u = {fit['seconds_per_pass_of_32_px']} s and v = {fit['seconds_per_step']} s, from {fit['points']}"
            f" points of ten classes; the relative error is {fit['median_relative_error']} in the median and"
            f" {fit['largest_relative_error']} at most. {where}. Source: `benchmarks/results/cost.json`."
        )
    key, form = {"ratio": ("ratio_to_peer", ".2f"), "seconds": ("median_seconds", ".3f"), "memory": ("mib", ".1f")}[
        figure
    ]
    points = figures["points"]
    methods = next(iter(points.values()))
    rows = [
        (
            method,
            f"{one['passes']:g}",
            f"{one['passes_to_standard']:.2f}",
            *(f"{at[method][key]:{form}}" for at in points.values()),
        )
        for method, one in methods.items()
    ]
    return table(("method", "passes", "to standard", *points), rows)


def hours(_: str) -> str:
    """ImageNet on paper: what is assumed, and hours of every method."""
    figures = json.loads((RESULTS / "imagenet.json").read_text())["figures"]
    assumed, hours = figures["assumed"], figures["hours"]
    heads = list(next(iter(hours.values())))
    lines = [
        f"- {one['gpus']} GPUs: {one['images_per_second']} images per second, {one['source']}."
        for one in assumed["machines"]
    ]
    lines += [
        f"- {assumed['images']} images; {assumed['default']} epochs, or: "
        + "; ".join(
            f"{method}: " + " and ".join(f"{epochs} of {stage}" for stage, epochs in stages.items())
            for method, stages in assumed["stages"].items()
        )
        + "."
    ]
    rows = [(method, *(f"{one[head]:.1f}" for head in heads)) for method, one in hours.items()]
    return (
        "\n".join(lines) + "\n\n" + table(("hours", *heads), rows) + "\n\nSource: `benchmarks/results/imagenet.json`."
    )


def _timed(figures: Mapping[str, Any], path: tuple[str, ...]) -> list[tuple[str, Mapping[str, Any]]]:
    """Everything below that has a median and a ratio, by its path."""
    rows = []
    for key, inside in figures.items():
        if isinstance(inside, Mapping):
            timed = {"median_seconds", "ratio_to_peer"} <= inside.keys()
            rows += [(", ".join((*path, key)), inside)] if timed else _timed(inside, (*path, key))
    return rows


def strength(_: str) -> str:
    """What ``standard`` and three seeds of the official AutoAttack leave after each stage; ``fast`` beside it."""
    found = json.loads((RESULTS / "attacks_mnist.json").read_text())
    rows = []
    for weights, facts in found["figures"]["strength"].items():
        if not isinstance(facts, dict):  # a figure over all weights
            continue
        order = ("clean", "apgd-ce", "apgd-t", "fab-t", "square")
        ours = {stage: left for name, left in facts["ours"].items() for stage in order if name.startswith(stage)}
        rows.append((weights, str(facts["n"]), "`standard`", *(str(ours[stage]) for stage in order)))
        for seed, left in facts["theirs"].items():
            rows.append(("", "", f"official, seed {seed}", *(str(left[stage]) for stage in order)))
        rows.append(("", "", "official, all seeds together", *[""] * (len(order) - 1), str(facts["union_survivors"])))
    stages = table(("weights", "n", "", "right when clean", "APGD-CE", "APGD-T", "FAB-T", "Square"), rows)
    lines = [
        f"- {weights}, n = {facts['n']}: `standard` leaves {100 * facts['accuracy']['standard']:.1f} %,"
        f" `fast` {100 * facts['accuracy']['fast']:.1f} %; what that skipped is at most"
        f" {100 * facts['audit']['bound']:.1f} points."
        for weights, facts in found["figures"]["agreement"].items()
    ]
    where = f"{_where(Machine(**found['machine']))}. Source: `benchmarks/results/attacks_mnist.json`."
    return f"{stages}\n\n" + "\n".join(lines) + f"\n\n{where}"
