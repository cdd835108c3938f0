"""The job behind ``deconfound certify``: the L2 radii that a run's network, voting under noise, is certain of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from deconfound.core.origin import Origin
from deconfound.core.protocols import Journal, Monitor, StochasticClassifier
from deconfound.data import load as load_data
from deconfound.data.naming import as_file_name
from deconfound.errors import InputError, require
from deconfound.evaluation import Certification
from deconfound.evaluation import certify as certify_model
from deconfound.models.smoothed import Smoothed
from deconfound.recipes.loading import load_run
from deconfound.recipes.players import folder_of
from deconfound.recipes.targets import check_fit, chosen, data_of_run, device_of, origin_facts
from deconfound.recipes.unfinished import with_journal
from deconfound.records import CertificationRecord
from deconfound.store import write_text


@dataclass(frozen=True, kw_only=True)
class Certifying:
    """What to certify, and how: the arguments of ``deconfound certify``.

    Attributes:
        run: run folder, or its ``model.safetensors``.
        sigma: of the noise; by default that of the run's training.
        data: data set; the run's own by default.
        n: the first n test images; all by default. With ``sample``, n drawn with that seed.
        device: ``auto``, ``cpu`` or ``cuda``.
        settings: draws, level, seed.
    """

    run: str
    sigma: float | None = None
    data: str | None = None
    n: int | None = None
    sample: int | None = None
    device: str = "auto"
    settings: Certification = field(default_factory=Certification)


def certify(
    wanted: Certifying, *, out: str | Path | None = None, overwrite: bool = False, monitor: Monitor | None = None
) -> tuple[CertificationRecord, Path]:
    """Certify a run; the record goes to ``out``, into the run's folder by default.

    Progress goes to ``OUT.journal``; the same call resumes from it.

    Raises:
        InputError: bad input, before anything is written.
    """
    loaded = load_run(wanted.run)
    recipe = loaded.recipe
    assert recipe is not None  # load_run refuses weights without one
    model = _under_noise(loaded.model, wanted)
    name = data_of_run(Path(wanted.run)) if wanted.data is None else wanted.data
    if name is None:
        raise InputError(
            "data", None, f"a data set (--data): {folder_of(wanted.run).recipe} is missing, which names it"
        )
    device = device_of(wanted.device)
    test = load_data(name, size=recipe.image_size, parts=("test",)).test
    assert test is not None  # load refuses data without the part that is asked for
    check_fit(loaded, test, name)
    path = Path(out) if out is not None else default_path(wanted, model.sigma)

    def work(journal: Journal | None) -> CertificationRecord:
        record = certify_model(
            model.to(device),
            test,
            Origin(**origin_facts(loaded, test, device)),
            wanted.settings,
            index=chosen(len(test), wanted.n, wanted.sample),
            device=device,
            journal=journal,
            monitor=monitor,
        )
        write_text(path, record.to_json())
        return record

    return with_journal(path, work, overwrite=overwrite), path


def _under_noise(model: nn.Module, wanted: Certifying) -> Smoothed:
    """The run's network under the noise asked for."""
    if isinstance(model, Smoothed):
        return model if wanted.sigma is None else Smoothed(model.inner, wanted.sigma).eval()
    random = isinstance(model, StochasticClassifier)
    require(not random, "run", wanted.run, "a network that is random by Gaussian noise, or not at all")
    rule = f"a number above 0 (--sigma): {wanted.run} was not trained under noise"
    if wanted.sigma is None:
        raise InputError("sigma", None, rule)
    return Smoothed(model, wanted.sigma).eval()


def default_path(wanted: Certifying, sigma: float) -> Path:
    """Where a record goes that was given no place: into the run, by noise and by what differs from the defaults.

    >>> str(default_path(Certifying(run="runs/noisy", n=100), 0.25))
    'runs/noisy/certify-sigma0.25-n100.json'
    """
    settings, usual = wanted.settings, Certification()
    data = "" if wanted.data is None else f"{as_file_name(wanted.data)}-"
    words = [f"certify-{data}sigma{sigma:g}"]
    words += [] if wanted.n is None else [f"n{wanted.n}"]
    words += [] if wanted.sample is None else [f"sample{wanted.sample}"]
    words += [
        f"{short}{getattr(settings, key):g}"
        for short, key in (("n0-", "selection_draws"), ("draws", "draws"), ("alpha", "alpha"), ("seed", "seed"))
        if getattr(settings, key) != getattr(usual, key)
    ]
    place = Path(wanted.run)
    return (place.parent if place.is_file() else place) / ("-".join(words) + ".json")
