"""Can the robust accuracy be believed? Checks for gradient masking, each a measured figure against a threshold.

After Carlini et al. 2019 ("On evaluating adversarial robustness", section 3.2) and the flags of AutoAttack.

Shapes: n examples of the sample; images (n, C, H, W), verdicts (n,) bool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from scipy.stats import binomtest
from torch import Tensor

from deconfound.core.guards import attacking
from deconfound.core.protocols import StochasticClassifier
from deconfound.core.threat import ThreatModel
from deconfound.evaluation.curve import Curve
from deconfound.evaluation.referee import AttackAt, Referee, Sample
from deconfound.functional.losses import cross_entropy, margin
from deconfound.functional.predictions import predicted
from deconfound.records import Check, Verdict

MASKING_EXAMPLES = 100
SIGNIFICANCE = 0.01
IDENTICAL_CALLS = 4
# Kernels that add in another order from call to call differ by some 1e-6 of the largest logit.
OUTPUT_CHANGE = 1e-4
ZERO_GRADIENT_SHARE = 0.1
LEFT_AT_FULL_RANGE = 0.01
NORMALISATION_GAIN = 0.05
NOISE_DRAWS = 20

# (mean, standard deviation) per channel, as published with the data sets or as commonly used for them.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "[-1, 1]": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "MNIST": ((0.1307,), (0.3081,)),
    "Fashion-MNIST": ((0.2860,), (0.3530,)),
    "[-1, 1] grey": ((0.5,), (0.5,)),
}


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The attacks that the checks compare, each made for a threat model, e.g. by the attack's class.

    Attributes:
        single_step: one gradient step.
        iterative: many steps of the same gradient.
    """

    single_step: AttackAt
    iterative: AttackAt


class Scene:
    """What the checks look at; every attack is run once, whichever checks use it.

    Args:
        referee: judges.
        threat: of the evaluation.
        sample: at most 100 examples.
        probes: the attacks to compare.
        curve: accuracy against the radius, if it was measured.
    """

    def __init__(
        self, referee: Referee, threat: ThreatModel, sample: Sample, probes: Probes, curve: Curve | None = None
    ) -> None:
        self.referee, self.threat, self.sample, self.probes, self.curve = referee, threat, sample, probes, curve
        self._standing: dict[str, Tensor] = {}

    def standing(self, name: str, make: AttackAt, threat: ThreatModel) -> Tensor:
        """Which examples one attack leaves right."""
        if name not in self._standing:
            self._standing[name] = self.referee.standing(make(threat), self.sample)
        return self._standing[name]

    def after_iterative(self) -> Tensor:
        """Which examples the iterative attack leaves right at eps."""
        return self.standing("iterative", self.probes.iterative, self.threat)


def excess(weaker: Tensor, stronger: Tensor) -> tuple[float, int, int]:
    """One-sided exact test that the weaker attack breaks no more examples than the stronger.

    Of the examples that only one of them breaks, half are expected on either side at worst; returns
    P(Bin(a + b, 1/2) >= a) with a broken by the weaker alone and b by the stronger alone, then a and b.
    ``weaker``, ``stronger``: what each leaves standing.
    """
    alone, other = int((stronger & ~weaker).sum()), int((weaker & ~stronger).sum())
    if alone + other == 0:
        return 1.0, alone, other
    return float(binomtest(alone, alone + other, 0.5, alternative="greater").pvalue), alone, other


def output_changes(scene: Scene) -> Check:
    """Identical calls give the same output: largest change, as a share of the largest logit."""
    name = "identical calls agree"
    if isinstance(scene.referee.model, StochasticClassifier):
        return Check(name=name, measured=None, threshold=OUTPUT_CHANGE, passed=None, note="declared stochastic")
    calls = [scene.referee.logits(scene.sample.batch.images).double().nan_to_num() for _ in range(IDENTICAL_CALLS)]
    change = max(float((call - calls[0]).abs().max()) for call in calls[1:])
    share = change / max(float(calls[0].abs().max()), 1e-12)
    found = f"identical calls change the output by up to {share:.2g} of the largest logit"
    return _check(name, share, OUTPUT_CHANGE, share <= OUTPUT_CHANGE, found, "undeclared randomness")


