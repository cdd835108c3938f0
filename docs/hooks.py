"""What the pages take from the library while they are built, and the check that a reader's browser fetches nothing.

A line ``<!-- generated: KIND WORDS -->`` on a page becomes what KIND makes: a list from a registry, a recipe as it lies
in the library, the commands with their options, the masking checks with their thresholds. So none is typed by hand.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import typer

from deconfound.attacks.budgets import BUDGETS, budget
from deconfound.attacks.suites import DETERMINISTIC, Setting, names, suite
from deconfound.cli.app import app
from deconfound.core.threat import ThreatModel
from deconfound.data.families import FAMILIES
from deconfound.evaluation.masking import CHECKS
from deconfound.recipes.analysing import KINDS as ANALYSES
from deconfound.recipes.listing import listing
from deconfound.recipes.resolve import about, family_radii, file_of, resolve
from deconfound.recipes.resolve import names as recipes
from deconfound.records import Machine, StudyRecord, StudyRun, show_radius
from deconfound.reporting import leaderboard_grid, markdown_table
from deconfound.reporting.grid import markdown_rows as table

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MARK = re.compile(r"^<!-- generated: (?P<kind>[\w-]+) ?(?P<words>.*?) -->$", re.MULTILINE)
# What a browser loads by itself; links that a reader may follow are none of these.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|<link\b(?![^>]*?rel=[\"']?canonical)[^>]*?\bhref=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|class=[\"']?mermaid"  # its renderer would come from elsewhere
    r"|@import\s+(?:url\()?[\"']?(?:https?:)?//[^\s\"')]+"
    r"|url\([\"']?(?:https?:)?//[^\s\"')]+"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what is generated."""
    return MARK.sub(lambda mark: MAKERS[mark["kind"]](mark["words"]), markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site whose pages would fetch anything from elsewhere."""
    site = Path(config["site_dir"])
    for file in sorted((*site.rglob("*.html"), *site.rglob("*.css"))):
        found = FETCHED.search(file.read_text(errors="replace"))
        if found:
            raise ValueError(f"{file.relative_to(site)} would fetch {found[0]!r}: the site must work without a network")


def _listing(kind: str) -> str:
    rows = [(f"`{name}`", text) for name, text in listing(kind)]
    return table((kind.removesuffix("s") if kind != "data" else "data", "what it is"), rows)


def _suites(_: str) -> str:
    rows = []
    for name in names():
        random = name not in DETERMINISTIC and name in ("rand", "adaptive")
        threat = ThreatModel("linf", "8/255")
        radii = family_radii("cifar")
        made = suite(name, Setting(threat=threat, stochastic=random, radii=radii))
        runs = ", ".join(attack.name for attack in made.attacks) or "-"
        audit = ", ".join(attack.name for attack in made.audit.attacks) if made.audit else "-"
        rows.append((f"`{name}`", runs, audit, str(len(made.columns)) if made.columns else "-"))
    return table(("suite", "attacks, each on what is left", "audit", "columns"), rows)


def _budgets(_: str) -> str:
    fields = ("points", "draws", "steps", "queries", "spsa_steps", "spsa_pairs", "query_draws")
    head = (
        "budget",
        "examples of a random model",
        "draws",
        "steps",
        "queries",
        "SPSA steps",
        "SPSA pairs",
        "query draws",
    )
    value = {name: [getattr(budget(name), field) for field in fields] for name in BUDGETS}
    return table(head, [(f"`{name}`", *("all" if v is None else str(v) for v in row)) for name, row in value.items()])


def _checks(_: str) -> str:
    """Every check of a real verdict: its name and threshold from the record, its meaning from its docstring."""
    import deconfound

    images = deconfound.data.load("digits").test.images[:40].float() / 255
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 10))
    labels = model(images).argmax(dim=1)
    record = deconfound.evaluate(model, images, labels, threat=ThreatModel("linf", 0.1), suite="quick", gallery=0)
    sections = []
    for check, found in zip(CHECKS, record.verdict.checks, strict=True):
        text = re.sub(r"\n +", "\n", (check.__doc__ or "").strip()).replace("<", "&lt;")
        sections.append(f"### {found.name}\n\n{text}\n\nThreshold: `{found.threshold}`.")
    return "\n\n".join(sections)


def _recipe(name: str) -> str:
    text = resources.files("deconfound.recipes").joinpath("book", f"{name}.yaml").read_text()
    return f'```yaml title="{name}"\n{text.rstrip()}\n```'


def _families(recipe: str) -> str:
    """What a recipe comes to for every data family."""
    rows = []
    for family in FAMILIES:
        made = resolve({"recipe": recipe}, data=family, family=family)
        own = ", ".join(f"{key}={value}" for key, value in made.objective.model_dump().items() if key != "name")
        optimiser = f"{made.optimizer.name} {made.lr:g}"
        threat = f"{made.norm} {show_radius(made.eps)}"
        rows.append((family, made.model, threat, str(made.epochs), str(made.batch_size), optimiser, own or "-"))
    return table(("family", "network", "threat", "epochs", "batch", "optimiser", "objective"), rows)


def _radii(_: str) -> str:
    rows = [(family, *(show_radius(radius) for radius in family_radii(family).values())) for family in FAMILIES]
    return table(("family", *family_radii("digits")), rows)


def _commands(_: str) -> str:
    root: Any = typer.main.get_command(app)
    sections = []
    for name, command in root.commands.items():
        text = (command.help or "").replace("Example:", "\n\nExample:")
        rows = [(f"`{_spelled(p)}`", _described(p)) for p in command.params if p.name != "help"]
        sections.append(f"## {name}\n\n{_spaced(text)}\n\n{table(('option', 'meaning'), rows)}")
    return "\n\n".join(sections)


def _spaced(text: str) -> str:
    return re.sub(r"Example: (.+)", r"    \1", " ".join(text.split(" "))).strip()


def _spelled(parameter: Any) -> str:
    names_ = ", ".join((*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        return parameter.metavar or parameter.name.upper()
    return names_ if getattr(parameter, "is_flag", False) else f"{names_} {parameter.metavar or 'VALUE'}"


def _described(parameter: Any) -> str:
    default = parameter.default() if callable(parameter.default) else parameter.default
    shown = default not in (None, False, [], ()) and not parameter.required and "[" not in (parameter.help or "")
    return f"{parameter.help or ''}{f' Default: `{default}`.' if shown else ''}"


def _analyses(_: str) -> str:
    return table(
        ("kind", "what it answers", "needs"), [(f"`{n}`", kind.about, kind.fits) for n, kind in ANALYSES.items()]
    )


def _examples(_: str) -> str:
    """Every script beside the library: what it says of itself, and its text."""
    sections = []
    for script in sorted(Path(__file__).parents[1].joinpath("examples").glob("*.py")):
        text = script.read_text()
        about = ast.get_docstring(ast.parse(text)) or ""
        code = "\n".join(f"    {line}".rstrip() for line in f"```python\n{text.rstrip()}\n```".splitlines())
        sections.append(f'### {script.name}\n\n{about}\n\n??? example "examples/{script.name}"\n\n{code}')
    return "\n\n".join(sections)


def _remaining(_: str) -> str:
    """Recipes that no page of the methods has yet, as they lie in the library; several may lie in one file."""
    written = "".join(page.read_text() for page in Path(__file__).parent.joinpath("methods").glob("*.md"))
    missing = [name for name in recipes() if f"<!-- generated: recipe {file_of(name)} -->" not in written]
    return "\n\n".join(f"### {name}\n\n{about(name)}\n\n{_recipe(file_of(name))}" for name in missing)


def _study(name: str) -> str:
    """The tables of a committed study, and where and how long it ran."""
    record = StudyRecord.read(RESULTS / f"{name}.json")
    judged = sum(one.seconds for run in record.runs for one in run.results)
    hours = f"{sum(run.seconds for run in record.runs) / 3600:.1f} hours of training, {judged / 3600:.1f} of judging"
    seen = _where(record.machine)
    source = f"`benchmarks/results/{name}.json`, commit `{record.commit[:12] or 'unknown'}`"
    return f"{markdown_table(record)}\n{hours} ({seen}). Source: {source}."


def _leaderboard(name: str) -> str:
    """One row for each method of a committed study."""
    return f"{leaderboard_grid(StudyRecord.read(RESULTS / f'{name}.json')).markdown()}\n"


def _pivot(words: str) -> str:
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


def _benchmark(name: str) -> str:
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


def _cost(figure: str) -> str:
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


def _hours(_: str) -> str:
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


MAKERS: Mapping[str, Callable[[str], str]] = {
    "about": about,
    "analyses": _analyses,
    "benchmark": _benchmark,
    "budgets": _budgets,
    "checks": _checks,
    "commands": _commands,
    "cost": _cost,
    "examples": _examples,
    "families": _families,
    "hours": _hours,
    "leaderboard": _leaderboard,
    "list": _listing,
    "pivot": _pivot,
    "radii": _radii,
    "recipe": _recipe,
    "remaining": _remaining,
    "study": _study,
    "suites": _suites,
}
