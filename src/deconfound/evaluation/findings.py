"""What is known about every example so far.

Shapes: N examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deconfound.records import Outcome


class Findings:
    """Fills up piece by piece; ``index`` (N,) holds the places in the data set, ``seeds`` counts the judge's."""

    def __init__(self, index: Tensor, seeds: int = 1) -> None:
        count = len(index)
        self._wrong_clean = torch.zeros(seeds, count, dtype=torch.bool)
        self._wrong = torch.zeros(seeds, count, dtype=torch.bool)
        self._index: list[int] = index.tolist()
        self._labels = [0] * count
        self._predictions = [0] * count
        self._broken_by: list[str | None] = [None] * count
        self._distances: list[float | None] = [None] * count
        self._adversarial: list[int | None] = [None] * count

    def __len__(self) -> int:
        return len(self._index)

    def clean(
        self, places: Sequence[int], labels: Sequence[int], predictions: Sequence[int], wrong: Sequence[bool]
    ) -> None:
        """The verdicts on clean images."""
        for place, label, prediction, missed in zip(places, labels, predictions, wrong, strict=True):
            self._labels[place], self._predictions[place] = label, prediction
            if missed:
                self._broken_by[place], self._distances[place] = "clean", 0.0

    def broke(self, attack: str, place: int, prediction: int, distance: float) -> None:
        """An attack broke the example at ``place``."""
        self._broken_by[place], self._distances[place] = attack, distance
        self._adversarial[place] = prediction

    def seed_errors(self, places: Sequence[int], by_seed: Sequence[Sequence[bool]], *, clean: bool = False) -> None:
        """Where each seed of the judge errs: by_seed (S, B). What a seed got wrong once stays wrong for it."""
        errors = torch.tensor(by_seed, dtype=torch.bool).view(len(self._wrong), len(places))
        at = torch.tensor(places, dtype=torch.int64)
        self._wrong[:, at] |= errors
        if clean:
            self._wrong_clean[:, at] |= errors

    def accuracies(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Clean and robust accuracy of every seed of the judge."""
        clean, robust = (1 - wrong.double().mean(dim=1) for wrong in (self._wrong_clean, self._wrong))
        return tuple(clean.tolist()), tuple(robust.tolist())

    def prediction(self, place: int) -> int:
        """What the model says about the clean image."""
        return self._predictions[place]

    def standing(self) -> Tensor:
        """Places of the examples that nothing has broken, ascending, int64."""
        return torch.tensor([place for place, by in enumerate(self._broken_by) if by is None], dtype=torch.int64)

    def attackable(self, *, clean: bool = False) -> Tensor:
        """Places that at least one seed of the judge still has right (``clean``: had right at first), ascending, int64.

        One seed: those that stand. Of several, the majority may have missed what the others see.
        """
        wrong = self._wrong_clean if clean else self._wrong
        return (~wrong.all(dim=0)).nonzero().squeeze(1)

    def correct(self, places: Tensor) -> Tensor:
        """Which examples are right on the clean image, bool."""
        return torch.tensor([self._broken_by[place] != "clean" for place in places.tolist()], dtype=torch.bool)

    def outcomes(self) -> tuple[Outcome, ...]:
        """One outcome for each example, in order."""
        return tuple(
            Outcome(
                index=self._index[place],
                label=self._labels[place],
                prediction=self._predictions[place],
                broken_by=self._broken_by[place],
                distance=self._distances[place],
                adversarial=self._adversarial[place],
            )
            for place in range(len(self))
        )
