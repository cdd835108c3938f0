"""Options that several commands share, with their help."""

from __future__ import annotations

from typing import Annotated

import typer

Data = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="digits, a folder, a hub name (OWNER/NAME) or MODULE:CALLABLE."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what lies at the output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output, and no table.")]
