"""What the pages take from the library while they are built, and the check that a reader's browser fetches nothing.

A line ``<!-- generated: KIND WORDS -->`` on a page becomes what KIND makes: a list from a registry, a recipe as it lies
in the library, the commands with their options, the masking checks with their thresholds. So none is typed by hand.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import measured  # beside this file
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
from deconfound.records import show_radius
from deconfound.reporting.grid import markdown_rows as table

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


MAKERS: Mapping[str, Callable[[str], str]] = {
    "about": about,
    "analyses": _analyses,
    "benchmark": measured.benchmark,
    "budgets": _budgets,
    "checks": _checks,
    "commands": _commands,
    "cost": measured.cost,
    "examples": _examples,
    "families": _families,
    "found": measured.found,
    "standing": measured.standing,
    "hours": measured.hours,
    "leaderboard": measured.leaderboard,
    "list": _listing,
    "pivot": measured.pivot,
    "radii": _radii,
    "recipe": _recipe,
    "remaining": _remaining,
    "strength": measured.strength,
    "study": measured.study,
    "autoattack": measured.autoattack,
    "versus": measured.versus,
    "suites": _suites,
}
