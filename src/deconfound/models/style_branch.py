"""The style branch of CausalAdv: what style is, and what class it suggests.

Shapes: B examples, K classes, D features; features, styles (B, D), labels (B,) int64, logits (B, K).
"""

from __future__ import annotations

import logging
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.core.estimators import RANK, RunningMoments, gathered, own_rows
from deconfound.core.guards import seeded
from deconfound.errors import require, unknown_name
from deconfound.functional.hashing import name_key
from deconfound.functional.marginalisation import FORMS, Form, correction_table
from deconfound.functional.style import Basis, anchors, deflated_basis, exact_basis, leakage, unit
from deconfound.models.network import whole

BasisKind = Literal["exact", "deflation"]
BASES: tuple[BasisKind, ...] = ("exact", "deflation")

# What the covariances of all classes may take up in float32 before ``auto`` leaves the full form.
STATE_BYTES = 512 * 2**20

_logger = logging.getLogger(__name__)


def bounded_form(classes: int, dimension: int, limit: int = STATE_BYTES) -> Form:
    """The first of full, low-rank and diagonal covariances whose K matrices fit into ``limit`` bytes of float32.

    >>> bounded_form(100, 512), bounded_form(1000, 512), bounded_form(1_000_000, 512)
    ('full', 'low-rank', 'diagonal')
    """
    if 4 * classes * dimension * dimension <= limit:
        return "full"
    return "low-rank" if 4 * classes * min(RANK, dimension) * dimension <= limit else "diagonal"


