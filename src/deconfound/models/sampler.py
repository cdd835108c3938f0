"""CiiV's sampler in front of a network: which centres, which noise, which views.

Shapes: B examples, L loops, M inner samples, C channels, H height, W width; inputs (B, C, H, W), views
(B, L, C', H, W), exposure (B, L). C' = 2C in the first version, C in the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from deconfound.core.streams import Streams
from deconfound.errors import InputError, require
from deconfound.functional import sampling
from deconfound.functional.sampling import ACCEPTANCES, GRID, Acceptance, Slope
from deconfound.models.footprint import memory_bound
from deconfound.models.network import whole

Version = Literal["v1", "v2"]
Centres = Literal["grid", "cells", "random"]
Scope = Literal["example", "batch"]
LARGEST_AMPLITUDE = 2.0
# Random words and what hashing and firing them takes at the same time, in bytes for each number drawn.
_BYTES_PER_NUMBER = 32
# On a processor random numbers are three times as fast while they stay in its cache.
_CACHE_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a network samples its images.

    Attributes:
        version: ``v2`` fires on x + a u > 0 of the normalised image; ``v1`` has ON cells on the raw x and OFF cells on
            1 - x, with noise of their own, and removes the spatial mean of each channel.
        loops: L, views of every prediction.
        samples: M, inner samples whose mean is a view.
        amplitude: a in (0, 2], in units of the sampler's input.
        centres: ``grid`` loop l looks at centre l of the 3 x 3 grid; ``cells`` each loop at one of the nine, drawn;
            ``random`` row and column drawn between the outer lines of the grid; None for grid with v2, cells with v1.
        points: three pixels for the grid's lines on both axes; None for S // 2, round(S / 6), S - round(S / 6).
        mask: how acceptance falls with distance, see ``functional.sampling.acceptance``.
        mask_scope: ``batch`` shares masks and drawn centres over the batch, as the authors do: those of its first
            example, so that predictions depend on the batch. For parity alone.
        per_centre_norm: in training the network sees the views of one loop at a time, so that BatchNorm moves L times,
            as the authors' does; else all views are one batch.
        memory: bytes that the sampler's random numbers, and a network pass in evaluation, take at most; None for 2 GiB
            on a processor and 30 % of an accelerator's memory.

    Raises:
        InputError: a setting outside its range; more loops than the grid has centres.
    """

    version: Version = "v2"
    loops: int = 9
    samples: int = 3
    amplitude: float = 0.9
    centres: Centres | None = None
    points: tuple[int, int, int] | None = None
    mask: Acceptance = "power"
    mask_scope: Scope = "example"
    per_centre_norm: bool = False
    memory: int | None = None

    def __post_init__(self) -> None:
        for field, options in (("version", get_args(Version)), ("mask", ACCEPTANCES), ("mask_scope", get_args(Scope))):
            require(getattr(self, field) in options, field, getattr(self, field), f"one of {', '.join(options)}")
        for field in ("loops", "samples", *(() if self.memory is None else ("memory",))):
            whole(field, getattr(self, field), 1)
        a = self.amplitude
        number = isinstance(a, int | float) and not isinstance(a, bool) and 0 < a <= LARGEST_AMPLITUDE
        require(number, "amplitude", a, f"a number above 0 and at most {LARGEST_AMPLITUDE:g}")
        if self.centres is None:
            object.__setattr__(self, "centres", "grid" if self.version == "v2" else "cells")
        known = get_args(Centres)
        require(self.centres in known, "centres", self.centres, f"one of {', '.join(known)}")
        rule = f"at most {GRID} with centres=grid, one for each centre of the 3 x 3 grid"
        require(self.centres != "grid" or self.loops <= GRID, "loops", self.loops, rule)
        if self.points is not None:
            object.__setattr__(self, "points", tuple(self.points))
            sampling.grid_lines(max(self.points, default=0) + 1, self.points)

    def channels(self, channels: int) -> int:
        """C' of views of images with C channels; the second version repeats grey images to three.

        >>> Sampling(version="v1").channels(1), Sampling().channels(1), Sampling().channels(4)
        (2, 3, 4)
        """
        if self.version == "v1":
            return 2 * channels
        return 3 if channels == 1 else channels

    def memory_on(self, device: torch.device) -> int:
        """The bound in bytes."""
        return memory_bound(device) if self.memory is None else self.memory


