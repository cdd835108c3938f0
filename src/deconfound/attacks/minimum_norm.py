"""What the minimum-norm attacks share: the closest adversarial image of every point, and two ways to use it.

An iterate of such an attack may lie outside the threat model. As an ordinary attack it stops for a point once an
adversarial image inside the threat model is found; ``nearest`` takes every step and then halves the distance.

Shapes: B examples of the call, N <= B that are still worked on; images, candidates (N, C, H, W), distances (N,).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from deconfound.attacks.harness import Hunt
from deconfound.attacks.hunting import NearestAttack
from deconfound.attacks.judging import errs
from deconfound.attacks.points import Points
from deconfound.core.protocols import Classifier
from deconfound.core.threat import Norm, ThreatModel
from deconfound.errors import InputError
from deconfound.functional import norms


def refuse_norm(attack: str, norm: Norm, known: tuple[Norm, ...], instead: str) -> None:
    """The attack knows the norm.

    Raises:
        InputError: it does not; the message names what to use.
    """
    if norm not in known:
        raise InputError("norm", norm, f"{' or '.join(known)} for {attack}; for {norm} use {instead}")


def within(candidates: Tensor, images: Tensor, radius: Tensor, threat: ThreatModel) -> Tensor:
    """The projection of each candidate onto its own ball, radius (N,), and the box."""
    flat = norms.project(candidates.flatten(1), images.flatten(1), radius[:, None], threat.norm, threat.box)
    return flat.view_as(images)


def farthest(images: Tensor, threat: ThreatModel) -> Tensor:
    """Distance of the farthest corner of the box, (N,)."""
    low, high = threat.box
    return norms.distance(torch.maximum(images - low, high - images).flatten(1), threat.norm)


def annealed(first: float, last: float, step: int, steps: int) -> float:
    """Along a cosine from first to last: last + (first - last) (1 + cos(pi step / steps)) / 2.

    >>> [round(annealed(1.0, 0.01, step, 4), 3) for step in range(4)]
    [1.0, 0.855, 0.505, 0.155]
    """
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


class Chase:
    """The points an attack still works on, and the closest adversarial image that each has met.

    Args:
        hunt: its points; what is found goes to its images.
        threat: norm, radius and box.
        patient: look for the closest image, at whatever distance, instead of one inside the threat model.
    """

    def __init__(self, hunt: Hunt, threat: ThreatModel, patient: bool) -> None:
        self.threat = threat
        self._whole, self._rest, self._patient = hunt, hunt, patient
        self._best = hunt.images.clone()
        self._radius = hunt.images.new_full((len(hunt.images),), torch.inf)
        self._last = (hunt.points.place, hunt.points.images)

    @property
    def points(self) -> Points:
        """What is still worked on."""
        return self._rest.points

    @property
    def radius(self) -> Tensor:
        """Distance of the closest adversarial image so far, infinite where there is none, (N,)."""
        return self._radius[self.points.place]

    def see(self, candidates: Tensor, *, leave: bool = False) -> tuple[Tensor, Tensor | None]:
        """Judges one candidate for each point, keeps the closest, and lets go of what is done.

        Args:
            candidates: inside the box; the surrogate's logits are used where it was called last on this very tensor.
            leave: a point with an adversarial candidate is done, wherever the candidate lies.

        Returns:
            Which candidates of the remaining points are adversarial, (N,) bool, and the positions of the remaining
            points for ``cut``, None where all remain.
        """
        won, counts = self._record(candidates, self._rest)
        candidates = candidates.detach()
        self._last = (self.points.place, candidates)
        if self._patient and not leave:
            return won, None
        gone = won if leave else counts
        if not bool(gone.any()):
            return won, None
        if not self._patient:
            found = counts.nonzero().squeeze(1)
            self._rest.branch(found).drop(candidates[found], torch.arange(len(found), device=found.device))
        index = (~gone).nonzero().squeeze(1)
        self._rest = self._rest.branch(index)
        return won[index], index

    def finish(self, halvings: int) -> None:
        """The end: ``nearest`` bisects the distance; the ordinary attack pulls what is outside into the ball."""
        if self._patient:
            self._bisect(halvings)
            return
        self._whole.catch_up()
        points = self._whole.points
        if not len(points):
            return
        place, seen = self._last
        last = self._best.clone()
        none = torch.isinf(self._radius[place]).view(-1, *[1] * (seen.ndim - 1))
        last[place] = torch.where(none, seen, self._best[place])
        self._whole.drop_fallen(self.threat.project(last[points.place], points.images), ask_all=True)

    def _record(self, heard: Tensor, hunt: Hunt) -> tuple[Tensor, Tensor]:
        """Which candidates are adversarial, and which of them count; the closest are kept.

        A judge other than the surrogate is asked only about those that would count.
        """
        points, candidates = hunt.points, heard.detach()
        won = errs(hunt.heard(heard), points.labels)
        distance, before = self.threat.distance(candidates, points.images), self._radius[points.place]
        counts = distance < before if self._patient else self.threat.contains(candidates, points.images, 0.0)
        counts &= won
        if hunt.distinct:
            held = torch.zeros_like(won)
            held[hunt.confirmed(candidates, counts)] = True
            won, counts = won & (held | ~counts), held
        closer = won & (distance < before)
        self._radius[points.place] = torch.where(closer, distance, before)
        shaped = closer.view(-1, *[1] * (candidates.ndim - 1))
        self._best[points.place] = torch.where(shaped, candidates, self._best[points.place])
        return won, counts

    def _bisect(self, halvings: int) -> None:
        """Projects the best image onto halved intervals of the radius; one forward each, of the broken points alone.

        Elements at an end of the box are taken to have been pushed twice as far, so that they give way last, as they do
        along the closest points of a linear boundary.
        """
        radius = self._radius[self._whole.points.place]
        hunt = self._whole.branch((torch.isfinite(radius) & (radius > 0)).nonzero().squeeze(1))
        place, images = hunt.points.place, hunt.points.images
        low, (start, end) = torch.zeros_like(self._radius[place]), self.threat.box
        for _ in range(halvings if len(place) else 0):
            middle, best = (low + self._radius[place]) / 2, self._best[place]
            pushed = torch.where((best <= start) | (best >= end), 2 * best - images, best)
            won, _ = self._record(within(pushed, images, middle, self.threat), hunt)
            low = torch.where(won, low, middle)
        place = self._whole.points.place
        self._whole.images[place] = self._best[place]


@dataclass(frozen=True)
class MinimumNorm(NearestAttack):
    """An attack that looks for the closest adversarial image: how it is called, in the ball and at any distance.

    Subclasses say how they climb; nothing else of this is theirs.

    Args:
        threat: norm, radius and box; the radius is for the ordinary call alone.
        halvings: how often ``nearest`` bisects the distance of what was found.
        name: in records, and for the random numbers of an evaluation.
    """

    _: KW_ONLY
    halvings: int = 10
    name: str = ""

    @abstractmethod
    def _climb(self, model: Classifier, chase: Chase) -> None:
        """Shows every iterate to ``Chase.see`` and goes on with the points that remain."""

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Pursues until the image is inside the radius."""
        self._pursue(surrogate, hunt, None)

    def _seek(self, surrogate: Classifier, hunt: Hunt) -> None:
        self._pursue(surrogate, hunt, self.halvings)

    def _pursue(self, surrogate: Classifier, hunt: Hunt, halvings: int | None) -> None:
        """Climbs; with halvings it waits for the closest image and bisects its distance so often."""
        chase = Chase(hunt, self.threat, patient=halvings is not None)
        self._climb(surrogate, chase)
        chase.finish(halvings or 0)
