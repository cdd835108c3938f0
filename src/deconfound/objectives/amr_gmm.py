"""AMR-GMM (Kim, Lee, Ro 2023, arXiv 2303.01052): adversarial instrumental-variable regression in a network's features.

Shapes: B examples, K classes; images (B, C, H, W), labels (B,) int64, logits (B, K); features F and Z = f(x~) - f(x)
are maps (B, c, h, w), tokens (B, T, D) or vectors (B, D).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating, frozen, statistics_kept
from deconfound.core.protocols import Attack, CausalFeatures
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import InputError, require
from deconfound.functional.losses import cross_entropy
from deconfound.functional.moments import Moment, moment
from deconfound.objectives.minimax import ascended, weight_of

Test = Literal["learned", "random", "none"]
Source = Literal["instrument", "shared"]


class Play(NamedTuple):
    """What a batch is played on, without gradient: natural features F, instrument Z, labels."""

    natural: Tensor
    instrument: Tensor
    labels: Tensor


class AMRGMM:
    """min over h, max over g of J - lambda mean((g(Z) - Z)^2), J = mean log p_y(F + h(g(Z))) log p_y(F + g(Z)).

    F = f(x) and Z = f(x~) - f(x) are features of a frozen, adversarially trained network in eval mode, p the softmax of
    its head, x~ the attack's images. Per batch g steps first, on -J + lambda mean((g(Z) - Z)^2), then h, on J with the
    g that has stepped. Both are in train mode; J alone can fall for the wrong reason, so both cross entropies and
    |g(Z) - Z| are logged too.

    Args:
        causal: the network cut at a feature map with h, a ``models.CausalFeatureMap``. Its network's parameters no
            longer require a gradient from here on.
        test_function: g, of h's form; None with ``test="none"``.
        attack: inner maximiser with ``keep="last"`` and ``mode="eval"`` on the network (the authors: PGD-10).
        moments: name of a moment of logits, or one of one's own.
        penalty: lambda, at least 0; with 0, the authors' ablation, nothing bounds the test function.
        test: ``learned``; ``random``, where g stays at its start; ``none``, where g(Z) is Z.
        norm: which inputs h's running BatchNorm statistics, used in evaluation, are of: Z alone (``instrument``), or
            g(Z) and Z (``shared``, as the authors have it).
        climbed: what the attack climbs; None for the network.

    Raises:
        InputError: unknown moment, test or norm, a penalty below 0, a g too few or too many, an attack that would move
            the network's running statistics.

    The authors train by AdamW, learning rate 1e-4, weight decay 1e-5, amsgrad, for 10 epochs.

    Departures from the authors' code: log-softmax throughout; running statistics take a batch once, whatever passes it
    takes; ``norm="instrument"``.
    """

    def __init__(
        self,
        causal: CausalFeatures,
        test_function: nn.Module | None,
        attack: Attack,
        *,
        moments: str | Moment = "log_product",
        penalty: float = 1.0,
        test: Test = "learned",
        norm: Source = "instrument",
        climbed: nn.Module | None = None,
    ) -> None:
        require(test in get_args(Test), "test", test, f"one of {', '.join(get_args(Test))}")
        require(norm in get_args(Source), "norm", norm, f"one of {', '.join(get_args(Source))}")
        if (test_function is None) != (test == "none"):
            found = None if test_function is None else type(test_function).__name__
            raise InputError("test_function", found, "a network for g, or none exactly where test is none")
        mode = attack.settings().get("mode", "eval")
        require(mode == "eval", "attack_mode", mode, "eval, because the network is frozen")
        self.causal, self.attack = causal, attack
        self.network, self.h, self.g = causal.network.requires_grad_(False), causal.hypothesis, test_function
        self.moment = moment(moments) if isinstance(moments, str) else moments
        self.penalty, self.test, self.norm = weight_of(penalty), test, norm
        self.climbed = self.network if climbed is None else climbed

    def players(self) -> Mapping[str, nn.Module]:
        """The network, which no step moves, h, and g unless there is none."""
        return {"model": self.network, "h": self.h} | ({} if self.g is None else {"g": self.g})

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """The attack's images on the frozen network, (B, C, H, W)."""
        return self.attack(self.climbed, batch.images, batch.labels, streams.fold("craft"))

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """A step of g where it is learned, then one of h against the new g."""
        play = self._play(batch, self.craft(batch, progress, streams))
        if self.test == "learned":
            yield Step("g", Once(self, play, "ascent"))
        yield Step("h", Once(self, play, "descent"))

    def ascent(self, play: Play, update: bool = False) -> Loss:
        """-J + lambda penalty(g(Z), Z) as a function of g; h and the network are fixed.

        Args:
            play: the batch.
            update: whether g's running statistics take the batch in.
        """
        with evaluating(self.network), frozen(self.h), statistics_kept(self.h):
            tested = self._tested(play, update)
            causal, counterfactual = self._decoded(play, self.h(tested)), self._decoded(play, tested)
        value = self.moment.value(play.labels, causal, counterfactual).mean()
        bound = self.moment.penalty(tested, play.instrument)
        parts = {"moment": value, "penalty": bound} | self._entropies(play, causal, counterfactual, tested)
        return Loss(ascended(value, bound, self.penalty), _detached(parts), counterfactual.detach())

    def descent(self, play: Play, update: bool = False) -> Loss:
        """J as a function of h; g and the network are fixed. Also the prediction from h(Z), for the log.

        Args:
            play: the batch.
            update: whether h's running statistics take the batch in.
        """
        with evaluating(self.network):
            with torch.no_grad():
                tested = self._tested(play, update and self.test == "random")
                counterfactual = self._decoded(play, tested)
            causal = self._decoded(play, self._hypothesis(tested, update and self.norm == "shared"))
            with torch.no_grad():
                observed = self._decoded(play, self._hypothesis(play.instrument, update))
        value = self.moment.value(play.labels, causal, counterfactual).mean()
        parts = {"moment": value} | self._entropies(play, causal, counterfactual, tested)
        parts["adversarial_causal_cross_entropy"] = cross_entropy(observed, play.labels).mean()
        return Loss(value, _detached(parts), observed)

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: the network is an ordinary classifier, and it is not trained."""
        return ()

    def _play(self, batch: Batch, adversarial: Tensor) -> Play:
        with evaluating(self.network), torch.no_grad():
            natural, moved = (self.causal.features(images) for images in (batch.images, adversarial))
        return Play(natural, moved - natural, batch.labels)

    def _tested(self, play: Play, update: bool) -> Tensor:
        """g(Z)."""
        if self.g is None:
            return play.instrument
        with ExitStack() as stack:
            if not update:
                stack.enter_context(statistics_kept(self.g))
            tested: Tensor = self.g(play.instrument)
        return tested

    def _hypothesis(self, features: Tensor, update: bool) -> Tensor:
        with ExitStack() as stack:
            if not update:
                stack.enter_context(statistics_kept(self.h))
            found: Tensor = self.h(features)
        return found

    def _decoded(self, play: Play, residual: Tensor) -> Tensor:
        return self.causal.head(play.natural + residual)

    def _entropies(self, play: Play, causal: Tensor, counterfactual: Tensor, tested: Tensor) -> dict[str, Tensor]:
        away = (tested - play.instrument).flatten(1).float().norm(dim=1)
        return {
            "causal_cross_entropy": cross_entropy(causal, play.labels).mean(),
            "counterfactual_cross_entropy": cross_entropy(counterfactual, play.labels).mean(),
            "distance": away.mean(),
        }


class Once:
    """The loss of one step; running statistics move in its first evaluation alone."""

    def __init__(self, game: AMRGMM, play: Play, side: Literal["ascent", "descent"]) -> None:
        self._game, self._play, self._side, self._seen = game, play, side, False

    def __call__(self) -> Loss:
        """The loss of the batch."""
        first, self._seen = not self._seen, True
        return self._game.ascent(self._play, first) if self._side == "ascent" else self._game.descent(self._play, first)


def _detached(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.detach() for name, part in parts.items()}
