"""The job behind ``deconfound train``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deconfound.core.protocols import Monitor
from deconfound.data import load as load_data
from deconfound.data.naming import as_file_name
from deconfound.errors import require
from deconfound.recipes.carrying import Trained, Work
from deconfound.recipes.compute import Compute
from deconfound.recipes.machine import commit
from deconfound.recipes.processes import process_rank
from deconfound.recipes.resolve import merged, parse_changes, read_spec, resolve
from deconfound.recipes.schema import Recipe
from deconfound.recipes.stages import Ground
from deconfound.store import RunFolder
from deconfound.training import Hooks

DEFAULT_DATA = "digits"


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    data: str | None = None,
    model: str | None = None,
    out: str | Path | None = None,
    changes: Iterable[str] | Mapping[str, Any] = (),
    stages: Mapping[str, str | Path] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    compute: Compute | None = None,
    monitor: Monitor | None = None,
    checkpoint_seconds: float = 30.0,
) -> Trained:
    """Train a recipe.

    Args:
        recipe: a name, ``module:NAME`` for an ``Entry`` of one's own, a YAML file, or a mapping with the key
            ``recipe``.
        data: data set; the recipe's own, else the bundled digits.
        model: network in place of the recipe's.
        out: run folder; None trains in memory and writes nothing.
        changes: ``key=value`` words or a mapping of dotted keys, the last word on every setting.
        stages: finished runs in place of stages that the recipe would train first, by name.
        resume: continue from ``out``'s checkpoint (from the beginning where there is none).
        overwrite: replace the run in ``out``.
        compute: devices and processes.
        monitor: shows progress.
        checkpoint_seconds: time between checkpoints; 0 saves after every step, of several processes after every
            eighth. It does not change the result.

    Raises:
        InputError: bad input, before anything is written.
        Stopped: SIGTERM or SIGINT arrived; the state is saved.
        FloatingPointError: the loss is not finite.
    """
    commit()  # for the record: others may commit while this trains
    for field, value in (("data", data), ("model", model)):
        rule = f"a name (deconfound list {'data' if field == 'data' else 'models'}), or module:callable for your own"
        require(value is None or isinstance(value, str), field, type(value).__name__, rule)
    rule = "a mapping of keys to values, such as {'epochs': 5}, or a list of key=value"
    require(not isinstance(changes, str), "changes", changes, rule)
    compute = compute or Compute()
    spec = read_spec(recipe)
    given = {"stages": {name: str(run) for name, run in (stages or {}).items()}} if stages else {}
    wanted = merged(parse_changes(changes), given) | ({"model": model} if model else {})
    require(out is not None or not (resume or overwrite), "out", out, "a run folder, to resume or overwrite")
    name = data if data is not None else wanted.get("data") or spec.get("data") or DEFAULT_DATA
    draft = resolve(spec, data=name, family=_family(spec, wanted) or "generic", changes=wanted)
    folder = RunFolder(out) if out is not None else None
    if folder is not None and process_rank() == 0:
        folder.check(resume=resume, overwrite=overwrite)
        _check_kept(folder, draft, overwrite=overwrite)
        if resume and monitor is not None and not (folder.has_checkpoint() or folder.record.is_file()):
            monitor.message(f"{folder.path}: nothing to resume here, training begins")
    fabric = compute.fabric(draft.precision)
    fabric.launch()
    loaded = load_data(name, size=draft.image_size, workers=compute.workers, parts=("train",))
    family = _family(spec, wanted) or loaded.family
    resolved = resolve(spec, data=name, family=family, changes=wanted)
    if resolved.image_size != draft.image_size:  # of the family, which only the data told
        loaded = load_data(name, size=resolved.image_size, workers=compute.workers, parts=("train",))
    assert loaded.train is not None  # load refuses data without the part that is asked for
    count = len(loaded.class_names)
    require(count >= 2, "data", f"{name} with {count} class", "a data set of at least two classes")
    source = loaded.train
    ground = Ground(source=source, class_names=loaded.class_names, shape=loaded.shape, digest=source.digest())
    hooks = Hooks(monitor=monitor, checkpoint_seconds=checkpoint_seconds)
    work = Work(ground, compute, hooks)
    return work.carry_out(resolved, folder, fabric, resume=resume, overwrite=overwrite)


def _check_kept(folder: RunFolder, recipe: Recipe, *, overwrite: bool) -> None:
    """A stage that is given does not lie where overwriting would remove it."""
    for name, how in recipe.stages.items():
        inside = isinstance(how, str) and Path(how).resolve().is_relative_to(folder.path.resolve())
        rule = f"a run outside of {folder.path}, which --overwrite replaces with its stages"
        require(not (overwrite and inside), f"stages.{name}", how, rule)


def default_run(recipe: str, data: str | None = None) -> Path:
    """The folder of a run that was given none: ``runs/RECIPE-DATA``.

    >>> str(default_run("pgd-at"))
    'runs/pgd-at-digits'
    >>> str(default_run("cafe/trades", "data/mnist+patch:rho=1/10"))
    'runs/cafe-trades-mnist+patch-rho=1-10'
    """
    spec = read_spec(recipe)
    own = recipe.endswith((".yaml", ".yml")) and Path(recipe).name != "recipe.yaml"
    name = Path(recipe).stem if own else re.sub("[/:]", "-", spec["recipe"])
    return Path("runs") / f"{name}-{as_file_name(str(data or spec.get('data') or DEFAULT_DATA))}"


def _family(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> str | None:
    return changes.get("family") or spec.get("family")