class Sampler:
    """Draws views of inputs from streams, and forms their expectation.

    Noise, masks and drawn centres belong to the example (but see ``Sampling.mask_scope``): roles are folded by name,
    and loops and inner samples are positions in one tensor for each role.

    Args:
        settings: what is drawn.
        size: (H, W) of the images to expect; others are taken too, if the grid fits them.

    Raises:
        InputError: images smaller than the grid of centres.
    """

    def __init__(self, settings: Sampling, size: tuple[int, int] | None = None) -> None:
        self.settings = settings
        self._acceptance: dict[tuple[int, int, torch.dtype, str], Tensor] = {}
        if size is not None:
            sampling.grid_centres(*size, settings.points)

    def __call__(self, inputs: Tensor, streams: Streams, slope: Slope = "none") -> tuple[Tensor, Tensor]:
        """Views (B, L, C', H, W) and exposure (B, L), from the streams alone.

        Args:
            inputs: normalised images (v2), or images in [0, 1] (v1).
            streams: one for each example.
            slope: what the gradient of a view by its input is: nothing, the slope of the firing probability
                (``expected``), that slope wherever the input lies (``wide``), or the sample's own (``raw``).
        """
        rule = f"one stream for each of the {len(inputs)} images"
        require(len(streams) == len(inputs), "streams", len(streams), rule)
        streams = streams.to(inputs.device)
        shared = streams[torch.zeros(1, dtype=torch.int64, device=inputs.device)] if self._shares else None
        parts = [
            self._sample(inputs[place], streams[place], shared, slope)
            for place in torch.arange(len(inputs), device=inputs.device).split(self._together(inputs))
        ]
        views, exposure = (torch.cat(found) if len(parts) > 1 else found[0] for found in zip(*parts, strict=True))
        return views, exposure

    def expected(self, inputs: Tensor, *, wide: bool = False) -> tuple[Tensor, Tensor]:
        """Firing and keep probabilities in place of the samples, with exact gradients (``wide``: 1 / 2a everywhere).

        The loops are those of the grid policy; for drawn centres the nine of the grid stand for all, once each.

        Returns:
            Views (B, L', C', H, W) and exposure (B, L'), L' = L with ``grid`` and 9 otherwise.
        """
        height, width = inputs.shape[2:]
        loops = self.settings.loops if self.settings.centres == "grid" else GRID
        keep = sampling.keep_probability(self._grid_acceptance(inputs)[:loops])
        chance = [self._chance(x, wide) for x in self._cells(inputs)]
        views = keep[None, :, None] * torch.cat(chance, dim=1)[:, None]
        # shape, since len() would fix the batch of an exported graph
        exposure = keep.mean(dim=(1, 2)).clamp_min(1 / (height * width)).expand(inputs.shape[0], -1)
        return self._finished(views, exposure)

    def _chance(self, x: Tensor, wide: bool) -> Tensor:
        a = self.settings.amplitude
        if not wide:
            return sampling.firing_probability(x, a)
        return sampling.firing_probability(x.detach(), a) + sampling.wide_slope(x.detach(), a) * (x - x.detach())

    @property
    def _shares(self) -> bool:
        return self.settings.mask_scope == "batch"

    def _together(self, inputs: Tensor) -> int:
        """Examples whose random numbers fit into the bound."""
        settings = self.settings
        channels = inputs.shape[1] * (2 if settings.version == "v1" else 1) + 1
        numbers = settings.loops * settings.samples * channels * inputs.shape[2] * inputs.shape[3]
        memory = settings.memory_on(inputs.device)
        allowed = min(memory, _CACHE_BYTES) if inputs.device.type == "cpu" else memory
        return max(1, allowed // (_BYTES_PER_NUMBER * numbers))

    def _cells(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return (inputs, 1 - inputs) if self.settings.version == "v1" else (inputs,)

    def _sample(self, inputs: Tensor, streams: Streams, shared: Streams | None, slope: Slope) -> tuple[Tensor, Tensor]:
        settings = self.settings
        masks = self._masks(inputs, streams if shared is None else shared)
        shape = (settings.loops, settings.samples, *inputs.shape[1:])
        views = []
        for x, role, sign in zip(self._cells(inputs), ("pixels", "off"), (1, -1), strict=False):
            noise = _uniform(streams.fold(role), shape, inputs.dtype).mul_(2).sub_(1)
            found = sampling.sampled(x.detach(), noise, masks, settings.amplitude, slope)
            views.append(sampling.attached(found, inputs, sign))
        exposure = sampling.exposure_of(masks).to(inputs.dtype).expand(len(inputs), -1)
        return self._finished(torch.cat(views, dim=2) if len(views) > 1 else views[0], exposure)

    def _finished(self, views: Tensor, exposure: Tensor) -> tuple[Tensor, Tensor]:
        """The first version knows no exposure: its mean of logits is unweighted."""
        if self.settings.version == "v1":
            return sampling.centred(views), torch.ones_like(exposure)
        return views, exposure

    def _masks(self, inputs: Tensor, streams: Streams) -> Tensor:
        """(B, L, M, H, W) bool, B = 1 where they are shared."""
        settings, size = self.settings, tuple(inputs.shape[2:])
        q = self._drawn_acceptance(inputs, streams.fold("centres"))[:, :, None]
        uniform = _uniform(streams.fold("mask"), (settings.loops, settings.samples, *size), inputs.dtype)
        return sampling.kept(q, uniform)

    def _drawn_acceptance(self, inputs: Tensor, streams: Streams) -> Tensor:
        """Q of each loop, (1, L, H, W) where it is the same for all examples, else (B, L, H, W)."""
        settings = self.settings
        if settings.centres == "grid":
            return self._grid_acceptance(inputs)[None, : settings.loops]
        if settings.centres == "cells":
            return self._grid_acceptance(inputs)[streams.integers(0, GRID, (settings.loops,))]
        height, width = inputs.shape[2:]
        lines = [sampling.grid_lines(side, settings.points) for side in (height, width)]
        drawn = [
            streams.fold(axis).integers(min(line), max(line) + 1, (settings.loops,))
            for axis, line in zip(("row", "column"), lines, strict=True)
        ]
        distance = sampling.distances(torch.stack(drawn, dim=-1), height, width, inputs.dtype)
        return sampling.acceptance(distance, settings.mask)

    def _grid_acceptance(self, inputs: Tensor) -> Tensor:
        """Q of the nine centres, (9, H, W)."""
        height, width = inputs.shape[2:]
        key = (height, width, inputs.dtype, str(inputs.device))
        if key not in self._acceptance:
            centres = sampling.grid_centres(height, width, self.settings.points).to(inputs.device)
            distance = sampling.distances(centres, height, width, inputs.dtype)
            self._acceptance[key] = sampling.acceptance(distance, self.settings.mask)
        return self._acceptance[key]


def _uniform(streams: Streams, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return streams.uniform(shape, dtype) if dtype == torch.float64 else streams.dense(shape)


def check_inner(inner: object) -> None:
    """What the sampler stands before has a split.

    Raises:
        InputError: no methods ``features`` and ``head``.
    """
    good = all(callable(getattr(inner, name, None)) for name in ("features", "head"))
    if not good:
        rule = "a network with features and head methods (models.split_model makes them)"
        raise InputError("inner", type(inner).__name__, rule)
