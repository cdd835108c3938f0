"""CiiV (Tang et al. 2021, arXiv 2106.09534): a network that looks at an image through a random retinotopic sampler.

Shapes: B examples, V = L views, R draws, D features, K classes; images (B, C, H, W) in [0, 1].
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deconfound.core.protocols import FeatureSplit
from deconfound.core.streams import Streams
from deconfound.core.types import DeclaredAttack
from deconfound.errors import require
from deconfound.functional.consistency import pooled
from deconfound.functional.sampling import Slope
from deconfound.models.ciiv_surrogates import ExpectedSurrogate, declared
from deconfound.models.footprint import activation_bytes
from deconfound.models.network import Size, sides
from deconfound.models.normalise import Levels, Normalise
from deconfound.models.sampler import Sampler, Sampling, check_inner


class CiiV(nn.Module):
    """A sampler in front of any network: V views, one prediction (1/V) sum_l o_l / z_l.

    All views pass the network as one batch of V B rows, in evaluation in parts within ``sampling.memory``; where a
    gradient is taken, parts are computed again on the way back, so the bound holds there too. In training all rows are
    one pass (V passes with ``per_centre_norm``), and their activations live until the way back, as they do when the
    views are run one after the other.

    Args:
        inner: the network, ``head(features(v))`` of views v (N, C', H, W), without normalisation of its own.
        sampling: the sampler's settings; the second version's by default.
        channels: C of the images.
        size: side of the images, or (height, width).
        mean, std: of the images, applied before the sampler; none with the first version, which samples raw pixels.

    Raises:
        InputError: images smaller than the grid of centres, a normalisation with the first version, an inner network
            without a split.

    Departures from the authors' code: randomness belongs to the example; one pass for all views; gradients of the
    model itself are the sample's own, those of its surrogates are not (see ``models.ciiv_surrogates``).
    """

    def __init__(
        self,
        inner: nn.Module,
        sampling: Sampling | None = None,
        *,
        channels: int,
        size: Size,
        mean: Levels = None,
        std: Levels = None,
    ) -> None:
        super().__init__()
        check_inner(inner)
        self.inner, self.sampling, self.size = inner, sampling or Sampling(), sides(size)
        plain = (mean is None and std is None) or self.sampling.version == "v2"
        require(plain, "normalisation", mean, "none with version v1, which samples raw pixels")
        self.normalise = Normalise(mean, std, channels=channels)
        self.sampler = Sampler(self.sampling, self.size)
        self._rows: dict[Any, int] = {}

    def forward(self, images: Tensor, streams: Streams | None = None) -> Tensor:
        """One draw of the prediction, (B, K); without streams those of ``Streams(0, range(B))``."""
        if streams is None:
            streams = Streams(0, torch.arange(len(images), device=images.device))
        return self.draw(images, streams, 1)[0]

    def draw(self, images: Tensor, streams: Streams, draws: int) -> Tensor:
        """R draws of the prediction, (R, B, K); the first of them are those of fewer draws."""
        found = [self.views(images, streams.fold("draw", number)) for number in range(draws)]
        return torch.stack([pooled(logits, exposure) for _, logits, exposure in found])

    def views(self, images: Tensor, streams: Streams, slope: Slope = "raw") -> tuple[Tensor, Tensor, Tensor]:
        """Features (V, B, D), logits (V, B, K) and exposure (V, B) of one draw of all views.

        Args:
            images: (B, C, H, W) in [0, 1].
            streams: one for each example.
            slope: of the cells, for images that want a gradient: ``raw``, ``expected``, ``wide`` or ``none``.
        """
        wanted = images.requires_grad and torch.is_grad_enabled()
        return self._seen(*self.sampler(self.sampled_input(images), streams, slope if wanted else "none"))

    def expected_views(self, images: Tensor, *, wide: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The same of the expected views: no noise, exact gradients (``wide``: as if no cell were saturated)."""
        return self._seen(*self.sampler.expected(self.sampled_input(images), wide=wide))

    def sampled_input(self, images: Tensor) -> Tensor:
        """What the sampler takes: normalised images, grey ones repeated to three channels (v1: the images)."""
        x = self.normalise(images)
        channels = x.shape[1]
        grey = self.sampling.version == "v2" and channels == 1
        return x.expand(-1, self.sampling.channels(channels), -1, -1) if grey else x

    def with_loops(self, loops: int) -> CiiV:
        """The same network, weights included, that looks ``loops`` times.

        Raises:
            InputError: more loops than centres, or none.
        """
        other = CiiV(self.inner, replace(self.sampling, loops=loops), channels=self.normalise.channels, size=self.size)
        other.normalise, other.training = self.normalise, self.training
        return other

    def attack_surrogates(self) -> tuple[DeclaredAttack, ...]:
        """The adaptive attacks on it: see ``models.ciiv_surrogates``."""
        return declared(self)

    def expectation(self) -> ExpectedSurrogate:
        """Its deterministic surrogate B, which sees the expected views; weights are shared."""
        return ExpectedSurrogate(self)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer of the inner network."""
        return cast(nn.Linear, self.inner.last)

    def _seen(self, views: Tensor, exposure: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views (B, V, C', H, W) through the network."""
        count, loops = views.shape[:2]
        if self.training and self.sampling.per_centre_norm:
            parts = [self._split(views[:, loop]) for loop in range(loops)]
            features, logits = (torch.stack(found) for found in zip(*parts, strict=True))
        else:
            rows = views.flatten(0, 1)
            whole = self.training or torch.compiler.is_exporting()  # a graph is one pass, of batches not known yet
            both = self._split(rows) if whole else self._within(rows)
            features, logits = (found.view(count, loops, -1).transpose(0, 1) for found in both)
        return features, logits, exposure.T

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D), maps flattened, and logits (N, K)."""
        inner = cast(FeatureSplit, self.inner)
        features = inner.features(rows)
        return features.flatten(1), inner.head(features)

    def _within(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """In evaluation, in parts that fit into the bound."""
        most = self._most_rows(rows) if len(rows) else 1
        if len(rows) <= most:
            return self._split(rows)
        keeps = torch.is_grad_enabled() and (rows.requires_grad or any(p.requires_grad for p in self.parameters()))
        found = [
            checkpoint(self._split, part, use_reentrant=False, preserve_rng_state=False) if keeps else self._split(part)
            for part in rows.split(most)
        ]
        features, logits = (torch.cat(part) for part in zip(*found, strict=True))
        return features, logits

    def _most_rows(self, rows: Tensor) -> int:
        key = (tuple(rows.shape[1:]), rows.dtype, rows.device, torch.is_autocast_enabled(rows.device.type))
        if key not in self._rows:
            each = activation_bytes(self.inner, rows[:2].detach())
            self._rows[key] = max(1, self.sampling.memory_on(rows.device) // max(1, each))
        return self._rows[key]
