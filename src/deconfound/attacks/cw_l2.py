"""CW-L2: distance and margin are weighed against each other, and the weight is searched for.

Shapes: B examples, N that are still worked on; images, gradients (N, C, H, W), weights (N,), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from deconfound.attacks.expectation import input_gradient
from deconfound.attacks.harness import cut
from deconfound.attacks.linearised import Start, started
from deconfound.attacks.losses import margin
from deconfound.attacks.minimum_norm import Chase, MinimumNorm, annealed, refuse_norm
from deconfound.attacks.settings import check_threat, choice, described, number
from deconfound.core.protocols import Classifier
from deconfound.errors import require_whole

# Adam (Kingma & Ba 2015), its own defaults, as Carlini & Wagner use it.
BETA_1, BETA_2, ADAM_EPS = 0.9, 0.999, 1e-8
# Carlini & Wagner's code: a pixel at the end of the box is moved in by this share, so that artanh is finite.
INSIDE = 0.999999

# Adam's steps do not shrink by themselves: at a constant size they wander around the minimum.
LAST_SHARE = 0.01


@dataclass(frozen=True)
class CWL2(MinimumNorm):
    """Carlini & Wagner's L2 attack (2017, section VI.A).

    min over w of |x - image|_2^2 + c max(-margin(x), 0), x = middle + half tanh(w), by Adam; c is multiplied by ten
    until an adversarial image is met, and then bisected, for each example on its own.

    Args:
        threat: norm L2, radius and box.
        steps: gradient steps for each c, one forward and one backward each.
        searches: how many values of c; the attack takes ``searches * steps`` steps.
        step_size: of Adam at the first step, in w.
        weight: the first c.
        start: ``boundary``, the nearest point in the box where the model linearised at the image changes its
            prediction; ``clean``, the image itself, as the authors do.
        targets: how many other classes the boundary start looks at.
        draws: gradients are averaged over so many draws of a random model.
        halvings: ``nearest`` ends by bisecting the distance so often, one forward each, of the broken points only.
        name: in records; by default from the settings.

    Raises:
        InputError: another norm, or a setting outside its range.

    Departures from the authors' code: the start; the bisection of the distance at the end; confidence 0, since only
    the closest image is sought; Adam's step falls along a cosine to a hundredth; c counts as large enough by the
    second half of its steps; no early end of a search, which theirs decides for the whole batch; the last search goes
    on bisecting c.

    >>> from deconfound.core.threat import ThreatModel
    >>> CWL2(ThreatModel("l2", 0.5)).name
    'cw-l2-9x1000'
    """

    _: KW_ONLY
    steps: int = 1000
    searches: int = 9
    step_size: float = 0.01
    weight: float = 0.001
    start: Start = "boundary"
    targets: int = 9
    draws: int = 1

    def __post_init__(self) -> None:
        check_threat(self.threat)
        refuse_norm("CW-L2", self.threat.norm, ("l2",), "FMN or FAB")
        for field in ("steps", "searches", "targets", "draws"):
            require_whole(field, getattr(self, field))
        require_whole("halvings", self.halvings, 0)
        number("step_size", self.step_size, above=True)
        number("weight", self.weight, above=True)
        choice("start", self.start, get_args(Start))
        if not self.name:
            object.__setattr__(self, "name", f"cw-l2-{self.searches}x{self.steps}")

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return described(
            "cw-l2",
            self.threat,
            steps=self.steps,
            searches=self.searches,
            step_size=float(self.step_size),
            weight=float(self.weight),
            start=self.start,
            targets=self.targets,
            draws=self.draws,
            halvings=self.halvings,
        )

    @property
    def _begins_clean(self) -> bool:
        return self.start == "boundary"

    def _climb(self, model: Classifier, chase: Chase) -> None:
        start = started(self.start, model, chase, self.targets, self.draws)
        weight = start.new_full((len(start),), self.weight)
        low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        for search in range(self.searches):
            if not len(start):
                return
            met, start, weight, low, high = self._descend(model, chase, start, weight, low, high, search)
            high = torch.where(met, weight, high)
            low = torch.where(met, low, weight)
            weight = torch.where(torch.isfinite(high), (low + high) / 2, 10 * weight)

    def _descend(
        self, model: Classifier, chase: Chase, start: Tensor, weight: Tensor, low: Tensor, high: Tensor, search: int
    ) -> tuple[Tensor, ...]:
        """One minimisation; which points met an adversarial image, and the rows of the others that remain."""
        half = self.threat.width / 2
        middle = self.threat.box[0] + half
        latent = torch.atanh((start - middle) / half * INSIDE)
        first, second = torch.zeros_like(latent), torch.zeros_like(latent)
        met = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        for step in range(self.steps):
            squashed = latent.tanh()
            leaf = (middle + half * squashed).clamp(*self.threat.box).requires_grad_()
            values, gradient = input_gradient(margin, model, leaf, chase.points, self.draws, search, step)
            won, index = chase.see(leaf)
            own = (met, start, weight, low, high, latent, squashed, first, second, values, gradient, leaf.detach())
            met, start, weight, low, high, latent, squashed, first, second, values, gradient, iterate = cut(index, *own)
            # Not before: the boundary start itself may be adversarial, whatever c is.
            met = met | won if step >= self.steps // 2 else met
            if not len(met):
                break
            push = torch.where(values < 0, weight.to(values.dtype), 0).view(-1, *[1] * (gradient.ndim - 1))
            slope = (2 * (iterate - chase.points.images) - push * gradient) * half * (1 - squashed.square())
            first = first.lerp(slope, 1 - BETA_1)
            second = second.lerp(slope.square(), 1 - BETA_2)
            scale = (second / (1 - BETA_2 ** (step + 1))).sqrt_().add_(ADAM_EPS)
            length = annealed(self.step_size, LAST_SHARE * self.step_size, step, self.steps) / (
                1 - BETA_1 ** (step + 1)
            )
            latent = latent - length * first / scale
        return met, start, weight, low, high
