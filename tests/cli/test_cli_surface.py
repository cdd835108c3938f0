"""The command line's surface is frozen: commands, options, types and defaults.

A deliberate change is written down with ``python tests/cli/test_cli_surface.py > tests/cli/surface.json``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer

from deconfound.cli.app import app
from deconfound.recipes.analysing import KINDS

SNAPSHOT = Path(__file__).with_name("surface.json")


def surface():
    """Command -> argument or option -> what it takes."""
    root = typer.main.get_command(app)
    commands = {"": root, **root.commands}
    return {name: {" ".join(p.opts): _parameter(p) for p in _own(command)} for name, command in commands.items()}


def _own(command):
    return [p for p in command.params if "completion" not in p.name]  # typer's own


def _parameter(parameter):
    default = parameter.default() if callable(parameter.default) else parameter.default
    return {
        "kind": parameter.param_type_name,
        "takes": "nothing" if getattr(parameter, "is_flag", False) else parameter.metavar,
        "required": parameter.required,
        "repeatable": bool(getattr(parameter, "multiple", False)) or parameter.nargs != 1,
        "default": None if default is None else str(default),
    }


def test_the_surface_is_as_published():
    assert surface() == json.loads(SNAPSHOT.read_text()), __doc__


@pytest.mark.parametrize("command", surface())
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_option(cli, command, flag):
    code, out, err = cli(*([command] if command else []), flag)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: deconfound{' ' + command if command else ''} ")
    for options, parameter in surface()[command].items():
        if parameter["kind"] == "option":
            assert all(re.search(rf"(^|\W){re.escape(option)}\b", out) for option in options.split())
        else:
            assert parameter["takes"] in out
    assert max(map(len, out.splitlines())) <= 80


def test_help_names_every_analysis(cli):
    out = cli("analyze", "--help").out
    assert all(re.search(rf"\b{kind}\b", out.partition("Options")[0]) for kind in KINDS)


def test_no_words_tell_where_to_begin(cli):
    code, out, err = cli()
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    named = re.findall(r"^ +deconfound ([a-z]+) ", f"{out}\n", re.MULTILINE)
    named += re.findall(r"^ +deconfound ([a-z]+)$", out, re.MULTILINE)
    assert {"demo", "evaluate", "train", "report", "analyze", "study", "list"} == set(named)


def test_a_line_of_the_welcome_is_a_command_that_is_understood(cli):
    lines = [line.split()[1:] for line in cli().out.splitlines() if line.startswith("  deconfound ")]
    for words in lines:
        if words[0] not in ("COMMAND", "--help"):
            known = surface()[words[0]]
            flags = {flag for options in known for flag in options.split()}
            assert all(word in flags for word in words if word.startswith("--")), words


def test_every_option_is_explained():
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help, f"{name} {parameter.name}"


if __name__ == "__main__":
    print(json.dumps(surface(), indent=1))  # noqa: T201
