"""Robust accuracy: every attack on what the earlier ones left standing, every found image judged anew.

Shapes: N examples, B of a batch, K classes; images (N, C, H, W) in [0, 1], labels, index (N,) int64.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating, full_float32, randomness_kept
from deconfound.core.protocols import Attack, Classifier, ImageSource, Journal, Judge, Monitor
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError, require
from deconfound.evaluation.curve import Curve
from deconfound.evaluation.examples import Examples, examples_of, index_digest
from deconfound.evaluation.ledger import Ledger
from deconfound.evaluation.masking import Probes, verdict
from deconfound.evaluation.meter import Meter
from deconfound.evaluation.provenance import Provenance
from deconfound.evaluation.referee import AttackAt, Referee
from deconfound.evaluation.run import Run
from deconfound.functional.statistics import wilson_interval
from deconfound.records import AttackResult, Check, EvaluationRecord, Threat, Verdict

# A number that nobody tried to doubt is not to be relied on.
UNCHECKED = Verdict(reliable=False, reasons=("the masking checks were not run",))


def evaluate(
    model: Classifier,
    images: Tensor | ImageSource,
    labels: Tensor | None = None,
    *,
    threat: ThreatModel,
    attacks: Sequence[Attack],
    suite: str,
    provenance: Provenance,
    index: Tensor | None = None,
    judge: Judge | None = None,
    seed: int = 0,
    batch_size: int = 256,
    probes: Probes | None = None,
    curve_attack: AttackAt | None = None,
    curve_radii: Sequence[float | str] | None = None,
    journal: Journal | None = None,
    monitor: Monitor | None = None,
    gallery: int = 8,
) -> EvaluationRecord:
    """Attack a classifier and record what it withstood.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K); put in eval mode, and back.
        images: a tensor (N, C, H, W), or a source, which is read batch by batch.
        labels: (N,) int64 with a tensor, None with a source.
        threat: what the attacks may do; each of them must be built for it.
        attacks: run in order, each on what the earlier ones left standing.
        suite: their name.
        provenance: what the record says about model, data and machine.
        index: places in the data set (N,), which key the random numbers; positions in a source. By default 0..N-1.
        judge: decides what is wrong; None for the largest logit.
        seed: of all random numbers.
        batch_size: images attacked together; results do not depend on it beyond rounding.
        probes: attacks for the masking checks, on at most 100 examples; None leaves them out.
        curve_attack: makes the attack of the accuracy curve at a radius, on at most 200 examples; None leaves it out.
        curve_radii: by default eps times 0 to 4.
        journal: keeps finished pieces; the same call with the same journal goes on where it stopped.
        monitor: told about progress.
        gallery: at most so many broken examples are kept as pictures.

    Raises:
        InputError: images or labels that are not what they should be, a model that does not accept them, an attack
            built for another threat model or returning images outside it, a journal of another call.
    """
    device = _device(model, images)
    examples = examples_of(images, labels, index, device, _dtype(model))
    _check_settings(attacks, threat, judge, batch_size, gallery)
    meter = Meter()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(full_float32())
        stack.enter_context(randomness_kept(device))
        stack.enter_context(evaluating(model, judge))
        counted = stack.enter_context(meter.counting(model))
        call = _call(
            examples,
            threat,
            attacks,
            provenance,
            suite=suite,
            seed=seed,
            batch_size=batch_size,
            gallery=gallery,
            judge=None if judge is None else type(judge).__qualname__,
            curve=[_described(curve_attack(threat)), curve_radii] if curve_attack else None,
            probes=[_described(make(threat)) for make in (probes.single_step, probes.iterative)] if probes else None,
        )
        ledger = Ledger(meter, call, journal)
        run = Run(Referee(counted, judge, batch_size), examples, threat, seed, ledger, meter, monitor, gallery)
        run.judge_clean_images()
        results = [run.attack(number, attack) for number, attack in enumerate(attacks)]
        curve = None if curve_attack is None else run.curve(curve_attack, curve_radii)
        checks = None if probes is None else run.checks(probes, curve)
    return _record(run, results, curve, checks, threat, suite, provenance, seed)


def _device(model: Classifier, images: Tensor | ImageSource) -> torch.device:
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return images.device if isinstance(images, Tensor) else torch.device("cpu")


def _dtype(model: Classifier) -> torch.dtype:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p.dtype for p in parameters if p.dtype == torch.float64), torch.float32)


def _check_settings(
    attacks: Sequence[Attack], threat: ThreatModel, judge: Judge | None, batch_size: int, gallery: int
) -> None:
    require(batch_size >= 1, "batch_size", batch_size, "a whole number of at least 1")
    require(gallery >= 0, "gallery", gallery, "a whole number of at least 0")
    names = [attack.name for attack in attacks]
    require(len(names) > 0, "attacks", names, "at least one attack")
    require(len(set(names)) == len(names) and "clean" not in names, "attacks", names, "different names, none 'clean'")
    require(judge is None or not isinstance(judge, nn.Module), "judge", type(judge).__name__, "a judge, not a network")
    for attack in attacks:
        if attack.threat != threat:
            raise InputError(f"attack {attack.name!r}", str(attack.threat), f"an attack for {threat}")


def _call(
    examples: Examples, threat: ThreatModel, attacks: Sequence[Attack], provenance: Provenance, **settings: Any
) -> dict[str, Any]:
    """What makes two calls the same evaluation, as it comes back from JSON."""
    call = {
        "model": provenance.model_digest,
        "data": provenance.data_digest,
        "index": index_digest(examples.index),
        "threat": [threat.norm, threat.eps, threat.box],
        "attacks": [_described(attack) for attack in attacks],
        **settings,
    }
    return dict(json.loads(json.dumps(call)))


def _described(attack: Attack) -> list[Any]:
    return [attack.name, dict(attack.settings())]


def _record(
    run: Run,
    results: Sequence[AttackResult],
    curve: Curve | None,
    checks: tuple[Check, ...] | None,
    threat: ThreatModel,
    suite: str,
    provenance: Provenance,
    seed: int,
) -> EvaluationRecord:
    outcomes = run.findings.outcomes()
    n = len(outcomes)
    clean = sum(outcome.broken_by != "clean" for outcome in outcomes)
    robust = sum(outcome.broken_by is None for outcome in outcomes)
    cost = run.ledger.cost("clean/", "attack/")
    return EvaluationRecord(
        **_origin(provenance),
        threat=Threat(norm=threat.norm, eps=threat.eps, box=threat.box),
        suite=suite,
        n=n,
        seed=seed,
        clean_accuracy=clean / n,
        clean_interval=wilson_interval(clean, n),
        robust_accuracy=robust / n,
        robust_interval=wilson_interval(robust, n),
        verdict=UNCHECKED if checks is None else verdict(checks),
        attacks=tuple(results),
        outcomes=outcomes,
        curve=curve.points if curve else (),
        gallery=tuple(run.pictures),
        forwards=cost.forwards,
        backwards=cost.backwards,
        seconds=cost.seconds,
        cpu_seconds=cost.cpu_seconds,
        notes=(*provenance.notes, *_notes(run.ledger, curve is not None, checks is not None)),
    )


def _origin(provenance: Provenance) -> Mapping[str, Any]:
    names = (
        "model",
        "model_digest",
        "defence",
        "data",
        "data_digest",
        "class_names",
        "machine",
        "budget",
        "precision",
    )
    return {name: getattr(provenance, name) for name in names} | {"training": dict(provenance.training)}


def _notes(ledger: Ledger, curve: bool, checks: bool) -> list[str]:
    """What the checks and the curve cost, which is no part of the suite's figures."""
    notes = []
    for done, title, start in ((checks, "masking checks", "masking"), (curve, "accuracy curve", "curve/")):
        cost = ledger.cost(start)
        timed = f"{cost.seconds:.2f} s, {cost.forwards} images forwarded, {cost.backwards} backwards"
        notes.append(f"{title}: {timed}, not part of the suite's cost" if done else f"{title}: not run")
    return notes
