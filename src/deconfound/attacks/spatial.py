"""Rotations and translations as an attack, searched over a grid or at random.

Shapes: B examples, T transformations; images (B, C, H, W), labels (B,) int64, angles and shifts (B,).
"""

from __future__ import annotations

import itertools
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from deconfound.attacks.harness import Hunt
from deconfound.attacks.hunting import HuntingAttack
from deconfound.attacks.settings import described, number
from deconfound.attacks.whole_box import from_unit, to_unit, whole_box
from deconfound.core.protocols import Classifier
from deconfound.core.streams import Streams
from deconfound.errors import InputError, require, require_whole
from deconfound.functional.rotation import transformed

# Rows forwarded together while few points stand, so that the many members of a grid do not come one by one.
ROWS = 128


@dataclass(frozen=True)
class RotationTranslation(HuntingAttack):
    """The worst of many rotations and translations (Engstrom et al. 2019).

    Args:
        threat: only its box counts; the attack's own threat model is the whole box.
        degrees: the largest rotation to either side.
        shift: the largest translation along each axis, as a share of that side.
        grid: how many angles, and how many shifts along each axis; each odd, so that it holds 0.
        tries: None searches the whole grid; a number draws so many transformations at random (worst-of-k).
        name: in records, and for the random numbers of an evaluation; by default from the search.

    Raises:
        InputError: a setting outside its range, or nothing to search.

    The defaults are the authors' for CIFAR-10: 30 degrees and about 3 of 32 pixels, 31 x 5 x 5 members. The grid is
    walked from the mildest member on, so the image kept is the mildest of it that breaks the example. What comes from
    outside the image is the lower end of the box.

    >>> from deconfound.core.threat import ThreatModel
    >>> len(RotationTranslation(ThreatModel()).members())
    774
    """

    _: KW_ONLY
    degrees: float = 30.0
    shift: float = 0.1
    grid: tuple[int, int] = (31, 5)
    tries: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "threat", whole_box(self.threat))
        number("degrees", self.degrees, most=180)
        number("shift", self.shift, most=1)
        require(self.degrees > 0 or self.shift > 0, "degrees", self.degrees, "a number above 0 where shift is 0")
        try:
            angles, shifts = self.grid
        except (TypeError, ValueError):
            raise InputError("grid", self.grid, "two odd numbers: angles, shifts along each axis") from None
        for size in (angles, shifts):
            require_whole("grid", size)
            require(size % 2 == 1, "grid", self.grid, "two odd numbers: angles, shifts along each axis")
        object.__setattr__(self, "grid", (angles, shifts))
        if self.tries is not None:
            require_whole("tries", self.tries)
        require(self.tries is not None or angles * shifts > 1, "grid", self.grid, "more than one member")
        if not self.name:
            object.__setattr__(self, "name", "spatial-grid" if self.tries is None else f"spatial-x{self.tries}")

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        reach = f"rotation by at most {self.degrees:g} degrees, shift by at most {100 * self.shift:g} % of each side"
        return described(
            "spatial",
            self.threat,
            degrees=float(self.degrees),
            shift=float(self.shift),
            grid=list(self.grid),
            tries=self.tries,
            bound=reach,
        )

    def members(self) -> list[tuple[float, float, float]]:
        """(degrees, down, right) of the grid without the identity, the mildest first."""

        def ticks(size: int) -> list[float]:
            half = size // 2
            return [step / half for step in range(-half, half + 1)] if half else [0.0]

        angles, shifts = (ticks(size) for size in self.grid)
        shares = [member for member in itertools.product(angles, shifts, shifts) if any(member)]
        shares.sort(key=lambda member: sum(map(abs, member)))
        scaled = ((self.degrees * turn, self.shift * down, self.shift * right) for turn, down, right in shares)
        return list(dict.fromkeys(member for member in scaled if any(member)))

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Movements, from the grid or drawn, until one errs."""
        grid = None if self.tries is not None else torch.tensor(self.members(), dtype=torch.float64)
        total, done = (self.tries or 0) if grid is None else len(grid), 0
        while done < total and len(hunt.points):
            standing = len(hunt.points)
            together = min(total - done, max(1, ROWS // standing))
            drawn = self._drawn(hunt.points.streams, done, together) if grid is None else grid[done : done + together]
            moves = drawn.to(hunt.points.images.device)
            if grid is not None:
                moves = moves[:, None].expand(-1, standing, -1)
            rows = torch.arange(standing, device=moves.device).repeat(together)
            self._ask(hunt, rows, moves.reshape(-1, 3))
            done += together

    def _drawn(self, streams: Streams, start: int, together: int) -> Tensor:
        """Uniform transformations (T, B, 3)."""
        parts = [streams.fold("try", start + step).uniform((3,), torch.float64) for step in range(together)]
        reach = torch.tensor([self.degrees, self.shift, self.shift], dtype=torch.float64, device=streams.device)
        return (2 * torch.stack(parts) - 1) * reach

    def _ask(self, hunt: Hunt, rows: Tensor, moves: Tensor) -> None:
        """Try transformation i on row i; the first of an example that breaks it is kept."""
        branch = hunt.branch(rows)
        pixels = to_unit(branch.points.images, self.threat)
        with torch.autocast(pixels.device.type, enabled=False):
            moved = from_unit(transformed(pixels, *moves.unbind(1)), self.threat)
        branch.drop_fallen(moved, ask_all=True)
        hunt.catch_up()
