"""Judging any classifier on any images: what ``deconfound.evaluate`` does, and how the command judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import get_args

import torch
from torch import Tensor, nn

from deconfound.attacks.budgets import Budget, budget
from deconfound.attacks.suites import Setting, Suite, apart, suite
from deconfound.core.protocols import (
    Classifier,
    Crew,
    DeclaresSurrogates,
    ImageSource,
    Journal,
    Judge,
    Looping,
    Monitor,
    StochasticClassifier,
)
from deconfound.core.threat import ThreatModel
from deconfound.core.types import DeclaredAttack
from deconfound.data.families import family_of
from deconfound.errors import require, require_seed, require_whole, unknown_name
from deconfound.evaluation import Provenance
from deconfound.evaluation import evaluate as judge_model
from deconfound.models.fast import ITSELF, Precision
from deconfound.recipes import declaring, machine
from deconfound.recipes.asking import check_asked, check_settings
from deconfound.recipes.judges import tagged, usual_judge
from deconfound.recipes.loading import digest_of
from deconfound.recipes.preparing import Prepared, classes_of, prepare
from deconfound.recipes.probing import probe, probe_draws, probes
from deconfound.recipes.resolve import family_radii
from deconfound.records import EvaluationRecord
from deconfound.store.weights import digest_tensors

ADAPTIVE = "adaptive"


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How to judge.

    Attributes:
        suite: of attacks.
        budget: what is spent on stochastic judges and declared attacks: demo, normal or full.
        seed: of all random numbers.
        batch_size: images attacked together; None for what fits into memory.
        precision: of the surrogate that attacks climb, auto, 32 or bf16; the judge is always the model as it is.
        compile: whether the surrogate is compiled first (on a GPU with CUDA graphs).
        checks, curve: whether to check for gradient masking and to measure accuracy against the radius.
        gallery: broken examples kept as pictures.
        audit_min, audit_share: how many survivors the suite ``fast`` audits at least, and which share of them.
        loops: attacks climb the model with so many views, where it takes several (CiiV); its judge keeps its own. None
            for as many as it predicts with. Attacks on declared surrogates keep those.
        draws: of each gradient on a random model (EOT); None for the budget's. One is what an attack climbs that does
            not know that the model is random.
        separate: every attack of the suite by itself on all images that are right when clean, as a column, and one more
            for each source of transfer; the robust accuracy is what all of them leave.
    """

    suite: str = "fast"
    budget: str = "normal"
    seed: int = 0
    batch_size: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    checks: bool = True
    curve: bool = True
    gallery: int = 8
    audit_min: int = 100
    audit_share: float = 0.1
    loops: int | None = None
    draws: int | None = None
    separate: bool = False

    def __post_init__(self) -> None:
        budget(self.budget)
        require(isinstance(self.suite, str), "suite", self.suite, "a name; an attack of your own is MODULE:NAME")
        require_seed("seed", self.seed)
        require_whole("batch_size", self.batch_size, optional=True)
        require_whole("gallery", self.gallery, 0)
        if self.precision not in get_args(Precision):
            raise unknown_name("precision", str(self.precision), get_args(Precision))
        require_whole("loops", self.loops, optional=True)
        require_whole("draws", self.draws, optional=True)
        require_whole("audit_min", self.audit_min)
        require(0 < self.audit_share <= 1, "audit_share", self.audit_share, "a share above 0 and at most 1")

    @property
    def spent(self) -> Budget:
        """The budget, with the draws that were asked for."""
        found = budget(self.budget)
        return found if self.draws is None else replace(found, draws=self.draws)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is judged on what.

    Attributes:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), or a ``StochasticClassifier``.
        images, labels, index: as for ``evaluation.evaluate``.
        threat: the threat model.
        provenance: what the record says about model and data.
        judge: None for the largest logit, and for the majority of draws where the model is stochastic.
        declared: attacks that the training objective declares; the model's own are found by themselves.
        sources: other classifiers by name, for the transfer check and columns.
        radii: of the norms, for the suite ``unseen``.
    """

    model: nn.Module
    images: Tensor | ImageSource
    labels: Tensor | None
    index: Tensor | None
    threat: ThreatModel
    provenance: Provenance
    judge: Judge | None = None
    declared: Sequence[DeclaredAttack] = ()
    sources: Mapping[str, Classifier] = field(default_factory=dict)
    radii: dict[str, float] | None = None


def run(
    judging: Judging,
    subject: Subject,
    *,
    journal: Journal | None = None,
    crew: Crew | None = None,
    monitor: Monitor | None = None,
) -> EvaluationRecord:
    """Judge a model.

    Raises:
        InputError: bad input, such as a suite that a stochastic model would fool.
    """
    subject = _within_budget(subject, judging)
    model, images = subject.model, subject.images
    compiler = "inductor" if judging.compile else None
    ready = prepare(model, images, subject.labels, subject.index, judging.precision, judging.batch_size, compiler)
    declares = ready.surrogate if isinstance(ready.surrogate, DeclaresSurrogates) else model
    rule = "none for a network that does not predict at random"
    require(judging.draws is None or ready.stochastic, "draws", judging.draws, rule)
    if judging.loops is not None:
        ready = _with_loops(ready, judging.loops, model)
    plan, draws = planned(judging, subject, ready, declares), probe_draws(judging.budget, stochastic=ready.stochastic)
    return judge_model(
        model,
        images,
        subject.labels,
        index=subject.index,
        threat=subject.threat,
        attacks=plan.attacks,
        audit=plan.audit,
        columns=plan.columns,
        suite=judging.suite,
        seed=judging.seed,
        batch_size=ready.batch_size,
        surrogate=ready.surrogate,
        judge=_judge(subject, ready),
        probes=probes(subject.sources, draws, _left_out(judging, subject, declares)) if judging.checks else None,
        curve_attack=probe(draws) if judging.curve else None,
        gallery=judging.gallery,
        provenance=replace(
            subject.provenance,
            surrogate=ready.rung,
            sources=tagged(subject.sources),
            notes=(*subject.provenance.notes, *ready.notes, *plan.notes),
        ),
        journal=journal,
        crew=crew,
        monitor=monitor,
    )


def _with_loops(ready: Prepared, loops: int, model: nn.Module) -> Prepared:
    climbed = ready.surrogate or model
    rule = "none for a network that does not look several times"
    require(isinstance(climbed, Looping), "loops", loops, rule)
    assert isinstance(climbed, Looping)
    own = "" if ready.rung == ITSELF else f", {ready.rung}"
    return replace(ready, surrogate=climbed.with_loops(loops).eval(), rung=f"the model with {loops} of its views{own}")


def planned(judging: Judging, subject: Subject, ready: Prepared, declares: nn.Module) -> Suite:
    """The suite for this model; ``declares`` is the model, or a double of it that declares the same attacks.

    Raises:
        InputError: no such suite, or one that does not fit the model.
    """
    declared = _declared(subject, declares) if judging.suite == ADAPTIVE else ()
    setting = Setting(
        threat=subject.threat,
        classes=ready.classes or 10,
        stochastic=ready.stochastic,
        budget=judging.spent,
        rows=ready.batch_size,
        radii=_radii(subject) if judging.suite == "unseen" else {},
        declared=declaring.built(declared, subject.model, subject.threat, judging.spent),
        least=judging.audit_min,
        share=judging.audit_share,
    )
    made = suite(judging.suite, setting)
    if not judging.separate:
        return made
    climbed = declaring.transferred(subject.sources)
    return apart(made, declaring.built(climbed, subject.model, subject.threat, judging.spent))


def _declared(subject: Subject, declares: nn.Module) -> tuple[DeclaredAttack, ...]:
    return (*declaring.of_model(declares), *subject.declared)


def _left_out(judging: Judging, subject: Subject, declares: nn.Module) -> tuple[str, ...] | None:
    """Attacks that a random model declares and the suite does not run; None where it declares none, or is not one."""
    declared = _declared(subject, declares) if isinstance(subject.model, StochasticClassifier) else ()
    if not declared:
        return None
    return () if judging.suite == ADAPTIVE else tuple(one.name for one in declared)


def _radii(subject: Subject) -> dict[str, float]:
    if subject.radii is not None:
        return subject.radii
    images, names = subject.images, subject.provenance.class_names
    channels, height, width = images.shape[-3:]
    name = subject.provenance.data.partition("[")[0]
    return family_radii(family_of(name, (channels, height, width), len(names)))


def _judge(subject: Subject, ready: Prepared) -> Judge | None:
    random = subject.judge is None and isinstance(subject.model, StochasticClassifier)
    return usual_judge(subject.model) if random else subject.judge  # type: ignore[arg-type]


def _within_budget(subject: Subject, judging: Judging) -> Subject:
    """The examples asked for; on a stochastic model the budget's number of them where none were."""
    points, images = judging.spent.points, subject.images
    if subject.index is not None or points is None or not isinstance(subject.model, StochasticClassifier):
        return subject
    if not isinstance(images, Tensor):
        return replace(subject, index=torch.arange(min(len(images), points)))
    labels = subject.labels
    if not isinstance(labels, Tensor) or len(labels) != len(images):  # refused as it is
        return subject
    return replace(subject, images=images[:points], labels=labels[:points])


