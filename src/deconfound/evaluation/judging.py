"""Robust accuracy: every attack on what the earlier ones left standing, every found image judged anew.

Shapes: N examples, B of a batch, K classes; images (N, C, H, W) in [0, 1], labels, index (N,) int64.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from deconfound.core.checks import check_logits
from deconfound.core.guards import evaluating, full_float32, randomness_kept
from deconfound.core.protocols import (
    Attack,
    Classifier,
    Crew,
    ImageSource,
    Journal,
    Judge,
    Monitor,
    PredictingJudge,
    StochasticClassifier,
)
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Audit
from deconfound.errors import InputError, reason, require, require_whole
from deconfound.evaluation.auditing import Auditor
from deconfound.evaluation.examples import Examples, examples_of, index_digest
from deconfound.evaluation.ledger import Ledger
from deconfound.evaluation.meter import Meter
from deconfound.evaluation.provenance import Provenance
from deconfound.evaluation.recording import Parts, recorded
from deconfound.evaluation.referee import AttackAt, Referee
from deconfound.evaluation.run import Run
from deconfound.evaluation.scene import Probes
from deconfound.records import SCHEMA_VERSION, EvaluationRecord

EVALUATION_SEEDS = 5


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
    surrogate: Classifier | None = None,
    audit: Audit | None = None,
    columns: Sequence[tuple[str, Attack]] = (),
    journal: Journal | None = None,
    crew: Crew | None = None,
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
        judge: decides what is wrong; None for the largest logit. A random one that also says what it sees is asked
            with five seeds about every clean and every found image: accuracies are means over them.
        seed: of all random numbers.
        batch_size: images attacked together; results do not depend on it beyond rounding.
        probes: attacks for the masking checks, on at most 100 examples; None leaves them out.
        curve_attack: makes the attack of the accuracy curve at a radius, on at most 200 examples; None leaves it out.
        curve_radii: by default eps times 0 to 4.
        surrogate: what the attacks climb in place of the model, e.g. a faster copy; checks always use the model.
        audit: slow attacks, on a sample of the survivors or on all of them.
        columns: groups and attacks of any threat model, each by itself on everything that is right when clean; what
            those in ``threat`` break counts for the robust accuracy.
        journal: keeps finished pieces; the same call with the same journal goes on where it stopped.
        crew: processes that share the work; every one returns the same record.
        monitor: told about progress.
        gallery: at most so many broken examples are kept as pictures.

    Raises:
        InputError: images or labels that are not what they should be, a model that does not accept them, a surrogate or
            a source of transfer with other classes, an attack built for another threat model or returning images
            outside it, a journal of another call.
    """
    device = _device(model, images)
    examples = examples_of(images, labels, index, device, _dtype(model))
    audited = () if audit is None else tuple(audit.attacks)
    ranking = () if audit is None or audit.ranking is None else (audit.ranking,)
    _check_settings((*attacks, *audited, *ranking), columns, threat, judge, batch_size, gallery)
    meter = Meter()
    sources = () if probes is None else tuple(probes.transfer)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(full_float32())
        stack.enter_context(randomness_kept(device))
        stack.enter_context(evaluating(model, judge, surrogate, *sources))
        _check_fellows(model, examples, surrogate, sources)
        counted = stack.enter_context(meter.counting(model))
        climbed = None if surrogate is None else stack.enter_context(meter.counting(surrogate))
        call = _call(
            examples,
            threat,
            (*attacks, *audited, *ranking, *(attack for _, attack in columns)),
            provenance,
            schema=SCHEMA_VERSION,
            surrogate=provenance.surrogate,
            audit=None if audit is None else [len(audited), audit.least, audit.share],
            suite=suite,
            seed=seed,
            batch_size=batch_size,
            gallery=gallery,
            judge=_judging(judge),
            curve=[_described(curve_attack(threat)), curve_radii] if curve_attack else None,
            probes=probes.described(threat) if probes else None,
        )
        ledger = Ledger(meter, call, journal, crew)
        referee = Referee(counted, judge, batch_size, seeds_of(judge), climbed)
        run = Run(referee, examples, threat, seed, ledger, meter, monitor, gallery)
        run.judge_clean_images()
        results = [run.attack(number, attack) for number, attack in enumerate(attacks)]
        audited_results, audit_result = Auditor(run, audit, len(attacks)).audit() if audit is not None else ([], None)
        parts = Parts(
            attacks=(*results, *audited_results),
            audit=audit_result,
            columns=run.columns(columns),
            curve=None if curve_attack is None else run.curve(curve_attack, curve_radii),
        )
        checks = None if probes is None else run.checks(probes, parts.curve)
    return recorded(run, parts, checks, threat, suite, provenance, seed)


