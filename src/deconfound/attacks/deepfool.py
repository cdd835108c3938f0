"""DeepFool: step by step to the nearest boundary of the linearised classifier, in L2 and L-infinity.

Shapes: B examples, N that are still worked on, T other classes; images (N, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from deconfound.attacks.harness import cut
from deconfound.attacks.linearised import linearise, to_boundary
from deconfound.attacks.minimum_norm import Chase, MinimumNorm, refuse_norm
from deconfound.attacks.settings import check_threat, described, number
from deconfound.core.protocols import Classifier
from deconfound.errors import require_whole


@dataclass(frozen=True)
class DeepFool(MinimumNorm):
    """DeepFool (Moosavi-Dezfooli et al. 2016, algorithm 2), L2 and L-infinity.

    x <- clip(x + r u), u the steepest direction of z_k - z_y and r the length at which it, linearised at x, has made
    up for its gap and ``overshoot`` of it more; k is the class for which that point, sought inside the box, is nearest.
    It ends for a point where the prediction changes.

    Args:
        threat: norm L2 or L-infinity, radius and box.
        steps: of one forward and min(targets, K - 1) backwards each.
        targets: how many other classes are looked at, those of the largest logits.
        overshoot: a share of the gap.
        draws: gradients are averaged over so many draws of a random model.
        halvings: ``nearest`` ends by bisecting the distance so often, one forward each, of the broken points only.
        name: in records; by default from the settings.

    Raises:
        InputError: another norm, or a setting outside its range.

    Departures from the authors' code: the class is chosen by the distance inside the box, where theirs ignores it;
    iterates are clipped to the box, as foolbox does, and on a linear boundary the clipped steps sum up to the exact
    solution inside the box; the last step closes the gap inside the box, however little room there is; the overshoot
    is made in each step, where theirs lengthens the sum of all steps; the classes are ranked at each iterate, not at
    the image; the bisection at the end.

    >>> from deconfound.core.threat import ThreatModel
    >>> DeepFool(ThreatModel("linf", 0.1)).name
    'deepfool-50'
    """

    _: KW_ONLY
    steps: int = 50
    targets: int = 9
    overshoot: float = 0.02
    draws: int = 1

    def __post_init__(self) -> None:
        check_threat(self.threat)
        refuse_norm("DeepFool", self.threat.norm, ("l2", "linf"), "FMN or FAB")
        for field in ("steps", "targets", "draws"):
            require_whole(field, getattr(self, field))
        require_whole("halvings", self.halvings, 0)
        number("overshoot", self.overshoot)
        if not self.name:
            object.__setattr__(self, "name", f"deepfool-{self.steps}")

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return described(
            "deepfool",
            self.threat,
            steps=self.steps,
            targets=self.targets,
            overshoot=float(self.overshoot),
            draws=self.draws,
            halvings=self.halvings,
        )

    @property
    def _begins_clean(self) -> bool:
        return True

    def _climb(self, model: Classifier, chase: Chase) -> None:
        iterate = chase.points.images
        for step in range(self.steps):
            leaf = iterate.detach().requires_grad_()
            gaps, slopes = linearise(model, leaf, chase.points, self.targets, self.draws, step)
            _, index = chase.see(leaf, leave=True)
            iterate, gaps, slopes = cut(index, leaf.detach(), gaps, slopes)
            if not len(iterate):
                return
            careful = step < self.steps - 1
            iterate = to_boundary(iterate, gaps, slopes, self.threat, self.overshoot, careful=careful)
        chase.see(iterate, leave=True)
