"""Structural protocols: how rooms use each other's objects without importing each other.

Shapes: B examples, C channels, K classes, D features, R draws, V views.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch, Context, DeclaredAttack, Loss, Progress, Step
from deconfound.functional.style import Basis


class Classifier(Protocol):
    """images (B, C, H, W) in [0, 1] -> logits (B, K). Normalisation lives inside."""

    def __call__(self, images: Tensor, /) -> Tensor: ...


@runtime_checkable
class FeatureSplit(Protocol):
    """A classifier cut in two: ``head(features(x))`` equals ``model(x)``."""

    def features(self, images: Tensor) -> Tensor: ...

    def head(self, features: Tensor) -> Tensor: ...


@runtime_checkable
class StochasticClassifier(Protocol):
    """A classifier whose prediction is random: R draws of logits (R, B, K), from streams and nothing else."""

    def draw(self, images: Tensor, streams: Streams, draws: int) -> Tensor: ...


class NoisyClassifier(Protocol):
    """A classifier under Gaussian noise of ``sigma``; draws are numbered, and each is the same in any company."""

    @property
    def sigma(self) -> float: ...

    def draw(self, images: Tensor, streams: Streams, draws: int, first: int = 0) -> Tensor: ...


@runtime_checkable
class ViewedClassifier(Protocol):
    """A classifier that looks several times: features (V, B, D), logits (V, B, K), exposure (V, B)."""

    def views(self, images: Tensor, streams: Streams) -> tuple[Tensor, Tensor, Tensor]: ...


@runtime_checkable
class Looping(Protocol):
    """A network whose prediction is the mean over several looks; ``with_loops`` is the same with another number."""

    def with_loops(self, loops: int) -> nn.Module: ...


@runtime_checkable
class DeclaresSurrogates(Protocol):
    """A network that declares adaptive attacks on itself, which need nothing but its weights."""

    def attack_surrogates(self) -> Sequence[DeclaredAttack]: ...


@runtime_checkable
class HasExpectation(Protocol):
    """A random network with a deterministic one in its place, in two parts: ``head(features(images))`` are logits."""

    def expectation(self) -> nn.Module: ...


class StylePredictor(Protocol):
    """Style s = n(f) B^T of features (B, D), and the logits (B, K) that it suggests: V phi(s) + c, plus a correction.

    ``observe`` takes clean features into the covariance that ``basis(W)`` follows from. ``learn`` is the pass in
    training, whose statistics move unless ``update`` is false; ``plain_logits`` the one in evaluation, without the
    correction by the true label, which is (B, K) too.
    """

    def observe(self, features: Tensor) -> None: ...

    def basis(self, weight: Tensor) -> Basis: ...

    def style(self, features: Tensor, matrix: Tensor) -> Tensor: ...

    def learn(self, style: Tensor, labels: Tensor, ratio: float, *, update: bool = True) -> Tensor: ...

    def plain_logits(self, style: Tensor) -> Tensor: ...

    def correction(self, labels: Tensor, ratio: float) -> Tensor: ...


@runtime_checkable
class CausalFeatures(Protocol):
    """A classifier cut at a feature map, and the hypothesis model h of the adversarial feature Z = f(x~) - f(x).

    ``network`` is the classifier itself. ``causal`` is the adversarial causal prediction, the logits (B, K) of
    f(x) + h(Z). ``around`` is the same h in another network, cut at the same place.
    """

    @property
    def network(self) -> nn.Module: ...

    @property
    def hypothesis(self) -> nn.Module: ...

    def features(self, images: Tensor, /) -> Tensor: ...

    def head(self, features: Tensor, /) -> Tensor: ...

    def causal(self, natural: Tensor, adversarial: Tensor, /) -> Tensor: ...

    def around(self, network: nn.Module, /) -> CausalFeatures: ...


class AttackLoss(Protocol):
    """What an attack climbs: one number per example, higher is more adversarial.

    ``context`` holds per-example tensors (clean logits, style targets) that stay aligned with the images.
    """

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, context: Context, /) -> Tensor: ...


Surrogate = Classifier
"""A classifier whose gradient is climbed; usually the model itself."""


class Judge(Protocol):
    """Decides which images are adversarial: (B,) bool."""

    def __call__(self, images: Tensor, labels: Tensor, streams: Streams, /) -> Tensor: ...


@runtime_checkable
class PredictingJudge(Protocol):
    """A judge that also says which class it sees, (B,) int64, -1 for none."""

    def __call__(self, images: Tensor, labels: Tensor, streams: Streams, /) -> Tensor: ...

    def predictions(self, images: Tensor, streams: Streams, /) -> Tensor: ...

    def settings(self) -> dict[str, Any]: ...


@runtime_checkable
class RandomJudge(Protocol):
    """A judge that draws: one answer is no proof, so it also says which share of so many draws errs, (B,) float64."""

    def __call__(self, images: Tensor, labels: Tensor, streams: Streams, /) -> Tensor: ...

    def misses(self, images: Tensor, labels: Tensor, streams: Streams, draws: int, /) -> Tensor: ...


class Attack(Protocol):
    """A frozen configuration that is called on a surrogate.

    Returns images (B, C, H, W) inside ``threat``. With ``keep="first_adversarial"`` the clean image is returned where
    the judge already errs and a found example is never lost; with ``keep="last"`` every point takes every step. Before
    a random judge no draw settles anything: every point is attacked, and the image that most draws misjudge returned.
    The judge defaults to the argmax of ``model``, the streams to ``Streams(0, range(B))``. ``settings`` is plain data
    for records; ``at`` is the same attack under another threat model.
    """

    @property
    def name(self) -> str: ...

    @property
    def threat(self) -> ThreatModel: ...

    def settings(self) -> dict[str, Any]: ...

    def at(self, threat: ThreatModel) -> Attack: ...

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        streams: Streams | None = None,
        context: Context | None = None,
        *,
        judge: Judge | Classifier | None = None,
    ) -> Tensor: ...


@runtime_checkable
class ClimbsItsOwn(Protocol):
    """An attack with a surrogate of its own, climbed whatever it is called on, or None; ``on`` is the same on another.

    It is an ``Attack``, too.
    """

    @property
    def surrogate(self) -> Surrogate | None: ...

    def on(self, surrogate: Surrogate) -> Attack: ...


class Objective(Protocol):
    """What is trained. ``players()["model"]`` is the classifier that is kept; state lives in the players' buffers."""

    def players(self) -> Mapping[str, nn.Module]: ...

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """Steps of one batch, consumed lazily: a Step is taken before the next one is asked for."""
        ...

    def declared_attacks(self) -> Sequence[DeclaredAttack]: ...


