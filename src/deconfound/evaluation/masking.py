"""Can the robust accuracy be believed? Checks for gradient masking, each a measured figure against a threshold.

After Carlini et al. 2019 ("On evaluating adversarial robustness", section 3.2) and the flags of AutoAttack (Croce &
Hein 2020); its flag for more targets than classes is missing, since no attack here takes more.

Seven checks are exact tests, each with an error rate of at most 1 %: a single step, random noise, a black-box attack,
other models, and smaller radii against gradients; the loss against its gradient; raw against normalised pixels.
Together they accuse a sound evaluation with probability at most 7 % (Bonferroni), approached only where every weaker
attack is as strong as the one it is compared with. The other checks are of figures that sound evaluations keep far
from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deconfound.evaluation import comparing, gradients, inspecting, steadiness
from deconfound.evaluation.meter import Cost
from deconfound.evaluation.scene import LEAST_EXAMPLES, MASKING_EXAMPLES, Probes, Scene, affordable, passes
from deconfound.records import Check, Verdict

# The last two come after everything that could have changed the model.
CHECKS: tuple[Callable[[Scene], Check], ...] = (
    gradients.zero_gradients,
    gradients.loss_follows_gradient,
    comparing.single_step_against_iterative,
    comparing.noise_against_gradients,
    comparing.black_box_against_gradients,
    comparing.transfer_against_gradients,
    inspecting.declared_attacks,
    comparing.accuracy_falls,
    comparing.full_range,
    inspecting.probabilities,
    inspecting.raw_pixels,
    steadiness.company,
    steadiness.gradient_inside,
    steadiness.output_changes,
    steadiness.state_kept,
)


def examine(scene: Scene) -> tuple[Check, ...]:
    """All checks, in order."""
    return tuple(check(scene) for check in CHECKS)


def examine_within(scene: Scene, allowed: int, spent: Callable[[], Cost]) -> tuple[Check, ...]:
    """All checks, on as many candidates as the allowance pays for; see ``affordable``.

    Args:
        scene: its candidates are looked at in order, so they should stand in a scattered one.
        allowed: image passes.
        spent: everything that was spent so far; asked before and after the first 25 examples, whose results are kept.
    """
    most, before = len(scene.sample.correct), spent()
    scene.look_at(LEAST_EXAMPLES)
    checks, looked_at = examine(scene), len(scene.sample.correct)
    count = affordable(passes(spent().minus(before)), looked_at, allowed, most)
    if count <= looked_at:
        return checks
    scene.look_at(count)
    return examine(scene)


def verdict(checks: Sequence[Check]) -> Verdict:
    """Reliable unless a check failed; the reasons are what the failed ones found.

    >>> verdict([Check(name="zero gradients", measured=0.5, threshold=0.1, passed=False, note="half are zero")]).reasons
    ('zero gradients: half are zero',)
    """
    reasons = tuple(f"{check.name}: {check.note}" for check in checks if check.passed is False)
    return Verdict(reliable=not reasons, reasons=reasons, checks=tuple(checks))


__all__ = ["CHECKS", "MASKING_EXAMPLES", "Probes", "Scene", "examine", "examine_within", "verdict"]
