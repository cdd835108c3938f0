"""Checked by mypy, never run: what fits a protocol passes, what does not is an error on exactly the marked lines.

With ``warn_unused_ignores`` a line that is marked but accepted is an error too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from deconfound.core.protocols import (
    AdversarialObjective,
    Attack,
    AttackLoss,
    Checkpointer,
    Classifier,
    FeatureSplit,
    ImageSource,
    Intervenable,
    Judge,
    Monitor,
    Objective,
)
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch, Context, DeclaredAttack, Loss, Progress, Step


class GoodAttack:
    name = "good"
    threat = ThreatModel()

    def settings(self) -> dict[str, Any]:
        return {}

    def at(self, threat: ThreatModel) -> GoodAttack:
        return self

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        streams: Streams | None = None,
        context: Context | None = None,
        *,
        judge: Judge | Classifier | None = None,
    ) -> Tensor:
        return images


class NamelessAttack(GoodAttack):
    name = 3  # type: ignore[assignment]


class UnjudgedAttack:
    name = "unjudged"
    threat = ThreatModel()

    def settings(self) -> dict[str, Any]:
        return {}

    def at(self, threat: ThreatModel) -> UnjudgedAttack:
        return self

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        return images


class GoodObjective:
    def players(self) -> Mapping[str, nn.Module]:
        return {}

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        yield from ()

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        return ()


class CraftingObjective(GoodObjective):
    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        return batch.images

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss:
        return Loss(adversarial.sum(), {})


class StepsAreNumbers(GoodObjective):
    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[float]:  # type: ignore[override]
        yield 1.0


class Split:
    def features(self, images: Tensor) -> Tensor:
        return images

    def head(self, features: Tensor) -> Tensor:
        return features


class Headless:
    def features(self, images: Tensor) -> Tensor:
        return images


class Saver:
    def save(self, state: Mapping[str, Any]) -> None: ...

    def load(self) -> dict[str, Any] | None:
        return None


class Forgetful:
    def save(self, state: Mapping[str, Any]) -> None: ...


class Settable:
    def interventions(self) -> Mapping[str, tuple[str, ...]]:
        return {}

    def do(self, variable: str, value: str) -> ImageSource:
        raise NotImplementedError


class SetInPlace(Settable):
    def do(self, variable: str, value: str) -> None: ...  # type: ignore[override]


class Silent:
    def start(self, task: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, values: Mapping[str, float]) -> None: ...

    def message(self, text: str) -> None: ...

    def finish(self) -> None: ...


def loss_per_example(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    return labels


def mean_loss(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> float:
    return 0.0


def contextless_loss(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return labels


def judge(images: Tensor, labels: Tensor, streams: Streams) -> Tensor:
    return labels


def network(images: Tensor) -> Tensor:
    return images


attack: Attack = GoodAttack()
attack = UnjudgedAttack()  # type: ignore[assignment]
attack = GoodAttack  # type: ignore[assignment]
attack = network  # type: ignore[assignment]

loss: AttackLoss = loss_per_example
loss = mean_loss  # type: ignore[assignment]
loss = contextless_loss  # type: ignore[assignment]

objective: Objective = GoodObjective()
objective = CraftingObjective()
objective = Split()  # type: ignore[assignment]
adversarial: AdversarialObjective = CraftingObjective()
adversarial = GoodObjective()  # type: ignore[assignment]

judging: Judge = judge
judging = network  # type: ignore[assignment]
classifier: Classifier = network
classifier = judge  # type: ignore[assignment]

split: FeatureSplit = Split()
split = Headless()  # type: ignore[assignment]
saver: Checkpointer = Saver()
saver = Forgetful()  # type: ignore[assignment]
settable: Intervenable = Settable()
settable = SetInPlace()  # type: ignore[assignment]
monitor: Monitor = Silent()
monitor = Saver()  # type: ignore[assignment]

ThreatModel("linf", "8/255").eps = 3  # type: ignore[misc]
ThreatModel("linf", None)  # type: ignore[arg-type]
Progress(0, 1)  # type: ignore[call-arg]
Step("model", 3)  # type: ignore[arg-type]
Streams("0", [1])  # type: ignore[arg-type]
