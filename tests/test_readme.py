"""The README keeps its word: two commands, and examples that run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from deconfound.records import StudyRecord

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def text():
    if not README.exists():
        pytest.skip("needs the checkout: README.md does not lie beside the tests")
    return README.read_text()


def test_set_up_is_two_commands(text):
    assert re.findall(r"^    (pip install .*)$", text, re.MULTILINE) == [
        "pip install -c constraints.txt . && deconfound demo",
        'pip install -c constraints.txt ".[test]" && pytest -n auto --dist loadfile',
    ]


def test_the_leaderboard_is_that_of_the_record(text):
    spec = importlib.util.spec_from_file_location("front", README.parent / "docs" / "front.py")
    front = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(front)
    record = StudyRecord.read(front.RECORD)
    assert front.with_leaderboard(text, record) == text, "run python docs/front.py"
    drawn = front.PICTURE.read_text()
    assert all(f">{run.name}<" in drawn for run in record.runs if run.results), "run python docs/front.py"


def test_python_examples_run(text):
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    shortened = "\n".join(examples).replace('"epochs": 5', '"epochs": 1')
    shortened = shortened.replace("data.test, threat=threat)", 'data.test, threat=threat, suite="quick")')
    exec(compile(shortened, "README.md", "exec"), {})


def test_shown_commands_exist(text):
    from deconfound.cli.app import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    shown = set(re.findall(r"^    deconfound (\w+)", text, re.MULTILINE))
    assert shown
    assert shown <= known
