"""What the masking checks look at: a sample, the model as it was found, and what each probing attack leaves right.

Shapes: n examples looked at, N candidates; images (n, C, H, W), labels (n,) int64, verdicts (n,) bool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deconfound.core.protocols import Attack, Classifier
from deconfound.core.threat import ThreatModel
from deconfound.evaluation.curve import Curve
from deconfound.evaluation.meter import Cost
from deconfound.evaluation.referee import AttackAt, Referee, Sample, take

MASKING_EXAMPLES = 100
# Seven examples that only one attack breaks are the fewest that are significant at 1 % (2^-7). Fewer than 25 examples
# would show only faults that concern more than a quarter of the data, and no figure within ten points.
LEAST_EXAMPLES = 25
NOISE_DRAWS = 20
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The attacks that the checks compare, each made for a threat model, e.g. by the attack's class.

    Attributes:
        single_step: one gradient step.
        iterative: many steps of the same gradient: the white-box attack of every comparison.
        black_box: an attack without gradients; None leaves its check out.
        transfer: other classifiers, each climbed by the iterative attack while the model judges; none leaves the
            check out.
        left_out: names of attacks that a random model declares against itself and the suite does not run; None leaves
            the check out.
    """

    single_step: AttackAt
    iterative: AttackAt
    black_box: AttackAt | None = None
    transfer: Sequence[Classifier] = ()
    left_out: Sequence[str] | None = None

    def described(self, threat: ThreatModel) -> list[Any]:
        """Name and settings of each attack, the number of sources and what is left out, as plain data for records."""
        makers = (self.single_step, self.iterative, *([self.black_box] if self.black_box else []))
        made = [make(threat) for make in makers]
        return [*([attack.name, dict(attack.settings())] for attack in made), len(self.transfer), self.left_out]


