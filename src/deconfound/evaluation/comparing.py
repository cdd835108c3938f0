"""Masking checks that compare two attacks: the one with less to go on must not break more.

Shapes: n examples of the sample; verdicts (n,) bool, True where an example is still right.
"""

from __future__ import annotations

from itertools import pairwise

from scipy.stats import binomtest
from torch import Tensor

from deconfound.evaluation.scene import Scene
from deconfound.records import Check

SIGNIFICANCE = 0.01
LEFT_AT_FULL_RANGE = 0.01


def excess(weaker: Tensor, stronger: Tensor) -> tuple[float, int, int]:
    """One-sided exact test that the weaker attack breaks no more examples than the stronger (McNemar's, exact).

    Of the examples that only one of them breaks, the weaker breaks half at worst; returns P(Bin(a + b, 1/2) >= a)
    with a broken by the weaker alone and b by the stronger alone, then a and b. Under that hypothesis, which two
    equally strong attacks meet at its edge, the result lies below 1 % with probability at most 1 %.

    Args:
        weaker, stronger: what each attack leaves right, (n,) bool, on the same examples.

    >>> import torch
    >>> excess(torch.tensor([False, False, False, True]), torch.tensor([True, True, True, False]))
    (0.3125, 3, 1)
    """
    alone, other = int((stronger & ~weaker).sum()), int((weaker & ~stronger).sum())
    if alone + other == 0:
        return 1.0, alone, other
    return float(binomtest(alone, alone + other, 0.5, alternative="greater").pvalue), alone, other


def single_step_against_iterative(scene: Scene) -> Check:
    """Many steps break no fewer examples than one."""
    tested = excess(scene.after_single_step(), scene.after_iterative())
    found = _alone(tested, scene, "a single step", "many steps")
    return exact("iterative not weaker than single step", tested[0], found, "the gradient leads astray")


def noise_against_gradients(scene: Scene) -> Check:
    """Gradients break no fewer examples than the best of 20 random perturbations."""
    tested = excess(scene.after_noise(), scene.after_iterative())
    found = _alone(tested, scene, "random noise", "gradients")
    return exact("gradients not weaker than noise", tested[0], found, "the gradient leads astray")


def black_box_against_gradients(scene: Scene) -> Check:
    """Gradients break no fewer examples than an attack that sees only the outputs."""
    name = "gradients not weaker than black box"
    if scene.probes.black_box is None:
        return not_run(name, SIGNIFICANCE, "no black-box attack")
    tested = excess(scene.after_black_box(scene.probes.black_box), scene.after_iterative())
    found = _alone(tested, scene, "the black-box attack", "gradients")
    return exact(name, tested[0], found, "the gradient hides what queries find")


def transfer_against_gradients(scene: Scene) -> Check:
    """The model's own gradient breaks no fewer examples than another model's; Bonferroni over the sources."""
    name, count = "gradients not weaker than transfer", len(scene.probes.transfer)
    if not count:
        return not_run(name, SIGNIFICANCE, "no source")
    tests = [excess(scene.after_transfer(number), scene.after_iterative()) for number in range(count)]
    worst = min(range(count), key=lambda number: tests[number][0])
    which = "transfer" if count == 1 else f"transfer from source {worst + 1} of {count}"
    found = _alone(tests[worst], scene, which, "its own gradient")
    return exact(name, tests[worst][0] * count, found, "its own gradient hides what another model's shows")


def accuracy_falls(scene: Scene) -> Check:
    """A larger radius breaks no fewer examples than the next smaller one; Bonferroni over the pairs of radii."""
    name = "accuracy falls with eps"
    if scene.curve is None or len(scene.curve.points) < 2:
        return not_run(name, SIGNIFICANCE, "the curve was not measured")
    radii = [point.eps for point in scene.curve.points]
    tests = [excess(small, large) for small, large in pairwise(scene.curve.standing)]
    worst = min(range(len(tests)), key=lambda pair: tests[pair][0])
    p, alone, other = tests[worst]
    found = f"eps {radii[worst]:g} broke {alone} examples that eps {radii[worst + 1]:g} left, the larger {other} others"
    return exact(name, p * len(tests), found, "the attack misses what a smaller radius holds")


def full_range(scene: Scene) -> Check:
    """With every image of the box allowed, at most 1 % (or one example) stays right.

    There the balls of all norms are the same set; it is climbed in L-infinity, whose steps move every pixel.
    """
    left = scene.after_full_range()
    share, threshold = int(left.sum()) / len(left), max(LEFT_AT_FULL_RANGE, 1 / len(left))
    found = f"{share:.1%} of {len(left)} stay right although any image is allowed, at most {threshold:.1%} may"
    fault = "the attack does not find what must be there"
    return limited("everything breaks at full range", share, threshold, share <= threshold, found, fault)


def limited(name: str, measured: float, threshold: float, passed: bool, found: str, fault: str) -> Check:
    """A check of a figure against its threshold; ``found`` states both, ``fault`` what it means where it failed."""
    note = found if passed else f"{found}: {fault}"
    return Check(name=name, measured=measured, threshold=threshold, passed=passed, note=note)


def exact(name: str, p: float, found: str, fault: str) -> Check:
    """A check by an exact test: the p-value, after any correction, must not lie below 1 %."""
    p = min(1.0, p)
    passed = p >= SIGNIFICANCE
    return limited(name, p, SIGNIFICANCE, passed, f"{found} (p = {p:.2g}, fault below {SIGNIFICANCE:g})", fault)


def not_run(name: str, threshold: float, cause: str) -> Check:
    """A check that could not be made."""
    return Check(name=name, measured=None, threshold=threshold, passed=None, note=f"not run: {cause}")


def _alone(tested: tuple[float, int, int], scene: Scene, weaker: str, stronger: str) -> str:
    _, alone, other = tested
    count = len(scene.sample.correct)
    return f"of {count} examples {weaker} alone broke {alone}, {stronger} alone {other}"
