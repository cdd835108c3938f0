"""Bit plane feature consistency (Addepalli et al. 2020, arXiv 2004.00306)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import require
from deconfound.functional.losses import cross_entropy
from deconfound.functional.quantisation import check_bits, noise_scale, quantise

GROWTH = 9.0
MILESTONES = (0.25, 0.5, 0.75)  # epochs 25, 50 and 75 of 100


class BPFC:
    """Minimises the batch mean of CE(z(x), y) + w ||z(x) - z(q(x))||^2, the norm summed over classes.

    q(x) keeps the upper 8 - p bits of a noisy image, see ``functional.quantisation``. w starts at ``weight`` and is
    multiplied by ``growth`` at each milestone. The authors' milestones are epochs 25, 50, 75 of 100; here they are
    shares of training, so that a training of another length goes through the same stairs: w grows with the first epoch
    e that has e / epochs >= share.

    Args:
        model: classifier, images (B, C, H, W) in [0, 1] -> logits (B, K).
        bits: p, the bits dropped, 1 to 7; the authors take 5 for CIFAR-10, 6 for Fashion-MNIST, 7 for MNIST.
        weight: w in the first epochs, at least 0.
        growth: factor of a stair, above 0.
        milestones: rising shares of training in (0, 1).

    Both images pass the network in train mode, one after the other, and nothing is detached.
    """

    def __init__(
        self,
        model: nn.Module,
        bits: int = 5,
        weight: float = 1.0,
        growth: float = GROWTH,
        milestones: Sequence[float] = MILESTONES,
    ) -> None:
        check_bits(bits)
        require(0 <= weight < float("inf"), "weight", weight, "a number of at least 0")
        require(0 < growth < float("inf"), "growth", growth, "a number above 0")
        rising = all(0 < share < 1 for share in milestones) and list(milestones) == sorted(set(milestones))
        require(rising, "milestones", tuple(milestones), "rising shares of training in (0, 1)")
        self.model, self.bits, self.weight, self.growth = model, bits, weight, growth
        self.milestones = tuple(milestones)

    def players(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    def weight_at(self, progress: Progress) -> float:
        """The weight of the consistency term in this epoch.

        >>> [BPFC(nn.Flatten()).weight_at(Progress(epoch=e, epochs=100)) for e in (0, 24, 25, 50, 99)]
        [1.0, 1.0, 9.0, 81.0, 729.0]
        """
        # By division, not multiplication: 55 / 100 is the float 0.55, but 0.55 * 100 lies above 55.
        passed = sum(progress.epoch / progress.epochs >= share for share in self.milestones)
        return float(self.weight * self.growth**passed)

    def quantised(self, images: Tensor, streams: Streams) -> Tensor:
        """q(x) with noise from the streams, (B, C, H, W)."""
        noise = streams.fold("quantisation").uniform(tuple(images.shape[1:]), images.dtype).mul_(2).sub_(1)
        return quantise(images, noise.mul_(noise_scale(self.bits)), self.bits)

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """One step of the model."""
        yield Step("model", lambda: self._loss(batch, progress, streams))

    def _loss(self, batch: Batch, progress: Progress, streams: Streams) -> Loss:
        logits, coarse = self.model(batch.images), self.model(self.quantised(batch.images, streams))
        natural = cross_entropy(logits, batch.labels).mean()
        consistency = (logits.float() - coarse.float()).square().sum(dim=1).mean()
        parts = {"cross_entropy": natural.detach(), "consistency": consistency.detach()}
        return Loss(natural + self.weight_at(progress) * consistency, parts, logits.detach())

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: the model is an ordinary deterministic classifier."""
        return ()