@runtime_checkable
class AdversarialObjective(Protocol):
    """An objective whose steps are ``loss(batch, craft(batch))``; wrappers compose the two, so nothing runs twice."""

    def players(self) -> Mapping[str, nn.Module]: ...

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """The adversarial images of the batch, detached, (B, C, H, W)."""
        ...

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss: ...

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]: ...

    def declared_attacks(self) -> Sequence[DeclaredAttack]: ...


@runtime_checkable
class ImageSource(Protocol):
    """A split of a data set: N labelled images of one shape."""

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        ...

    def __len__(self) -> int: ...

    def batches(self, plan: Iterable[Tensor], device: torch.device | str = "cpu") -> Iterator[Batch]:
        """One batch per tensor of positions (B,) in [0, N), in order, on the device."""
        ...

    def subset(self, positions: Tensor) -> ImageSource:
        """The images at these positions; each keeps its index."""
        ...

    def digest(self) -> str:
        """A hash of what the split holds."""
        ...


@runtime_checkable
class Intervenable(Protocol):
    """A source with a known causal model: it can set a variable of its images and leave all others as they are.

    ``interventions`` lists the variables and their values. ``do(variable, value)`` is the same examples in the same
    order with that variable set; labels follow where they are its effect. An unknown one is an ``InputError``.
    """

    def interventions(self) -> Mapping[str, tuple[str, ...]]: ...

    def do(self, variable: str, value: str) -> ImageSource: ...


@runtime_checkable
class ConfoundedSource(Protocol):
    """A source whose confounder agrees with the class with a known probability ``rho``.

    ``at_rho`` is the same examples in the same order with another one; raising it only turns disagreement to agreement.
    """

    @property
    def rho(self) -> float: ...

    def at_rho(self, rho: float) -> ImageSource: ...


@runtime_checkable
class MarkedSource(Protocol):
    """A source that says in words what carries its confounder and how much of the image that takes."""

    @property
    def mark(self) -> str: ...


class Augmentation(Protocol):
    """Random change of a whole batch on its device: (B, C, H, W) -> (B, C, H, W), from streams and nothing else."""

    def __call__(self, images: Tensor, streams: Streams, /) -> Tensor: ...


class Checkpointer(Protocol):
    """Keeps the state of a training run."""

    def save(self, state: Mapping[str, Any]) -> None: ...

    def load(self) -> dict[str, Any] | None:
        """The newest intact state, or None where there is none."""
        ...


class Crew(Protocol):
    """Processes that share a piece of work; each calls ``gather`` as often as the others."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, mine: Mapping[str, Any], /) -> Sequence[Mapping[str, Any]]:
        """What every process handed in, in the order of their ranks."""
        ...


class Journal(Protocol):
    """An append-only list of finished pieces of work."""

    def append(self, entry: Mapping[str, Any]) -> None: ...

    def entries(self) -> list[dict[str, Any]]: ...


class Monitor(Protocol):
    """Told about progress; shows it, or does nothing. Values are floats already."""

    def start(self, task: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, values: Mapping[str, float]) -> None: ...

    def message(self, text: str) -> None: ...

    def finish(self) -> None: ...
