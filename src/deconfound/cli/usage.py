"""What is said of words that the command line does not understand: one line, with what to type instead."""

from __future__ import annotations

import typer

# UsageError of the click that typer uses, which may be its own copy.
USAGE_ERROR: type[typer.BadParameter] = typer.BadParameter.__bases__[0]


def usage_line(error: typer.BadParameter) -> str:
    """The line for a usage error: where, what, and the way on."""
    command = error.ctx.info_name if error.ctx is not None and error.ctx.parent else ""
    place = f"deconfound {command}: " if command else ""
    return f"{place}{error.format_message()} ({_advice(error, command or '')}see --help)"


def _advice(error: typer.BadParameter, command: str) -> str:
    missing = getattr(error, "param", None) if type(error).__name__ == "MissingParameter" else None
    if missing is not None:
        return f"{str(missing.help).rstrip('.')}; "
    if command != "train":
        return ""
    option = getattr(error, "option_name", "").lstrip("-").replace("-", "_")
    if option:
        return f"a setting is changed by --set {option}=VALUE; " if option in _settings() else ""
    words = [word for word in error.format_message().replace("(", " ").replace(")", " ").split() if "=" in word]
    return f"a setting is changed by --set {words[0]}; " if words else ""


def _settings() -> set[str]:
    from deconfound.recipes.schema import Recipe

    return set(Recipe.model_fields)
