"""The command line: reads words, calls jobs, prints. Everything else happens below."""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Slow imports wait until a command needs them."""
    from deconfound.cli.app import run

    return run(arguments)
