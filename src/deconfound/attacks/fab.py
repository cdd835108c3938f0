"""Fast adaptive boundary attack: the smallest perturbation that changes the prediction, untargeted and targeted.

Shapes: B rows (an example, or an example with one of its targets), d elements; images, gradients (B, C, H, W), labels
(B,) int64, values, distances (B,).
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from deconfound.attacks.boundary import boundary
from deconfound.attacks.harness import Hunt, cut
from deconfound.attacks.hunting import NearestAttack
from deconfound.attacks.judging import errs
from deconfound.attacks.points import first_of_each
from deconfound.attacks.settings import check_threat, described, number
from deconfound.attacks.targets import pairs, targets_of
from deconfound.core.protocols import Classifier
from deconfound.errors import require_whole
from deconfound.functional import norms
from deconfound.functional.hyperplanes import move_to_hyperplane
from deconfound.functional.losses import margin

# Croce & Hein's code: a shorter way to the hyperplane counts as this long, so that two of length 0 have a ratio.
LEAST_LENGTH = 1e-8
# L2: steps after which an adversarial iterate waits for a gradient where it has gone back to. To wait costs a step
# without a move, so that few steps are better spent on the way.
PATIENT = 40
# The final search aims so far from the secant's root towards the closest adversarial image: the root itself is a tie.
PAST_ROOT = 0.1


@dataclass
class _Closest:
    """The closest adversarial image that each row has met, and how far it is: infinitely where there is none."""

    images: Tensor
    distance: Tensor

    @classmethod
    def none_yet(cls, images: Tensor) -> _Closest:
        return cls(images, torch.full_like(images.flatten(1)[:, 0], math.inf))

    def take(self, index: Tensor) -> None:
        self.images, self.distance = self.images[index], self.distance[index]

    def update(self, closer: Tensor, candidates: Tensor, distance: Tensor) -> None:
        wide = closer.view(-1, *[1] * (candidates.ndim - 1))
        self.images = torch.where(wide, candidates, self.images)
        self.distance = torch.where(closer, distance, self.distance)


@dataclass(frozen=True)
class FAB(NearestAttack):
    """Fast adaptive boundary attack (Croce & Hein 2020): walks along the decision boundary towards the clean image.

    With H the nearest boundary of the model linearised at x, p and q the box-constrained projections of x and of the
    clean image onto H, and a = min(|p - x| / (|p - x| + |q - clean|), alpha_max):

        x <- clip((1 - a) (x + eta (p - x)) + a (clean + eta (q - clean)))

    and x <- clean + beta (x - clean) where x is adversarial. As an attack it ends for a point at the first adversarial
    image inside the threat model; ``nearest`` returns the closest one at any distance.

    Args:
        threat: norm, radius and box.
        steps: gradients of each climb.
        restarts: the first climb starts at the clean image, the others at distance eps / 2 from it in a random
            direction (Croce & Hein's code), on the points that still stand.
        targets: 0 for untargeted, K - 1 gradients per step; T for the min(T, K - 1) classes that rank highest on the
            clean image (or the one of ``context["target"]``), each with one gradient per step.
        alpha_max: largest weight of the clean image's projection.
        eta: extrapolation beyond the hyperplane.
        beta: how far an adversarial iterate goes back.
        final_search: at the end of ``nearest``, so many secant steps between each clean image and its closest one.
        draws: gradients are means over so many draws of a random model.
        rows: pairs of point and target climbed together, if there are not more points than that; changes no result.
        name: in records, and for the random numbers of an evaluation; by default from the settings.

    Raises:
        InputError: a setting outside its range.

    Departures from AutoAttack's code: the forward that gives the next gradient also says whether the step before found
    something. An adversarial iterate then goes back to clean + beta (x - clean) and on from there with the hyperplane
    of x itself, which in L-infinity and L1 ends 1 to 4 % closer than theirs; in L2, where it ends 3 to 5 % farther
    after 100 steps, from the 40th step on it goes back and waits for the gradient there. Targets are climbed side by
    side; at the end the closest adversarial image outside the ball is projected onto it and tried.

    >>> from deconfound.core.threat import ThreatModel
    >>> FAB(ThreatModel("linf", 0.3)).name, FAB(ThreatModel("linf", 0.3), targets=9).name
    ('fab-100', 'fab-t-100x9')
    """

    _: KW_ONLY
    steps: int = 100
    restarts: int = 1
    targets: int = 0
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    final_search: int = 3
    draws: int = 1
    rows: int = 256
    name: str = ""

    def __post_init__(self) -> None:
        check_threat(self.threat)
        for field in ("steps", "restarts", "draws", "rows"):
            require_whole(field, getattr(self, field))
        require_whole("targets", self.targets, 0)
        require_whole("final_search", self.final_search, 0)
        number("alpha_max", self.alpha_max, most=1.0)
        number("eta", self.eta, 1.0)
        number("beta", self.beta, above=True, most=1.0)
        if not self.name:
            kind = f"fab-t-{self.steps}x{self.targets}" if self.targets else f"fab-{self.steps}"
            again = f"x{self.restarts}" if self.restarts > 1 else ""
            eot = f"-eot{self.draws}" if self.draws > 1 else ""
            object.__setattr__(self, "name", kind + again + eot)

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        own = {name: getattr(self, name) for name in ("steps", "restarts", "targets", "final_search", "draws")}
        shares = {name: float(getattr(self, name)) for name in ("alpha_max", "eta", "beta")}
        return described("fab", self.threat, **own, **shares, keep="first_adversarial")

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Searches until the image is inside the radius."""
        self._search(surrogate, hunt, None)

    def _seek(self, surrogate: Classifier, hunt: Hunt) -> None:
        record = _Closest.none_yet(hunt.images)
        self._search(surrogate, hunt, record)
        self._refine(hunt, record)

    def _search(self, model: Classifier, hunt: Hunt, record: _Closest | None) -> None:
        """All restarts; ``record`` (for the images of the call) keeps the closest images if no point is to fall."""
        capacity = max(self.rows, len(hunt.points))
        targets = targets_of(model, hunt.points, self.targets, capacity) if self.targets else None
        for restart in range(self.restarts):
            places = torch.arange(len(hunt.points), device=hunt.images.device)
            for part in places.split(max(1, capacity // (1 if targets is None else targets.shape[1]))):
                branch = hunt.branch(part)
                self._climb(model, branch if targets is None else pairs(branch, targets[part], 0), restart, record)
            index = hunt.catch_up()
            if not len(hunt.points):
                return
            if targets is not None:
                (targets,) = cut(index, targets)

    def _climb(self, model: Classifier, hunt: Hunt, restart: int, record: _Closest | None) -> None:
        closest, iterate = _Closest.none_yet(hunt.points.images), self._start(hunt, restart, record)
        for step in range(self.steps):
            leaf, how = iterate.requires_grad_(), (self.threat.norm, bool(self.targets), self.beta, self.draws)
            values, gradient = boundary(model, leaf, hunt.points, *how, restart, step)
            iterate = leaf.detach()
            fooled, index = self._look(hunt, closest, iterate, patient=record is not None)
            iterate, values, gradient = cut(index, iterate, values, gradient)
            if not len(hunt.points):
                return
            moved = self._step(iterate, hunt.points.images, values, gradient, fooled)
            if self.threat.norm == "l2" and step >= PATIENT:
                wide = fooled.view(-1, *[1] * (iterate.ndim - 1))
                back = torch.lerp(hunt.points.images, iterate, self.beta)
                moved = torch.where(wide, back.clamp(*self.threat.box), moved)
            iterate = moved
        self._look(hunt, closest, iterate, patient=record is not None)
        if record is not None:
            _keep(hunt, closest, record)
        elif len(hunt.points):
            self._last_try(hunt, closest)

    def _start(self, hunt: Hunt, restart: int, record: _Closest | None) -> Tensor:
        images = hunt.points.images
        if restart == 0:
            return images.clone()
        flat, streams = images.flatten(1), hunt.points.streams.fold("start", restart)
        shape = tuple(flat.shape[1:])
        uniform = self.threat.norm == "linf"
        drawn = streams.uniform(shape, flat.dtype) * 2 - 1 if uniform else streams.normal(shape, flat.dtype)
        radius = torch.full_like(flat[:, 0], self.threat.eps)
        if record is not None:
            radius = torch.minimum(radius, record.distance[hunt.points.place])
        reach = 0.5 * radius / norms.distance(drawn, self.threat.norm)
        return (flat + reach[:, None] * drawn).clamp(*self.threat.box).view_as(images)

    def _look(self, hunt: Hunt, closest: _Closest, iterate: Tensor, *, patient: bool) -> tuple[Tensor, Tensor | None]:
        """Where the iterate fools the surrogate, among the rows that stand afterwards, and which ones these are."""
        fooled = errs(hunt.heard(iterate), hunt.points.labels)
        distance = self.threat.distance(iterate, hunt.points.images)
        closer = fooled & (distance < closest.distance)
        if patient:
            if hunt.distinct:
                closer = torch.zeros_like(closer).index_fill(0, hunt.confirmed(iterate, closer), True)
            closest.update(closer, iterate, distance)
            return fooled, None
        found = hunt.confirmed(iterate, closer & self.threat.contains(iterate, hunt.points.images, 0.0))
        closest.update(closer, iterate, distance)
        index = hunt.drop(iterate, found)
        if index is not None:
            closest.take(index)
            (fooled,) = cut(index, fooled)
        return fooled, index

    def _step(self, iterate: Tensor, images: Tensor, values: Tensor, gradient: Tensor, fooled: Tensor) -> Tensor:
        """The next iterate, from value and gradient of z_k - z_y at this one."""
        clean, here, normal = images.flatten(1), iterate.flatten(1), gradient.flatten(1)
        back = clean - here
        drift = (normal * back).sum(dim=1)
        share = fooled.to(back.dtype) * (1 - self.beta)
        both = torch.stack([torch.addcmul(here, share[:, None], back), clean])
        gaps = torch.stack([values + share * drift, values + drift])
        moves = move_to_hyperplane(both, normal, gaps, self.threat.norm, self.threat.box)
        lengths = norms.distance(moves.flatten(0, 1), self.threat.norm).view(2, -1).clamp_min(LEAST_LENGTH)
        alpha = (lengths[0] / lengths.sum(dim=0)).clamp_max(self.alpha_max)
        ahead = both.add_(moves, alpha=self.eta)
        return torch.lerp(ahead[0], ahead[1], alpha[:, None]).clamp_(*self.threat.box).view_as(images)

    def _last_try(self, hunt: Hunt, closest: _Closest) -> None:
        """The closest image, brought to the surface of the ball: a judge's boundary may lie beyond the surrogate's."""
        images = hunt.points.images
        outward = (self.threat.eps / closest.distance.clamp_min(LEAST_LENGTH)).clamp_min(1)
        moved = images + outward.view(-1, *[1] * (images.ndim - 1)) * (closest.images - images)
        hunt.drop_fallen(self.threat.project(moved, images), ask_all=True)

    def _refine(self, hunt: Hunt, record: _Closest) -> None:
        """Regula falsi for the zero of the margin along x + t (closest - x), aimed a little past it."""
        broken = hunt.branch(torch.isfinite(record.distance[hunt.points.place]).nonzero().squeeze(1))
        points, low = broken.points, torch.zeros_like(broken.points.images.flatten(1)[:, 0])
        if not len(points) or not self.final_search:
            return
        way, high = hunt.images[points.place] - points.images, torch.ones_like(low)
        below, above = (margin(broken.heard(end), points.labels) for end in (points.images, points.images + way))
        for _ in range(self.final_search):
            root = low + (high - low) * (below / (below - above)).nan_to_num(0.0).clamp(0, 1)
            at = torch.lerp(root, high, PAST_ROOT)
            tried = points.images + at.view(-1, *[1] * (way.ndim - 1)) * way
            logits = broken.heard(tried)
            gap, won = margin(logits, points.labels), torch.zeros_like(low, dtype=torch.bool)
            won[broken.confirmed(tried, errs(logits, points.labels))] = True
            hunt.images[points.place[won]] = tried[won]
            high, above = torch.where(won, at, high), torch.where(won, gap, above)
            low, below = torch.where(won, low, at), torch.where(won, below, gap.clamp_max(0))


def _keep(hunt: Hunt, closest: _Closest, record: _Closest) -> None:
    """Enters the closest of the rows of each example where it is closer than what earlier rows found."""
    order = closest.distance.argsort(stable=True)
    order = order[first_of_each(hunt.points.place[order])]
    order = order[closest.distance[order] < record.distance[hunt.points.place[order]]]
    place = hunt.points.place[order]
    record.distance[place], hunt.images[place] = closest.distance[order], closest.images[order]
