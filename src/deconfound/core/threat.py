"""The threat model: which perturbed images an attacker may produce.

Shapes: B examples; images (B, C, H, W) in [0, 1], distances (B,).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import Literal, cast

import torch
from torch import Tensor

from deconfound.core.streams import Streams
from deconfound.errors import InputError, require
from deconfound.functional import norms
from deconfound.records import show_radius

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
_ALIASES = {"l∞": "linf", "inf": "linf", "l_inf": "linf", "l_2": "l2", "l_1": "l1", "2": "l2", "1": "l1"}
_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?"

# Rounding of one float32 subtraction and norm; "inside the threat model" is decided with this slack.
TOLERANCE = 1e-6


def parse_radius(value: float | str, field: str = "eps") -> float:
    """A radius in [0, 1] pixels from a number or a fraction.

    >>> parse_radius("8/255") == 8 / 255
    True
    """
    rule = "a finite number of at least 0 or a fraction such as 8/255"
    if isinstance(value, str):
        match = re.fullmatch(rf"\s*({_NUMBER})\s*(?:/\s*({_NUMBER})\s*)?", value)
        if match is None or (match[2] is not None and float(match[2]) == 0):
            raise InputError(field, value, rule)
        radius = float(match[1]) / (float(match[2]) if match[2] else 1.0)
    elif isinstance(value, Real) and not isinstance(value, bool):  # NumPy's numbers too
        try:
            radius = float(value)
        except OverflowError:  # an integer beyond all floats
            radius = math.inf
    else:
        raise InputError(field, value, rule)
    require(math.isfinite(radius) and radius >= 0, field, value, rule)
    return radius


def parse_norm(value: str, field: str = "norm") -> Norm:
    """``linf``, ``l2`` or ``l1``, in any case and with the usual other spellings."""
    name = _ALIASES.get(str(value).lower(), str(value).lower())
    require(name in NORMS, field, value, f"one of {', '.join(NORMS)}")
    return cast(Norm, name)


@dataclass(frozen=True, init=False)
class ThreatModel:
    """All images z in the box with |z - x| <= eps in the given norm.

    Args:
        norm: ``linf``, ``l2`` or ``l1``.
        eps: radius in [0, 1] pixels, a number or a fraction such as ``"8/255"``.
        box: the range of a pixel.

    Raises:
        InputError: unknown norm, negative or malformed radius, in L-infinity one beyond the range of a pixel (meant in
            levels, most likely), empty box.

    >>> threat = ThreatModel("linf", "8/255")
    >>> bool(threat.contains(threat.project(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)), torch.zeros(1, 1, 2, 2)))
    True
    """

    norm: Norm
    eps: float
    box: tuple[float, float]

    def __init__(self, norm: str = "linf", eps: float | str = "8/255", box: tuple[float, float] = (0.0, 1.0)) -> None:
        object.__setattr__(self, "norm", parse_norm(norm))
        object.__setattr__(self, "eps", parse_radius(eps))
        try:
            low, high = (float(end) for end in box)
        except (TypeError, ValueError):
            raise InputError("box", box, "(low, high) with low < high") from None
        require(math.isfinite(low) and math.isfinite(high) and low < high, "box", box, "(low, high) with low < high")
        object.__setattr__(self, "box", (low, high))
        rule = f"at most {high - low:g} for linf: a radius in pixels of [{low:g}, {high:g}], so eight levels are 8/255"
        require(self.norm != "linf" or self.eps <= high - low, "eps", eps, rule)

    def __str__(self) -> str:
        return f"{self.norm} {show_radius(self.eps)}"

    @property
    def width(self) -> float:
        """The range of a pixel; in L-infinity a ball of this radius holds the whole box."""
        return self.box[1] - self.box[0]

    def with_eps(self, eps: float | str) -> ThreatModel:
        """The same norm and box at another radius."""
        return ThreatModel(self.norm, eps, self.box)

    def widened(self, factor: float) -> ThreatModel:
        """The same at a multiple of the radius, in L-infinity of the box at most."""
        return self.with_eps(min(factor * self.eps, self.width if self.norm == "linf" else math.inf))

    def project(self, candidates: Tensor, images: Tensor) -> Tensor:
        """The nearest allowed image in Euclidean distance, exactly, for images inside the box."""
        if self.norm == "linf":  # elementwise, so the memory layout stays
            return norms.project_linf(candidates, images, self.eps, self.box)
        flat = norms.project(candidates.flatten(1), images.flatten(1), self.eps, self.norm, self.box)
        return flat.view_as(images)

    def distance(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """|z - x| in the threat model's norm, (B,)."""
        return norms.distance((adversarial - images).flatten(1), self.norm)

    def contains(self, adversarial: Tensor, images: Tensor, tolerance: float = TOLERANCE) -> Tensor:
        """Which images are allowed, up to rounding: (B,) bool. NaN is never inside."""
        flat = adversarial.flatten(1)
        inside = ((flat >= self.box[0]) & (flat <= self.box[1])).all(dim=1)
        return inside & (self.distance(adversarial, images) <= self.eps + tolerance)

    def steepest(self, gradient: Tensor, points: Tensor | None = None) -> Tensor:
        """The unit step that ascends fastest in this norm; see ``functional.norms.steepest``.

        An L1 step moves k = ceil(2 eps / width) pixels, as many as the ball lets cross half of the box: on linear
        losses that reaches over nine tenths of the optimum, where a fixed share of the pixels reaches two fifths on
        small images. With ``points`` it skips pixels that the box blocks there, which it would else choose for ever.
        """
        if self.norm == "l1" and points is not None:
            gradient = self.unblocked(gradient, points)
        if self.norm == "linf":
            return gradient.sign()
        spread = math.ceil(2 * self.eps / self.width)
        return norms.steepest(gradient.flatten(1), self.norm, spread).view_as(gradient)

    def unblocked(self, gradient: Tensor, points: Tensor) -> Tensor:
        """The gradient with 0 at pixels that lie at an end of the box and would be pushed out of it."""
        blocked = ((points <= self.box[0]) & (gradient < 0)) | ((points >= self.box[1]) & (gradient > 0))
        return gradient.masked_fill(blocked, 0.0)

    def random_start(self, images: Tensor, streams: Streams) -> Tensor:
        """A uniform draw from the norm ball around each image, then projected (which clips to the box)."""
        shape, dtype = tuple(images.flatten(1).shape[1:]), images.dtype
        work = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        uniform = streams.fold("uniform").uniform(shape, work)
        if self.norm == "linf":
            normal, radius = uniform, uniform[:, :1]
        else:
            normal = streams.fold("direction").normal(shape, work)
            radius = streams.fold("radius").uniform((1,), work)
        offset = self.eps * norms.uniform_in_ball(uniform, normal, radius, self.norm)
        return self.project(images + offset.to(dtype).view_as(images), images)


__all__ = ["NORMS", "TOLERANCE", "Norm", "ThreatModel", "parse_norm", "parse_radius", "show_radius"]
