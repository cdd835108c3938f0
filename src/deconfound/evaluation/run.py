"""The pieces of an evaluation in their order: clean images, attacks, curve, checks.

Shapes: N examples, B of a batch, K classes; images (B, C, H, W), places (B,) int64 within 0..N-1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deconfound.core.checks import check_images, check_labels, check_logits
from deconfound.core.protocols import Attack, Monitor
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.errors import InputError, reason
from deconfound.evaluation.curve import CURVE_EXAMPLES, Curve, accuracy_curve, curve_radii
from deconfound.evaluation.examples import Examples, spread
from deconfound.evaluation.findings import Findings
from deconfound.evaluation.gallery import picture
from deconfound.evaluation.ledger import Ledger, Seen
from deconfound.evaluation.masking import examine_within
from deconfound.evaluation.meter import Cost, Meter
from deconfound.evaluation.referee import AttackAt, Attacked, Referee, Sample, majority
from deconfound.evaluation.scene import MASKING_EXAMPLES, Probes, Scene, passes, rows, scattered
from deconfound.functional.losses import margin
from deconfound.functional.predictions import predicted
from deconfound.functional.statistics import wilson_interval
from deconfound.records import AttackResult, Check, ColumnResult, Picture
from deconfound.records.examples import packed_bits


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
        self.findings = Findings(examples.index, referee.seeds)
        self.pictures: list[Picture] = []

    def judge_clean_images(self) -> None:
        """Predictions and errors on the clean images."""
        everything = torch.arange(len(self.findings))
        for places, found in self._in_batches("clean images", "clean", self._clean_batch, everything):
            self.findings.clean(places.tolist(), found["labels"], found["predictions"], found["wrong"])
            self.findings.seed_errors(places.tolist(), found["by_seed"], clean=True)

    def _in_batches(
        self, task: str, piece: str, work: Callable[[Tensor], dict[str, Any]], places: Tensor
    ) -> list[tuple[Tensor, dict[str, Any]]]:
        """The places batch by batch with what the work on each found; the batches are the ledger's pieces."""
        parts = places.split(self.referee.batch_size) if len(places) else ()
        if self.monitor is not None:
            self.monitor.start(task, len(places))
        pieces = [(f"{piece}/{number}", partial(work, part)) for number, part in enumerate(parts)]
        found = self.ledger.all(pieces, self._seen(parts))
        if self.monitor is not None:
            self.monitor.finish()
        return list(zip(parts, found, strict=True))

    def _clean_batch(self, places: Tensor) -> dict[str, Any]:
        batch = self.examples.batch(places)
        check_images(batch.images)
        streams = self._streams(batch).fold("clean")
        logits = self._checked_logits(batch, streams)
        known = self.referee.judge is None
        predictions = predicted(logits) if known else self.referee.predictions(batch.images, streams)
        by_seed = self.referee.by_seed(batch.images, batch.labels, streams, predictions)
        return {
            "labels": batch.labels.tolist(),
            "predictions": predictions.tolist(),
            "wrong": majority(by_seed).tolist(),
            "by_seed": by_seed.tolist(),
        }

    def _checked_logits(self, batch: Batch, streams: Streams) -> Tensor:
        """Logits of the batch, of its first image where a judge of its own decides, once images and labels fit them."""
        count = len(batch.labels) if self.referee.judge is None else 1
        logits = _first_forward(self.referee, batch.images[:count], streams[torch.arange(count, device=streams.device)])
        check_labels(batch.labels, check_logits(logits, count), len(batch.labels))
        return logits

    def attack(self, number: int | str, attack: Attack, among: Tensor | None = None) -> AttackResult:
        """One attack on everything that any seed of the judge still has right, or on that ``among`` some places."""
        chosen, cost = self.findings.attackable(), Cost()
        if among is not None:
            chosen = chosen[torch.isin(chosen, among)]
        work = partial(self._attack_batch, attack)
        for places, found in self._in_batches(attack.name, f"attack/{number}", work, chosen):
            self.findings.seed_errors(places.tolist(), found["by_seed"])
            self._note(attack, found["broken"])
            room = max(0, self.gallery - len(self.pictures))
            self.pictures += [Picture.model_validate(entry) for entry in found["pictures"][:room]]
            cost = cost.plus(Cost(*found["attack_cost"]))
        return AttackResult(
            name=attack.name,
            settings=attack.settings(),
            attacked=len(chosen),
            survivors=len(self.findings.standing()),
            seconds=cost.seconds,
            forwards=cost.forwards,
            backwards=cost.backwards,
        )

    def _attack_batch(self, attack: Attack, places: Tensor) -> dict[str, Any]:
        batch = self.examples.batch(places)
        streams = self._streams(batch).fold(attack.name)
        before = self.meter.read()
        with self.meter.climbing(attack) as heard:
            images = self.referee.attack(heard, batch, streams)
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
        by_seed = found.by_seed.tolist()
        return {"broken": broken, "by_seed": by_seed, "pictures": pictures, "attack_cost": list(cost)}

    def margins(self, ranking: Attack, places: Tensor) -> Tensor:
        """How near to falling an attack without early stop brings each example, (B,) float64; more is nearer."""
        work = partial(self._margin_batch, ranking)
        found = self._in_batches("what is nearest to falling", "attack/ranking", work, places)
        return torch.tensor([margin for _, part in found for margin in part["margins"]], dtype=torch.float64)

    def _margin_batch(self, ranking: Attack, places: Tensor) -> dict[str, Any]:
        batch = self.examples.batch(places)
        streams = self._streams(batch).fold("ranking")
        logits = self.referee.logits(self.referee.attack(ranking, batch, streams), streams)
        return {"margins": margin(logits, batch.labels).nan_to_num(torch.inf).tolist()}

    def drawn(self, places: Tensor, count: int) -> Tensor:
        """So many of some places at random, by seed and index alone, in their order, (count,)."""
        order = Streams(self.seed, self.examples.index[places]).fold("audit").uniform(dtype=torch.float64).argsort()
        return places[order[:count]].sort().values

    def columns(self, groups: Sequence[tuple[str, Attack]]) -> tuple[ColumnResult, ...]:
        """Every attack by itself on everything that is right when clean, and what is left after all of them."""
        if not groups:
            return ()
        right = self.findings.correct(torch.arange(len(self.findings)))
        places = self.findings.attackable(clean=True)
        left, results = right.clone(), []
        for number, (group, attack) in enumerate(groups):
            standing = right & ~self._column(number, attack, places)
            left &= standing
            results.append(column(attack.name, group, attack, standing))
        return (*results, column("all of them", "union", None, left))

    def _column(self, number: int, attack: Attack, places: Tensor) -> Tensor:
        """Which of all examples one attack breaks, (N,) bool; inside the threat model that is a finding."""
        broken = torch.zeros(len(self.findings), dtype=torch.bool)
        work = partial(self._attack_batch, attack)
        for part, found in self._in_batches(attack.name, f"attack/column/{number}", work, places):
            broken[[row[0] for row in found["broken"]]] = True
            if attack.threat == self.threat:
                self.findings.seed_errors(part.tolist(), found["by_seed"])
                self._note(attack, found["broken"])
        return broken

    def _note(self, attack: Attack, broken: Sequence[Sequence[Any]]) -> None:
        """What an attack broke, unless an earlier one did."""
        standing = set(self.findings.standing().tolist())
        for place, prediction, distance in broken:
            if place in standing:
                self.findings.broke(attack.name, place, prediction, distance)

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

    def checks(self, probes: Probes, curve: Curve | None, passes_allowed: int | None = None) -> tuple[Check, ...]:
        """The masking checks, on as many examples as the allowance pays for, from 25 to 100.

        Image passes are counted, not seconds, so that the choice is the same on every machine. By default a tenth of
        what the clean images and the attacks took is allowed.
        """
        if passes_allowed is None:
            passes_allowed = passes(self.ledger.cost("clean/", "attack/")) // 10

        def work() -> dict[str, Any]:
            with ExitStack() as stack:
                sources = tuple(stack.enter_context(self.meter.counting(source)) for source in probes.transfer)
                sample = self._sample(MASKING_EXAMPLES, "masking")
                ordered = rows(sample, scattered(len(sample.correct)))
                scene = Scene(self.referee, self.threat, ordered, replace(probes, transfer=sources), curve)
                found = examine_within(scene, passes_allowed, self.meter.read)
            return {"checks": [check.model_dump() for check in found]}

        return tuple(Check.model_validate(check) for check in self.ledger.once("masking", work)["checks"])

    def _sample(self, at_most: int, purpose: str) -> Sample:
        places = spread(len(self.findings), at_most)
        batch = self.examples.batch(places)
        correct = self.findings.correct(places).to(batch.images.device)
        return Sample(batch, self._streams(batch).fold(purpose), correct)

    def _streams(self, batch: Batch) -> Streams:
        return Streams(self.seed, batch.index)

    def _seen(self, parts: Sequence[Tensor]) -> Seen:
        """Tells the monitor of every piece that is done, by this process."""
        done = 0

        def seen(place: int, result: dict[str, Any]) -> None:
            nonlocal done
            done += len(parts[place])
            if self.monitor is not None:
                self.monitor.update(done, {})

        return seen


def column(name: str, group: str, attack: Attack | None, standing: Tensor) -> ColumnResult:
    """What one attack (or all of them, for None) left standing of all examples, (N,) bool."""
    left, n = int(standing.sum()), len(standing)
    return ColumnResult(
        name=name,
        group=group,
        threat="" if attack is None else str(attack.threat),
        settings={} if attack is None else attack.settings(),
        n=n,
        accuracy=left / n,
        interval=wilson_interval(left, n),
        stands=packed_bits(standing.tolist()),
    )


def _first_forward(referee: Referee, images: Tensor, streams: Streams) -> Tensor:
    """The logits; a model that does not accept images of this shape says so as an input error."""
    try:
        return referee.logits(images, streams)
    except (torch.OutOfMemoryError, InputError):
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        shape = "x".join(str(size) for size in images.shape[1:])
        raise InputError(
            "images", f"CxHxW {shape}", f"images that the model accepts; it says: {reason(error)}"
        ) from error