def seeds_of(judge: Judge | None) -> int:
    """How often the judge is asked about every image: five times where it is random, with fresh draws each time."""
    return EVALUATION_SEEDS if isinstance(judge, PredictingJudge) else 1


def _device(model: Classifier, images: Tensor | ImageSource) -> torch.device:
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return images.device if isinstance(images, Tensor) else torch.device("cpu")


def _dtype(model: Classifier) -> torch.dtype:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p.dtype for p in parameters if p.dtype == torch.float64), torch.float32)


def _check_settings(
    attacks: Sequence[Attack],
    columns: Sequence[tuple[str, Attack]],
    threat: ThreatModel,
    judge: Judge | None,
    batch_size: int,
    gallery: int,
) -> None:
    require_whole("batch_size", batch_size)
    require_whole("gallery", gallery, 0)
    require(judge is None or not isinstance(judge, nn.Module), "judge", type(judge).__name__, "a judge, not a network")
    names = [attack.name for attack in attacks] + [attack.name for _, attack in columns]
    require(len(set(names)) == len(names) and "clean" not in names, "attacks", names, "different names, none 'clean'")
    inside = [*attacks, *(attack for _, attack in columns if attack.threat == threat)]
    require(len(inside) > 0, "attacks", names, f"at least one attack within {threat}")
    for attack in attacks:
        if attack.threat != threat:
            raise InputError(f"attack {attack.name!r}", str(attack.threat), f"an attack for {threat}")


def _check_fellows(
    model: Classifier, examples: Examples, surrogate: Classifier | None, sources: Sequence[Classifier]
) -> None:
    """What is climbed in place of the model takes the same images and knows as many classes."""
    fellows = [("surrogate", surrogate)] if surrogate is not None else []
    fellows += [(f"transfer source {number + 1}", source) for number, source in enumerate(sources)]
    if not fellows:
        return
    batch = examples.batch(torch.arange(1))
    try:
        classes = _classes("model", model, batch.images)
    except InputError:  # said more precisely when the clean images are judged
        return
    for field, fellow in fellows:
        found = _classes(field, fellow, batch.images)
        require(found == classes, field, f"{found} classes", f"the {classes} classes of the model that judges")


def _classes(field: str, classifier: Classifier, images: Tensor) -> int:
    """K of a classifier, asked about one image."""
    try:
        with torch.no_grad():
            if isinstance(classifier, StochasticClassifier):
                logits = classifier.draw(images, Streams(0, [0]).to(images.device), 1)[0]
            else:
                logits = classifier(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        rule = f"a classifier of the same images; it says: {reason(error)}"
        raise InputError(field, type(classifier).__name__, rule) from None
    return check_logits(logits, 1, field)


def _judging(judge: Judge | None) -> Any:
    """What tells one judge from another, as plain data."""
    if judge is None:
        return None
    own = dict(judge.settings()) if isinstance(judge, PredictingJudge) else {}
    return [type(judge).__qualname__, own]


def _call(
    examples: Examples, threat: ThreatModel, attacks: Sequence[Attack], provenance: Provenance, **settings: Any
) -> dict[str, Any]:
    """What makes two calls the same evaluation, as it comes back from JSON."""
    call = {
        "model": provenance.model_digest,
        "data": provenance.data_digest,
        "sources": provenance.sources,
        "index": index_digest(examples.index),
        "threat": [threat.norm, threat.eps, threat.box],
        "attacks": [_described(attack) for attack in attacks],
        **settings,
    }
    return dict(json.loads(json.dumps(call)))


def _described(attack: Attack) -> list[Any]:
    return [attack.name, dict(attack.settings())]