def zero_gradients(scene: Scene) -> Check:
    """Share of correctly classified examples whose cross-entropy gradient is zero in every pixel.

    A saturated softmax counts too: in float32 its gradient is exactly zero once the true class leads by more than
    about 100, gradient attacks on the cross-entropy stand still there, and that is how defensive distillation seemed
    robust. The note says how many of these move the margin, so that saturation can be told from a blocked gradient.
    """
    name = "zero gradients"
    correct = scene.sample.correct
    if not bool(correct.any()):
        return _not_run(name, ZERO_GRADIENT_SHARE, "no example is classified correctly")
    silent = ~_gradient_exists(scene, cross_entropy) & correct
    saturated = silent & _gradient_exists(scene, margin) if bool(silent.any()) else silent
    share = int(silent.sum()) / int(correct.sum())
    found = f"{share:.1%} of the input gradients are zero, {int(saturated.sum())} of {int(silent.sum())} by saturation"
    fault = "gradient attacks stand still there"
    return _check(name, share, ZERO_GRADIENT_SHARE, share <= ZERO_GRADIENT_SHARE, found, fault)


def _gradient_exists(scene: Scene, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    batch, model, size = scene.sample.batch, scene.referee.model, scene.referee.batch_size
    found = []
    with attacking("eval", batch.images.device, model):
        for images, labels in zip(batch.images.split(size), batch.labels.split(size), strict=True):
            leaf = images.detach().clone().requires_grad_()
            total = loss(model(leaf), labels).sum()
            gradient = torch.zeros_like(leaf)
            if total.requires_grad:
                (gradient,) = torch.autograd.grad(total, leaf, materialize_grads=True)
            found.append(gradient.nan_to_num(0.0, 0.0, 0.0).flatten(1).ne(0).any(dim=1))
    return torch.cat(found)


def single_step_against_iterative(scene: Scene) -> Check:
    """Many steps break no fewer examples than one."""
    weaker = scene.standing("single step", scene.probes.single_step, scene.threat)
    p, alone, other = excess(weaker, scene.after_iterative())
    found = f"a single step broke {alone} examples that many steps left, many steps {other} that one left"
    fault = "the gradient leads astray"
    return _check("iterative not weaker than single step", p, SIGNIFICANCE, p >= SIGNIFICANCE, found, fault)


def noise_against_gradients(scene: Scene) -> Check:
    """Gradients break no fewer examples than the best of 20 random perturbations."""
    sample = scene.sample
    weaker = sample.correct.clone()
    for draw in range(NOISE_DRAWS):
        images = scene.threat.random_start(sample.batch.images, sample.streams.fold("noise", draw))
        predictions = predicted(scene.referee.logits(images))
        weaker &= ~scene.referee.wrong(images, sample.batch.labels, sample.streams, predictions)
    p, alone, other = excess(weaker, scene.after_iterative())
    found = f"random noise broke {alone} examples that gradients left, gradients {other} that noise left"
    fault = "the gradient leads astray"
    return _check("gradients not weaker than noise", p, SIGNIFICANCE, p >= SIGNIFICANCE, found, fault)


def accuracy_falls(scene: Scene) -> Check:
    """A larger radius breaks no fewer examples than the next smaller one; Bonferroni over the pairs of radii."""
    name = "accuracy falls with eps"
    if scene.curve is None or len(scene.curve.points) < 2:
        return _not_run(name, SIGNIFICANCE, "the curve was not measured")
    radii = [point.eps for point in scene.curve.points]
    tests = [excess(small, large) for small, large in pairwise(scene.curve.standing)]
    worst = min(range(len(tests)), key=lambda pair: tests[pair][0])
    p, alone, other = tests[worst]
    p = min(1.0, p * len(tests))
    found = f"eps {radii[worst]:g} broke {alone} examples that eps {radii[worst + 1]:g} left, the larger {other} others"
    return _check(name, p, SIGNIFICANCE, p >= SIGNIFICANCE, found, "the attack misses what a smaller radius holds")


def full_range(scene: Scene) -> Check:
    """With every image of the box allowed, at most 1 % (or one example) stays right.

    There the balls of all norms are the same set; it is climbed in L-infinity, whose steps move every pixel.
    """
    low, high = scene.threat.box
    whole = ThreatModel("linf", high - low, scene.threat.box)
    left = scene.standing("full range", scene.probes.iterative, whole)
    share, threshold = int(left.sum()) / len(left), max(LEFT_AT_FULL_RANGE, 1 / len(left))
    found = f"{share:.1%} stay right although any image is allowed"
    fault = "the attack does not find what must be there"
    return _check("everything breaks at full range", share, threshold, share <= threshold, found, fault)


def probabilities(scene: Scene) -> Check:
    """The output is not a row of probabilities: non-negative and summing to 1 within 1e-3."""
    logits = scene.referee.logits(scene.sample.batch.images).double()
    alike = (logits >= 0).all(dim=1) & ((logits.sum(dim=1) - 1).abs() <= 1e-3)
    share = float(alike.double().mean())
    found = f"{share:.0%} of the outputs are rows of probabilities"
    fault = "a second softmax flattens the gradient; return logits"
    return _check("logits, not probabilities", share, 0.5, share <= 0.5, found, fault)


def raw_pixels(scene: Scene) -> Check:
    """The model does not wait for normalised input: no known normalisation raises clean accuracy by over 5 points.

    A rise counts if it is also beyond chance (paired exact test at 1 %, Bonferroni over the normalisations).
    """
    name = "raw pixels expected"
    batch, channels = scene.sample.batch, scene.sample.batch.images.shape[1]
    known = {key: value for key, value in NORMALISATIONS.items() if len(value[0]) == channels}
    if not known:
        return _not_run(name, NORMALISATION_GAIN, f"no known normalisation for {channels} channels")
    raw = predicted(scene.referee.logits(batch.images)) == batch.labels
    best, gain, p = "", -1.0, 1.0
    for key, (mean, deviation) in known.items():
        shape = (1, channels, 1, 1)
        shifted = (batch.images - batch.images.new_tensor(mean).view(shape)) / batch.images.new_tensor(deviation).view(
            shape
        )
        try:
            right = predicted(scene.referee.logits(shifted)) == batch.labels
        except Exception as error:  # the model's own check of its input, of whatever kind
            cause = f"the model refuses pixels outside [0, 1] ({type(error).__name__})"
            return _not_run(name, NORMALISATION_GAIN, cause)
        rise = float(right.double().mean() - raw.double().mean())
        if rise > gain:
            best, gain, p = key, rise, min(1.0, excess(raw, right)[0] * len(known))
    found = f"clean accuracy changes by {100 * gain:+.0f} points under the {best} normalisation (p = {p:.2g})"
    passed = gain <= NORMALISATION_GAIN or p >= SIGNIFICANCE
    return _check(name, gain, NORMALISATION_GAIN, passed, found, "that normalisation belongs into the model")


CHECKS: tuple[Callable[[Scene], Check], ...] = (
    output_changes,
    zero_gradients,
    single_step_against_iterative,
    noise_against_gradients,
    accuracy_falls,
    full_range,
    probabilities,
    raw_pixels,
)


def examine(scene: Scene) -> tuple[Check, ...]:
    """All checks, in order."""
    return tuple(check(scene) for check in CHECKS)


def verdict(checks: Sequence[Check]) -> Verdict:
    """Reliable unless a check failed; the reasons are what the failed ones found.

    >>> verdict([Check(name="zero gradients", measured=0.5, threshold=0.1, passed=False, note="half are zero")]).reasons
    ('zero gradients: half are zero',)
    """
    reasons = tuple(f"{check.name}: {check.note}" for check in checks if check.passed is False)
    return Verdict(reliable=not reasons, reasons=reasons, checks=tuple(checks))


def _check(name: str, measured: float, threshold: float, passed: bool, found: str, fault: str) -> Check:
    note = found if passed else f"{found}: {fault}"
    return Check(name=name, measured=measured, threshold=threshold, passed=passed, note=note)


def _not_run(name: str, threshold: float, cause: str) -> Check:
    return Check(name=name, measured=None, threshold=threshold, passed=None, note=f"not run: {cause}")
