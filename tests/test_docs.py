"""The documentation keeps its word: its Python runs, its commands parse, its recipes and suites exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
import yaml

from deconfound.cli.app import app
from deconfound.data.families import family_of
from deconfound.errors import InputError
from deconfound.evaluation.gradients import ZERO_GRADIENT_SHARE
from deconfound.recipes import study_file, study_plan
from deconfound.recipes.listing import listing
from deconfound.recipes.resolve import names, parse_changes, resolve

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md")) if (ROOT / "mkdocs.yml").exists() else []
FENCE = re.compile(
    r"(?:<!-- needs: (?P<needs>\w+) -->\n)?^```(?P<tag>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
TAGS = {"python", "sh", "text", "yaml"}
OTHER_COMMANDS = {"pip", "torchrun"}

pytestmark = pytest.mark.skipif(not PAGES, reason="needs the checkout: docs do not lie beside the tests")


class Block(NamedTuple):
    tag: str
    needs: str | None
    text: str


def blocks(page, *tags):
    found = (Block(m["tag"], m["needs"], m["text"]) for m in FENCE.finditer(page.read_text()))
    return [block for block in found if not tags or block.tag in tags]


def name_of(page):
    return str(page.relative_to(DOCS))


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
COMMANDS = [
    (name_of(page), line.strip())
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.text.splitlines()
    if line.strip()
]


def test_every_block_says_what_it_is():
    for page in PAGES:
        assert page.read_text().count("```") == 2 * len(blocks(page)), page
        assert {block.tag for block in blocks(page)} <= TAGS, page


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
@pytest.mark.filterwarnings("ignore:.*:Warning:(torchattacks|art|pyautoattack).*")
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    left_out = []
    for number, block in enumerate(blocks(page, "python"), 1):
        if block.needs and importlib.util.find_spec(block.needs) is None:
            left_out.append(block.needs)
            continue
        exec(compile(block.text, f"{name_of(page)}, block {number}", "exec"), space)
    if left_out:
        pytest.skip(f"the rest ran; without {', '.join(left_out)}")


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_commands_parse(page, line):
    words = shlex.split(line)
    if words[0] in OTHER_COMMANDS:
        if "deconfound" not in words:
            return
        words = words[words.index("deconfound") :]
    assert words[0] == "deconfound"
    group = typer.main.get_command(app)
    with group.make_context("deconfound", words[1:], resilient_parsing=False) as above:
        name, command, rest = group.resolve_command(above, words[1:])
        parsed = command.make_context(name, list(rest), parent=above).params
    check_names(name, parsed)


def check_names(command, parsed):
    """What a command would refuse later: recipes, settings, suites and kinds that do not exist."""
    if command == "train" and not parsed["recipe"].endswith(".yaml"):
        assert parsed["recipe"] in names()
        data = parsed["data"] or "digits"
        family = family_of(data, (3, 1, 1), 10)
        resolve({"recipe": parsed["recipe"]}, data=data, family=family, changes=parse_changes(parsed["changes"]))
    if command == "evaluate":
        assert parsed["suite"] in dict(listing("suites"))
    if command == "list":
        assert listing(parsed["kind"])


def test_a_wrong_command_would_show():
    for line in ("train nothing", "evaluate r --suite quik", "train pgd-at --set epoc=1"):
        with pytest.raises((AssertionError, InputError)):
            test_commands_parse("", f"deconfound {line}")
    with pytest.raises(typer.BadParameter.__bases__[0]):
        test_commands_parse("", "deconfound evaluate r --nope")


def test_yaml_is_yaml():
    for page in PAGES:
        for block in blocks(page, "yaml"):
            plain = yaml.safe_load(block.text)
            assert plain is not None
            if "study" in plain:
                study_plan.planned(study_file.read(plain), Path("out"))


def test_no_result_is_typed_by_hand():
    """An accuracy stands in a record; the pages of methods have none."""
    for page in (DOCS / "methods").glob("*.md"):
        assert not re.search(r"\d\s*%", page.read_text()), page


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)  # as mkdocs does
        spec.loader.exec_module(module)
    return module


class TestWhatIsGenerated:
    def test_every_mark_becomes_something(self, hooks):
        for page in PAGES:
            text = page.read_text()
            made = hooks.on_page_markdown(text)
            assert "<!-- generated:" not in made, page
            assert (len(made) > len(text)) == bool(hooks.MARK.search(text.replace("<!-- generated: remaining -->", "")))

    def test_lists_are_those_of_the_registries(self, hooks):
        for kind in ("recipes", "attacks", "suites", "models", "objectives"):
            made = hooks.MAKERS["list"](kind)
            for name, text in listing(kind):
                assert f"| `{name}` | {text.replace('|', chr(92) + '|')} |" in made

    def test_checks_carry_their_thresholds(self, hooks):
        made = hooks.MAKERS["checks"]("")
        assert made.count("### ") == len(hooks.CHECKS) == made.count("Threshold: `")
        assert "### zero gradients" in made
        assert f"Threshold: `{ZERO_GRADIENT_SHARE}`" in made

    def test_recipes_without_a_page_are_shown(self, hooks, tmp_path, monkeypatch):
        shown = hooks.MAKERS["remaining"]("")
        page = (DOCS / "methods" / "ciiv.md").read_text()
        (tmp_path / "methods").mkdir()
        (tmp_path / "methods" / "ciiv.md").write_text(page)
        monkeypatch.setattr(hooks, "__file__", str(tmp_path / "hooks.py"))
        alone = hooks.MAKERS["remaining"]("")
        assert "### trades\n" in alone
        assert "### trades\n" not in shown
        assert "### ciiv\n" not in alone


class TestNothingIsFetched:
    @pytest.mark.parametrize(
        "planted",
        [
            '<script src="https://cdn.example/x.js"></script>',
            '<link rel="stylesheet" href="//fonts.example/css">',
            "<img alt=a src=https://example.org/a.png>",
            "<style>@import url(https://example.org/a.css)</style>",
            '<pre class="mermaid">graph</pre>',
        ],
    )
    def test_a_planted_fault_is_found(self, hooks, tmp_path, planted):
        (tmp_path / "index.html").write_text(planted)
        with pytest.raises(ValueError, match=r"index.html would fetch"):
            hooks.on_post_build({"site_dir": str(tmp_path)})

    def test_links_may_lead_away(self, hooks, tmp_path):
        page = (
            '<a href="https://arxiv.org">x</a><link rel="canonical" href="https://x.org"><script src="a.js"></script>'
        )
        (tmp_path / "index.html").write_text(page)
        hooks.on_post_build({"site_dir": str(tmp_path)})
