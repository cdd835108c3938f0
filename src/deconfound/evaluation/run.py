"""The pieces of an evaluation in their order: clean images, attacks, curve, checks.

Shapes: N examples, B of a batch, K classes; images (B, C, H, W), places (B,) int64 within 0..N-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deconfound.core.checks import check_images, check_labels, check_logits
from deconfound.core.protocols import Attack, Monitor
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.errors import InputError
from deconfound.evaluation.curve import CURVE_EXAMPLES, Curve, accuracy_curve, curve_radii
from deconfound.evaluation.examples import Examples, spread
from deconfound.evaluation.findings import Findings
from deconfound.evaluation.gallery import picture
from deconfound.evaluation.ledger import Ledger
from deconfound.evaluation.masking import MASKING_EXAMPLES, Probes, Scene, examine
from deconfound.evaluation.meter import Cost, Meter
from deconfound.evaluation.referee import AttackAt, Attacked, Referee, Sample
from deconfound.functional.predictions import predicted
from deconfound.records import AttackResult, Check, Picture


class Run:
    """One evaluation under way.

    Args:
        referee: judges.
        examples: all N.
        threat: of the evaluation.
        seed: of all random numbers.
        ledger: does the pieces.
        meter: counts what the attacks forward.
        monitor: told about progress, if any.
        gallery: at most so many pictures.
    """

    def __init__(
        self,
        referee: Referee,
        examples: Examples,
        threat: ThreatModel,
        seed: int,
        ledger: Ledger,
        meter: Meter,
        monitor: Monitor | None,
        gallery: int,
    ) -> None:
        self.referee, self.examples, self.threat, self.seed = referee, examples, threat, seed
        self.ledger, self.meter, self.monitor, self.gallery = ledger, meter, monitor, gallery
        self.findings = Findings(examples.index)
        self.pictures: list[Picture] = []

    def judge_clean_images(self) -> None:
        """Predictions and errors on the clean images."""
        self._start("clean images", len(self.findings))
        for number, places in enumerate(torch.arange(len(self.findings)).split(self.referee.batch_size)):
            found = self.ledger.once(f"clean/{number}", partial(self._clean_batch, places))
            self.findings.clean(places.tolist(), found["labels"], found["predictions"], found["wrong"])
            self._update(int(places[-1]) + 1)
        self._finish()

    def _clean_batch(self, places: Tensor) -> dict[str, Any]:
        batch = self.examples.batch(places)
        check_images(batch.images)
        logits = (
            _first_forward(self.referee, batch.images) if int(places[0]) == 0 else self.referee.logits(batch.images)
        )
        check_labels(batch.labels, check_logits(logits, len(places)), len(places))
        predictions = predicted(logits)
        wrong = self.referee.wrong(batch.images, batch.labels, self._streams(batch), predictions)
        return {"labels": batch.labels.tolist(), "predictions": predictions.tolist(), "wrong": wrong.tolist()}

    def attack(self, number: int, attack: Attack) -> AttackResult:
        """One attack on everything that still stands."""
        standing, cost, done = self.findings.standing(), Cost(), 0
        self._start(attack.name, len(standing))
        for part, places in enumerate(standing.split(self.referee.batch_size) if len(standing) else ()):
            found = self.ledger.once(f"attack/{number}/{part}", partial(self._attack_batch, attack, places))
            for place, prediction, distance in found["broken"]:
                self.findings.broke(attack.name, place, prediction, distance)
            self.pictures += [Picture.model_validate(entry) for entry in found["pictures"]]
            cost, done = cost.plus(Cost(*found["attack_cost"])), done + len(places)
            self._update(done)
        self._finish()
        return AttackResult(
            name=attack.name,
            settings=attack.settings(),
            attacked=len(standing),
            survivors=len(self.findings.standing()),
            seconds=cost.seconds,
            forwards=cost.forwards,
            backwards=cost.backwards,
        )

    def _attack_batch(self, attack: Attack, places: Tensor) -> dict[str, Any]:
        batch = self.examples.batch(places)
        streams = self._streams(batch).fold(attack.name)
        before = self.meter.read()
        images = self.referee.attack(attack, batch, streams)
        cost = self.meter.read().minus(before)
        found = self.referee.rejudge(attack, images, batch, streams)
        distances = self.threat.distance(found.images, batch.images)
        rows = found.wrong.nonzero().squeeze(1).tolist()
        broken = [[int(places[row]), int(found.predictions[row]), float(distances[row])] for row in rows]
        shown = rows[: max(0, self.gallery - len(self.pictures))]
        pictures = [
            self._picture(attack, batch, found, row, self.findings.prediction(int(places[row])), float(distances[row]))
            for row in shown
        ]
        return {"broken": broken, "pictures": pictures, "attack_cost": list(cost)}

    def _picture(
        self, attack: Attack, batch: Batch, found: Attacked, row: int, prediction: int, distance: float
    ) -> dict[str, Any]:
        made = picture(
            batch.images[row],
            found.images[row],
            index=int(batch.index[row]),
            label=int(batch.labels[row]),
            prediction=prediction,
            found=int(found.predictions[row]),
            attack=attack.name,
            distance=distance,
        )
        return made.model_dump()

    def curve(self, attack_at: AttackAt, given: Sequence[float | str] | None) -> Curve:
        """Accuracy against the radius."""
        sample = self._sample(CURVE_EXAMPLES, "curve")
        radii = curve_radii(self.threat, sample.batch.images[0].numel(), given)
        return accuracy_curve(self.referee, sample, self.threat, attack_at, radii, self.ledger)

    def checks(self, probes: Probes, curve: Curve | None) -> tuple[Check, ...]:
        """The masking checks."""

        def work() -> dict[str, Any]:
            scene = Scene(self.referee, self.threat, self._sample(MASKING_EXAMPLES, "masking"), probes, curve)
            return {"checks": [check.model_dump() for check in examine(scene)]}

        return tuple(Check.model_validate(check) for check in self.ledger.once("masking", work)["checks"])

    def _sample(self, at_most: int, purpose: str) -> Sample:
        places = spread(len(self.findings), at_most)
        batch = self.examples.batch(places)
        correct = self.findings.correct(places).to(batch.images.device)
        return Sample(batch, self._streams(batch).fold(purpose), correct)

    def _streams(self, batch: Batch) -> Streams:
        return Streams(self.seed, batch.index)

    def _start(self, task: str, total: int) -> None:
        if self.monitor is not None:
            self.monitor.start(task, total)

    def _update(self, done: int) -> None:
        if self.monitor is not None:
            self.monitor.update(done, {"standing": float(len(self.findings.standing()))})

    def _finish(self) -> None:
        if self.monitor is not None:
            self.monitor.finish()


def _first_forward(referee: Referee, images: Tensor) -> Tensor:
    """The logits; a model that does not accept images of this shape says so as an input error."""
    try:
        return referee.logits(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        shape = "x".join(str(size) for size in images.shape[1:])
        raise InputError("images", f"CxHxW {shape}", f"images that the model accepts; it says: {cause}") from error
