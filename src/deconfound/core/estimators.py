"""Running statistics as buffers: saved with the run, equal on all processes and equal to those of one process.

Shapes: B examples of this process's share, K classes, D features, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deconfound.errors import InputError, require, unknown_name
from deconfound.functional.covariance import (
    batch_weight,
    class_rows,
    increments,
    merge_full_,
    merged_diagonal,
    merged_low_rank,
)
from deconfound.functional.marginalisation import FORMS, Form

# Eigenvalues kept per class in the low-rank form: at 1000 classes and 512 features 62 MiB instead of 1 GiB.
RANK = 32


def gathered(tensor: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, without gradient; the tensor itself in one process.

    The loop gives every process an equal share of a batch, in order, so these are the rows of the whole batch: what
    is computed from them is the same on every process, bit for bit.
    """
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    torch.distributed.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


@torch.no_grad()
def averaged(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each tensor over processes, in one message per dtype; the tensors themselves in one process."""
    found = list(tensors)
    for dtype in {tensor.dtype: None for tensor in found} if world_size() > 1 else ():
        places = [place for place, tensor in enumerate(found) if tensor.dtype == dtype]
        joined = torch.cat([found[place].flatten() for place in places])
        torch.distributed.all_reduce(joined)
        parts = torch.split(joined.div_(world_size()), [found[place].numel() for place in places])
        for place, part in zip(places, parts, strict=True):
            found[place] = part.view(found[place].shape)
    return found


def world_size() -> int:
    """How many processes share a batch."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def own_rows(rows: Tensor) -> Tensor:
    """Of rows that were ``gathered``, the share of this process."""
    if world_size() == 1:
        return rows
    return rows.chunk(world_size())[torch.distributed.get_rank()]


class RunningMoments(nn.Module):
    """Count, mean and biased covariance of the features of each class over all batches.

    Per class present in a batch, with w its share (``functional.covariance.batch_weight``):
    C <- (1 - w) C + w C_b + w (1 - w) (m_b - m)(m_b - m)^T, m <- (1 - w) m + w m_b. Absent classes stay as they are.

    Args:
        dimension: D.
        classes: K; 1 for moments over all examples.
        form: ``full`` covariances (K, D, D), ``low-rank`` factors (K, R, D) of the R leading eigenvalues, or
            ``diagonal`` variances (K, D).
        momentum: None weighs all examples alike; in (0, 1] a batch weighs at least this much.
        rank: R, no more than D are kept.

    Buffers: ``count`` (K,) int64, ``mean`` (K, D), ``covariance`` in the shape of its form.

    Raises:
        InputError: unknown form, momentum outside (0, 1].

    >>> moments = RunningMoments(2)
    >>> moments.update(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    >>> moments.mean.tolist(), moments.covariance.round(decimals=4).tolist()
    ([[1.0, 2.0]], [[[1.0, 2.0], [2.0, 4.0]]])
    """

    count: Tensor
    mean: Tensor
    covariance: Tensor

    def __init__(
        self,
        dimension: int,
        classes: int = 1,
        form: Form = "full",
        momentum: float | None = None,
        rank: int = RANK,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise unknown_name("covariance", str(form), FORMS)
        require(momentum is None or 0 < momentum <= 1, "momentum", momentum, "a number in (0, 1], or none")
        self.form, self.momentum = form, momentum
        shapes = {
            "full": (dimension, dimension),
            "low-rank": (min(rank, dimension), dimension),
            "diagonal": (dimension,),
        }
        self.register_buffer("count", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(classes, dimension))
        self.register_buffer("covariance", torch.zeros(classes, *shapes[form]))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor | None = None, *, gather: bool = True) -> None:
        """Take in a batch.

        Args:
            features: (B, D) float.
            labels: (B,) int64 in 0..K-1; None where there is one class.
            gather: whether the rows are this process's share, to be joined with the others'; False where they already
                are the whole batch.

        Raises:
            InputError: features of another width.
        """
        if features.ndim != 2 or features.shape[1] != self.mean.shape[1]:
            raise InputError("features", tuple(features.shape), f"shape (B, {self.mean.shape[1]})")
        with torch.autocast(features.device.type, enabled=False):
            features = features.detach().to(self.mean.dtype)
            labels = torch.zeros(len(features), dtype=torch.int64, device=features.device) if labels is None else labels
            self._take(*((gathered(features), gathered(labels)) if gather else (features, labels)))

    def _take(self, features: Tensor, labels: Tensor) -> None:
        rows = class_rows(features, labels)
        place = rows.present
        seen, more = (count.to(features.dtype) for count in (self.count[place], rows.counts))
        weight = batch_weight(seen, more, self.momentum)
        added = increments(rows, self.mean[place], weight)
        if self.form == "full":
            merge_full_(self.covariance, place, added, weight)
        else:
            merge = merged_low_rank if self.form == "low-rank" else merged_diagonal
            self.covariance[place] = merge(self.covariance[place], added, weight)
        self.mean[place] += weight[:, None] * (rows.mean - self.mean[place])
        self.count[place] += rows.counts