def affordable(spent: int, looked_at: int, allowed: int, most: int = MASKING_EXAMPLES) -> int:
    """How many examples to look at: min(most, max(25, floor(looked_at allowed / spent))).

    Args:
        spent: image passes on the first ``looked_at`` examples.
        looked_at: at least 1.
        allowed: image passes that all examples together may cost.
        most: never more than these.

    Below 25 examples the exact tests could show only the grossest faults, so 25 (or all, where there are fewer) are
    looked at whatever they cost: after a very small suite the checks take more than the share they are allowed.

    >>> affordable(2500, 25, 8000), affordable(2500, 25, 80000), affordable(2500, 25, 10)
    (80, 100, 25)
    """
    return min(most, max(LEAST_EXAMPLES, looked_at * allowed // max(spent, 1)))


def passes(cost: Cost) -> int:
    """What a cost amounts to in image passes, forwards + 2 backwards: the same on every machine.

    >>> passes(Cost(seconds=3.0, forwards=10, backwards=4))
    18
    """
    return cost.forwards + 2 * cost.backwards


def scattered(count: int) -> Tensor:
    """The positions 0..count-1 in an order of which every beginning is spread over all of them, int64.

    Position k is the rank of the fractional part of k (sqrt(5) - 1) / 2 (three-gap theorem). Unlike every fourth
    position, a beginning is not in step with classes that take turns.

    >>> scattered(8).tolist()
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    return torch.arange(count, dtype=torch.float64).mul(GOLDEN).frac().argsort().argsort()


class Scene:
    """What the checks look at; every attack is run once on each example, whichever checks use it.

    Args:
        referee: judges; its model is what the probes climb, not a faster copy.
        threat: of the evaluation.
        sample: the candidates, at most 100; all of them are looked at until ``look_at``.
        probes: the attacks to compare.
        curve: accuracy against the radius, if it was measured.

    Attributes:
        logits: of the candidates, (N, K), as the model was found.
        state: copies of the model's parameters and buffers, as it was found.
    """

    def __init__(
        self, referee: Referee, threat: ThreatModel, sample: Sample, probes: Probes, curve: Curve | None = None
    ) -> None:
        self.referee = Referee(referee.model, referee.judge, referee.batch_size, referee.seeds)
        self.threat, self.probes, self.curve = threat, probes, curve
        self.sample = self._candidates = sample
        self.state = state_of(referee.model)
        self._logits = referee.logits(sample.batch.images)
        self._standing: dict[str, Tensor] = {}

    def look_at(self, count: int) -> None:
        """Look at the first ``count`` candidates; what was found on some of them is kept."""
        self.sample = rows(self._candidates, torch.arange(min(count, len(self._candidates.correct))))

    @property
    def logits(self) -> Tensor:
        """Of the examples looked at, (n, K), as the model was found."""
        return self._logits[: len(self.sample.batch.labels)]

    def after_single_step(self) -> Tensor:
        """Which examples one gradient step leaves right."""
        return self._after("single step", partial(self._attacked, self.probes.single_step(self.threat)))

    def after_iterative(self) -> Tensor:
        """Which examples the iterative attack leaves right."""
        return self._after("iterative", partial(self._attacked, self.probes.iterative(self.threat)))

    def after_black_box(self, make: AttackAt) -> Tensor:
        """Which examples an attack without gradients leaves right."""
        return self._after("black box", partial(self._attacked, make(self.threat)))

    def after_transfer(self, number: int) -> Tensor:
        """Which examples stay right where the iterative attack climbs another classifier."""
        source, attack = self.probes.transfer[number], self.probes.iterative(self.threat)
        return self._after(f"transfer {number}", partial(self._transferred, source, attack))

    def after_noise(self) -> Tensor:
        """Which examples 20 random starts of the threat model leave right."""
        return self._after("noise", self._shaken)

    def after_full_range(self) -> Tensor:
        """Which examples the iterative attack leaves right where every image of the box is allowed.

        Found is here what any seed of a random judge gets wrong: attacks stop at the boundary, where draws differ.
        """
        low, high = self.threat.box
        attack = self.probes.iterative(ThreatModel("linf", high - low, self.threat.box))
        return self._after("full range", partial(self._touched, attack))

    def _after(self, name: str, measure: Callable[[Sample], Tensor]) -> Tensor:
        known = self._standing.get(name)
        done, count = 0 if known is None else len(known), len(self.sample.batch.labels)
        if done < count:
            found = measure(rows(self.sample, torch.arange(done, count)))
            known = found if known is None else torch.cat([known, found])
            self._standing[name] = known
        assert known is not None
        return known[:count]

    def _attacked(self, attack: Attack, sample: Sample) -> Tensor:
        return self.referee.standing(attack, sample)

    def _touched(self, attack: Attack, sample: Sample) -> Tensor:
        left, chosen = sample.correct.clone(), sample.correct.nonzero().squeeze(1)
        if len(chosen):
            batch, streams = take(sample.batch, chosen), sample.streams[chosen]
            found = self.referee.rejudge(attack, self.referee.attack(attack, batch, streams), batch, streams)
            left[chosen] = ~found.by_seed.any(dim=0)
        return left

    def _transferred(self, source: Classifier, attack: Attack, sample: Sample) -> Tensor:
        left, chosen = sample.correct.clone(), sample.correct.nonzero().squeeze(1)
        judge = self.referee.model if self.referee.judge is None else self.referee.judge
        for part in chosen.split(self.referee.batch_size) if len(chosen) else ():
            batch, streams = take(sample.batch, part), sample.streams[part]
            found = attack(source, batch.images, batch.labels, streams, judge=judge).detach()
            left[part] = ~self.referee.rejudge(attack, found, batch, streams).wrong
        return left

    def _shaken(self, sample: Sample) -> Tensor:
        left = sample.correct.clone()
        for draw in range(NOISE_DRAWS):
            part = left.nonzero().squeeze(1)
            if not len(part):
                break
            batch, streams = take(sample.batch, part), sample.streams[part]
            images = self.threat.random_start(batch.images, streams.fold("noise", draw))
            predictions = self.referee.predictions(images, streams)
            left[part] = ~self.referee.wrong(images, batch.labels, streams, predictions)
        return left


def rows(sample: Sample, index: Tensor) -> Sample:
    """The examples of a sample at integer positions (n,)."""
    index = index.to(sample.correct.device)
    return Sample(take(sample.batch, index), sample.streams[index], sample.correct[index])


def state_of(model: Classifier) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name; nothing for a plain function."""
    if not isinstance(model, nn.Module):
        return {}
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}
