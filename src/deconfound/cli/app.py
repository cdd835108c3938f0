"""The commands."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from deconfound.cli.analyzing import analyze, compare_reliance
from deconfound.cli.certifying import certify
from deconfound.cli.exporting import export
from deconfound.cli.listing import list_
from deconfound.cli.options import Data, Json, Overwrite, Quiet, accelerator_of, devices_of, numbers_of
from deconfound.cli.screen import Screen, logged, trained_text
from deconfound.cli.studying import study
from deconfound.cli.usage import USAGE_ERROR, usage_line
from deconfound.cli.welcome import WELCOME
from deconfound.errors import InputError
from deconfound.recipes.processes import process_rank

BAD_INPUT, FAILED = 2, 1

app = typer.Typer(
    name="deconfound",
    help="Train, attack, judge and explain image classifiers under the causal view of adversarial robustness.",
    epilog="Start with: deconfound demo",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from deconfound.recipes.machine import version

        for package in ("deconfound", "torch", "lightning-fabric"):
            typer.echo(f"{package} {version(package)}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions, also of torch.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(WELCOME)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for runs, results and report.")] = Path(
        "demo"
    ),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train, attack, judge, explain and report on bundled digits: no download, a few minutes on two cores."""
    from deconfound.recipes.demo import demo as job
    from deconfound.reporting.tables import leaderboard_table

    screen = Screen(quiet=quiet)
    with logged(screen):
        found = job(out, overwrite=overwrite, monitor=screen)
    if json:
        typer.echo(found.results.read_text(), nl=False)
        return
    screen.output.print(leaderboard_table(found.evaluations))
    for line in (*found.lessons.about, "", "What was learned:", *(f"- {line}" for line in found.lessons.learned), ""):
        screen.output.print(line, soft_wrap=True, markup=False)
    screen.output.print(f"Open the report: {found.page}", soft_wrap=True, markup=False)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or a YAML file; see list recipes.")],
    data: Data = None,
    model: Annotated[str | None, typer.Option(metavar="M", help="Network in place of the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder [runs/RECIPE-DATA].")] = None,
    changes: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of RUN/recipe.yaml; may be repeated."),
    ] = [],  # noqa: B006 (typer copies it)
    base: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Finished run for the stage base, of recipes cafe/... and fair/..."),
    ] = None,
    amr: Annotated[
        str | None, typer.Option(metavar="RUN", help="Finished run for the stage amr, built on the same base.")
    ] = None,
    standard: Annotated[
        str | None, typer.Option(metavar="RUN", help="Finished run for the stage standard, which helps (HAT).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    overwrite: Overwrite = False,
    devices: Annotated[str, typer.Option(metavar="N", help="Devices of this machine, a number or auto.")] = "1",
    num_nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Machines.")] = 1,
    strategy: Annotated[str, typer.Option(metavar="S", help="How processes cooperate: auto or ddp.")] = "auto",
    accelerator: Annotated[str, typer.Option(metavar="A", help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(metavar="P", help="32-true, bf16-mixed or 64-true; short for --set precision=P.")
    ] = None,
    checkpoint_seconds: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Between checkpoints.")] = 30.0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a recipe into a run folder.

    Example: deconfound train pgd-at --data digits --out runs/first --set epochs=5
    """
    from deconfound.recipes.compute import Compute
    from deconfound.recipes.training import default_run
    from deconfound.recipes.training import train as job

    screen = Screen(quiet=quiet)
    compute = Compute(
        devices=devices_of(devices),
        num_nodes=num_nodes,
        strategy=strategy,
        accelerator=accelerator,
    )
    words = [*changes, *([f"precision={precision}"] if precision else [])]
    with logged(screen):
        trained = job(
            recipe,
            data=data,
            model=model,
            out=out or default_run(recipe, data),
            changes=words,
            stages={
                name: run for name, run in {"base": base, "amr": amr, "standard": standard}.items() if run is not None
            },
            resume=resume,
            overwrite=overwrite,
            compute=compute,
            monitor=screen,
            checkpoint_seconds=checkpoint_seconds,
        )
    if process_rank():
        return
    if json:
        typer.echo(trained.record.to_json(), nl=False)
        return
    screen.output.print(trained_text(str(trained.path), trained.record), soft_wrap=True, markup=False)


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN_or_MODEL", help="A run folder, or a network with --weights.")],
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Weights for a network given by name.")] = None,
    data: Data = None,
    suite: Annotated[str, typer.Option(metavar="S", help="Suite of attacks; see list suites.")] = "fast",
    norm: Annotated[str | None, typer.Option(metavar="NORM", help="linf, l2 or l1; the run's by default.")] = None,
    eps: Annotated[str | None, typer.Option(metavar="EPS", help="Radius such as 8/255; the run's by default.")] = None,
    n: Annotated[int | None, typer.Option("-n", metavar="N", help="The first N test images; all by default.")] = None,
    sample: Annotated[int | None, typer.Option(metavar="SEED", help="Draw the N images with this seed.")] = None,
    budget: Annotated[str, typer.Option(metavar="B", help="demo, normal or full.")] = "normal",
    seed: Annotated[int, typer.Option(metavar="SEED", help="Of all random numbers.")] = 0,
    batch_size: Annotated[
        int | None, typer.Option(metavar="B", help="Images attacked together [what fits into memory, at most 256].")
    ] = None,
    precision: Annotated[str, typer.Option(metavar="P", help="Of what attacks climb: auto, 32 or bf16.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile what attacks climb; pays in long runs.")] = False,
    transfer_from: Annotated[
        list[str], typer.Option(metavar="RUN", help="Try this run's adversarial images too; may be repeated.")
    ] = [],  # noqa: B006 (typer copies it)
    audit_min: Annotated[int, typer.Option(metavar="N", help="Survivors that suite fast audits at least.")] = 100,
    audit_share: Annotated[float, typer.Option(metavar="X", help="And at least this share of them.")] = 0.1,
    loops: Annotated[
        int | None, typer.Option(metavar="L", help="Views of what attacks climb, for ciiv; by default all.")
    ] = None,
    draws: Annotated[int | None, typer.Option(metavar="R", help="Of each gradient of a random model [20].")] = None,
    separate: Annotated[
        bool, typer.Option("--separate", help="Every attack by itself on all images, as a column; not with fast.")
    ] = False,
    devices: Annotated[str, typer.Option(metavar="N", help="Devices that share the work, a number or auto.")] = "1",
    num_nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Machines.")] = 1,
    mean: Annotated[str | None, typer.Option(metavar="M,..", help="Normalisation inside a named network.")] = None,
    std: Annotated[str | None, typer.Option(metavar="S,..", help="Likewise.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Resize and crop images to N, for a named network.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Record; for a run, in its folder.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Attack a trained network and record what it withstands.

    Example: deconfound evaluate runs/first

    Example: deconfound evaluate lenet5 --weights lenet.pt --data FOLDER --eps 0.3
    """
    from deconfound.recipes.compute import Compute
    from deconfound.recipes.evaluating import Judging
    from deconfound.recipes.targets import Target, evaluate_target
    from deconfound.reporting.tables import evaluation_table

    screen = Screen(quiet=quiet)
    what = Target(
        target=target,
        weights=weights,
        data=data,
        norm=norm,
        eps=eps,
        n=n,
        sample=sample,
        mean=numbers_of("mean", mean),
        std=numbers_of("std", std),
        image_size=image_size,
        device=device,
        transfer_from=tuple(transfer_from),
    )
    with logged(screen):
        judging = Judging(
            suite=suite,
            budget=budget,
            seed=seed,
            batch_size=batch_size,
            precision=precision,  # type: ignore[arg-type]  # checked there
            compile=compiled,
            audit_min=audit_min,
            audit_share=audit_share,
            loops=loops,
            draws=draws,
            separate=separate,
        )
        compute = Compute(devices=devices_of(devices), num_nodes=num_nodes, accelerator=accelerator_of(device))
        shown = None if process_rank() else screen
        record, path = evaluate_target(
            what, judging, out=out, overwrite=overwrite, compute=compute, monitor=shown, printed=json
        )
    if process_rank():
        return
    if json:
        typer.echo(record.to_json(), nl=False)
        return
    screen.output.print(evaluation_table(record))
    if path is not None:
        screen.output.print(f"Record: {path}", soft_wrap=True, markup=False)


app.command()(analyze)
app.command()(certify)
app.command()(export)
app.command()(study)


@app.command()
def report(
    places: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders or record files.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("report.html"),
    overwrite: Overwrite = False,
) -> None:
    """Render records to one self-contained page."""
    from deconfound.recipes.reporting import write_report

    typer.echo(write_report(places, out, overwrite=overwrite, say=partial(typer.echo, err=True)))


@app.command()
def compare(
    places: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Evaluation records or run folders.")],
    adjust: Annotated[str, typer.Option(metavar="A", help="p-values for several pairs: holm or none.")] = "holm",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Record of the comparison.")] = None,
    reliance: Annotated[bool, typer.Option("--reliance", help="Compare reliance records: model by rho.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Show evaluations of one data set side by side, with a paired test for each pair.

    Example: deconfound compare runs/first runs/second
    """
    if reliance:
        compare_reliance(places, out, json=json)
        return
    from deconfound.recipes.comparing import compare as job
    from deconfound.reporting import comparison_view

    found = job(places, adjust=adjust, out=out, overwrite=overwrite)
    if json:
        typer.echo(found.to_json(), nl=False)
        return
    Screen().output.print(comparison_view(found))
    if out is not None:
        typer.echo(f"Record: {out}")


app.command(name="list")(list_)


def _complain(text: str) -> None:
    rank = process_rank()
    place = f" (process {rank})" if rank else ""
    typer.echo(f"error{place}: {' '.join(text.split())}", err=True)


def _drop_output() -> None:
    """What standard output could not take is not tried again when the process ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: list[str] | None = None) -> int:
    """Run a command; every expected failure is one plain line on standard error.

    Exit codes: 0 done, 1 a run failed (diverged), 2 bad input, 128 + signal where a signal ended the run after saving.
    """
    from deconfound.recipes.stopping import Stopped

    arguments = sys.argv[1:] if arguments is None else arguments
    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="deconfound", standalone_mode=False)
    except USAGE_ERROR as error:
        _complain(usage_line(error))
        return BAD_INPUT
    except InputError as error:
        _complain(str(error))
        return BAD_INPUT
    except FloatingPointError as error:
        _complain(str(error))
        return FAILED
    except Stopped as stop:
        typer.echo(str(stop), err=True)
        return 128 + stop.signal
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except SystemExit as end:  # typer leaves so where the reader of a pipe has gone
        return end.code if isinstance(end.code, int) else FAILED
    except OSError as error:  # a name too long, no right to read, standard output on a full disk
        _complain(f"{error.filename or 'system'}: {error.strerror or error}")
        if error.filename is None:
            _drop_output()
        return BAD_INPUT
    return code if isinstance(code, int) else 0