def evaluate(
    model: nn.Module,
    images: Tensor | ImageSource,
    labels: Tensor | None = None,
    *,
    threat: ThreatModel,
    name: str = "",
    defence: str = "",
    data: str = "",
    class_names: Sequence[str] | None = None,
    index: Tensor | None = None,
    judge: Judge | None = None,
    declared: Sequence[DeclaredAttack] = (),
    transfer_from: Sequence[Classifier] = (),
    monitor: Monitor | None = None,
    **judging: object,
) -> EvaluationRecord:
    """Judge any classifier on any images.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), normalisation inside; its mode is put back. One with
            ``draw(images, streams, draws) -> (R, B, K)`` is random: the majority of nine draws decides, asked with five
            seeds, on the budget's number of examples unless ``index`` says which.
        images: (N, C, H, W) float in [0, 1], or an image source.
        labels: (N,) int64; None with a source.
        threat: what the attacks may do.
        name, defence, data, class_names: for the record.
        index: the examples' places in their data set, which key the random numbers; 0..N-1 by default.
        judge: decides what is wrong in place of the model's largest logit.
        declared: further attacks for the suite ``adaptive``.
        transfer_from: classifiers whose adversarial images are tried on this one, as a check for gradient masking and,
            with ``separate``, as columns.
        monitor: shows progress.
        judging: fields of ``Judging``: suite, budget, seed, batch_size, precision, compile, checks, curve, gallery,
            audit_min, audit_share, loops, draws, separate.

    Returns:
        A record with ``robust_accuracy``, ``clean_accuracy``, intervals, ``verdict`` and ``outcomes``.

    Raises:
        InputError: images outside [0, 1], labels outside 0..K-1, a radius above 1 in L-infinity, unknown suite, and the
            like.
    """
    check_settings(judging, (setting.name for setting in fields(Judging)))
    settings = Judging(**judging)  # type: ignore[arg-type]
    check_asked(model, images, labels, index, threat)
    state = dict(model.state_dict())
    device = next((tensor.device for tensor in state.values()), torch.device("cpu"))
    provenance = Provenance(
        model=name or type(model).__name__,
        model_digest=digest_of(model),
        defence=defence,
        data=data or (images.name if not isinstance(images, Tensor) else "tensors"),
        data_digest=_digest(images, labels),
        class_names=_class_names(model, images, class_names),
        machine=machine.describe(device),
        budget=settings.budget,
        precision="64-true" if any(t.dtype == torch.float64 for t in state.values()) else "32-true",
    )
    subject = Subject(
        model=model,
        images=images,
        labels=labels,
        index=index,
        threat=threat,
        provenance=provenance,
        judge=judge,
        declared=declared,
        sources={f"source {place}": source for place, source in enumerate(transfer_from, 1)},
    )
    return run(settings, subject, monitor=monitor)


def _digest(images: Tensor | ImageSource, labels: Tensor | None) -> str:
    if not isinstance(images, Tensor):
        return images.digest()
    named = {"images": images} | ({} if labels is None else {"labels": labels})
    return digest_tensors(named)


def _class_names(model: nn.Module, images: Tensor | ImageSource, given: Sequence[str] | None) -> tuple[str, ...]:
    """The names given, the source's, or 0..K-1; none where the model does not take the images."""
    if isinstance(images, Tensor):
        count = classes_of(model, images) if images.ndim == 4 and len(images) else 0
        names = tuple(str(k) for k in range(count))
    else:
        names = tuple(images.class_names)
    if given is None:
        return names
    rule = f"a name for each of the {len(names)} classes"
    require(not names or len(given) == len(names), "class_names", list(given), rule)
    return tuple(given)