class StyleBranch(nn.Module):
    """Style s = n(f) B^T, and a predictor of the class from it: z^s = V phi(s) + c plus the marginalisation over style.

    phi is Linear(D, D/2), BatchNorm, ReLU, Linear(D/2, D), ReLU. Everything it depends on is a parameter or a buffer:
    anchors, the covariance of n(f) (``content``), those of n(phi(s)) per class (``own``). No mode of the module
    decides: ``learn`` normalises by the batch and has the marginalisation in its logits; in evaluation
    ``plain_logits`` normalises by the running statistics, and ``correction`` is the marginalisation, which knows the
    true label. All of it computes in its own precision, also under autocast.

    Args:
        dimension: D, at least 2.
        classes: K, at least 2.
        basis: ``exact``, or the authors' ``deflation``.
        form: of the covariances per class; ``auto`` is the first of full, low-rank and diagonal that takes at most
            512 MiB.
        momentum: of both covariances; None for all of history, as the authors.
        seed: of anchors and first weights.

    Raises:
        InputError: D or K below 2, unknown basis or form, momentum outside (0, 1].

    Departures from the authors' code: covariances and anchors are in the state, so a loaded branch is the same
    function; momentum, bounded forms and the exact basis are additions.
    """

    start: Tensor

    def __init__(
        self,
        dimension: int,
        classes: int,
        basis: BasisKind = "exact",
        form: Literal["auto", "full", "low-rank", "diagonal"] = "auto",
        momentum: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dimension, self.classes = whole("dimension", dimension, 2), whole("classes", classes, 2)
        if basis not in BASES:
            raise unknown_name("basis", str(basis), BASES)
        if form != "auto" and form not in FORMS:
            raise unknown_name("covariance", str(form), ("auto", *FORMS))
        self.kind = basis
        self.form: Form = bounded_form(classes, dimension, STATE_BYTES) if form == "auto" else cast(Form, form)
        generator = torch.Generator().manual_seed(name_key("style anchors", seed))
        self.register_buffer("start", anchors(dimension, generator))
        self.content = RunningMoments(dimension, momentum=momentum)
        self.own = RunningMoments(dimension, classes, self.form, momentum)
        with seeded(name_key("style predictor", seed)):
            self.inner = nn.Linear(dimension, dimension // 2)
            self.norm = nn.BatchNorm1d(dimension // 2)
            self.outer = nn.Linear(dimension // 2, dimension)
            self.head = nn.Linear(dimension, classes)
        self._tell()

    def _tell(self) -> None:
        full = 4 * self.classes * self.dimension**2
        if self.form != "full" and full > STATE_BYTES:
            _logger.warning(
                "style covariances in the %s form: %d classes of %d features would take %.1f GiB in full "
                "(objective.covariance=full has it so)",
                self.form, self.classes, self.dimension, full / 2**30,
            )  # fmt: skip
        if self.kind == "exact" and min(self.classes, self.dimension) > self.dimension // 2:
            _logger.warning(
                "style keeps some content: of up to %d directions of the content logits only the %d leading ones can "
                "be removed from %d features; `analyze RUN style` says how much is left",
                min(self.classes, self.dimension), self.dimension // 2, self.dimension,
            )  # fmt: skip

    def observe(self, features: Tensor) -> None:
        """Take the clean features (B, D) of a batch into the covariance of n(f)."""
        with self._precise(features):
            self.content.update(unit(self._own(features.detach())))

    @torch.no_grad()
    def basis(self, weight: Tensor) -> Basis:
        """The style basis B, W S B^T = 0, for the weight W (K, D) of the content head and the covariance S seen so far.

        Raises:
            InputError: a weight of another shape.
        """
        require(weight.shape == (self.classes, self.dimension), "weight", tuple(weight.shape),
                f"shape ({self.classes}, {self.dimension})")  # fmt: skip
        with self._precise(weight):
            # Weights that diverged are reported by the loop, by name; a factorisation would raise before it.
            crossed = torch.nan_to_num(self._own(weight.detach()) @ self.content.covariance[0])
            matrix = (exact_basis if self.kind == "exact" else deflated_basis)(crossed, self.start)
            return Basis(matrix, float(leakage(crossed, matrix)))

    def style(self, features: Tensor, matrix: Tensor) -> Tensor:
        """Style s = n(f) B^T, (B, D), of features (B, D) and the matrix (D, D) of a basis."""
        with self._precise(features):
            return unit(self._own(features)) @ matrix.T

    def learn(self, style: Tensor, labels: Tensor, ratio: float, *, update: bool = True) -> Tensor:
        """Logits in training: phi normalised by the batch, the marginalisation by the covariances with this batch.

        Args:
            style: (B, D), this process's share; statistics are those of the whole batch.
            labels: (B,) int64.
            ratio: strength of the marginalisation, at least 0; its gradient reaches the head.
            update: move the running statistics; False for another evaluation of the same batch.

        Returns:
            Logits of this process's share, (B, K).
        """
        with self._precise(style):
            style, labels = gathered(self._own(style)), gathered(labels)
            hidden = self._hidden(style, "update" if update else "batch")
            if update:
                self.own.update(unit(hidden.detach()), labels, gather=False)
            return own_rows(self.head(hidden) + self._correction(labels, ratio))

    def plain_logits(self, style: Tensor) -> Tensor:
        """V phi(s) + c in evaluation, without the marginalisation, (B, K)."""
        with self._precise(style):
            return self.head(self._hidden(self._own(style), "evaluate"))

    def correction(self, labels: Tensor, ratio: float) -> Tensor:
        """What the marginalisation adds to the logits, (ratio/2) (V_j - V_y)^T S_y (V_j - V_y), gathered, (B, K)."""
        with self._precise(labels):
            return self._correction(labels, ratio)

    def _correction(self, labels: Tensor, ratio: float) -> Tensor:
        present, places = labels.unique(return_inverse=True)
        return correction_table(self.head.weight, self.own.covariance, present, ratio, self.form)[places]

    def _hidden(self, style: Tensor, kind: Literal["update", "batch", "evaluate"]) -> Tensor:
        norm = self.norm
        moves = kind == "update"
        by_batch = kind != "evaluate" and len(style) > 1  # one example has no spread
        running = (norm.running_mean, norm.running_var) if moves or not by_batch else (None, None)
        if moves and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        normed = F.batch_norm(
            self.inner(style), *running, norm.weight, norm.bias, by_batch, norm.momentum or 0.0, norm.eps
        )
        return F.relu(self.outer(F.relu(normed)))

    def forward(self, features: Tensor, matrix: Tensor) -> Tensor:
        """``plain_logits`` of the style of features (B, D) in a basis (D, D)."""
        return self.plain_logits(self.style(features, matrix))

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.start.dtype)

    def _precise(self, tensor: Tensor) -> torch.autocast:
        """Statistics and a factorisation are worth nothing in half precision, and cost next to nothing in full."""
        return torch.autocast(tensor.device.type, enabled=False)
