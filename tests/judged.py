"""What tests of judging share: planted models and attacks, a random classifier, threads that share an evaluation."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from deconfound.core.threat import ThreatModel
from deconfound.evaluation import Provenance
from deconfound.evaluation.judging import evaluate
from deconfound.records import Machine

BOX = ThreatModel("linf", 1.0)
ORIGIN = Provenance(
    model="toy",
    model_digest="m",
    data="toy",
    data_digest="d",
    class_names=("a", "b"),
    machine=Machine(device="cpu", processor="any", threads=1, versions={}),
)
IDS = 4096


class Switch(nn.Module):
    """Right about label 0 until the second pixel passes a half; the first pixel tells an image's number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        state = images[:, 0, 0, 1] - 0.5
        return self.scale * torch.stack([-state, state], dim=1)


def numbered(count, wrong=()):
    """Images of numbers 0..count-1; those in ``wrong`` are misclassified when clean."""
    images = torch.zeros(count, 1, 2, 2)
    images[:, 0, 0, 0] = torch.arange(count) / IDS
    images[list(wrong), 0, 0, 1] = 1.0
    return images, torch.zeros(count, dtype=torch.int64)


@dataclass(frozen=True)
class Planted:
    """Breaks the images of some numbers and remembers which numbers it was given."""

    threat: ThreatModel = BOX
    name: str = "planted"
    victims: frozenset[int] = frozenset()
    given: list[int] = field(default_factory=list, compare=False)

    def settings(self):
        return {"victims": sorted(self.victims)}

    def at(self, threat):
        return replace(self, threat=threat)

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        numbers = images[:, 0, 0, 0].mul(IDS).round().long().tolist()
        self.given.extend(numbers)
        found = images.clone()
        fall = [row for row, number in enumerate(numbers) if number in self.victims]
        found[fall, 0, 0, 1] = 1.0
        with torch.no_grad():
            model(found)
        return found


class Noisy(nn.Module):
    """A network with normal noise on its logits, from streams alone; counts what it forwards."""

    def __init__(self, net, sigma=0.5):
        super().__init__()
        self.net, self.sigma, self.forwarded, self.broken = net, sigma, 0, False

    def forward(self, images):
        return self.net(images)

    def draw(self, images, streams, draws):
        if self.broken:
            raise RuntimeError("planted")
        self.forwarded += draws * len(images)
        logits = self.net(images)
        shape = tuple(logits.shape[1:])
        noise = [streams.fold("noise", draw).normal(shape, logits.dtype) for draw in range(draws)]
        return logits + self.sigma * torch.stack(noise)


def judged(model, images, labels, attacks, threat=BOX, **settings):
    """A record; the suite's name and origin matter to no test."""
    settings = {"suite": "test", "provenance": ORIGIN} | settings
    return evaluate(model, images, labels, threat=threat, attacks=attacks, **settings)


def untimed(record, *without):
    """What must repeat: everything but times, what the notes say of them, and whose copy of the library it was."""
    data = json.loads(record.to_json())
    for part in (data, *data["attacks"]):
        part["seconds"] = 0
    data["machine"]["commit"] = ""  # a checkout in this process, perhaps an installation in another
    data |= {"cpu_seconds": 0, "notes": [note for note in data["notes"] if " s, " not in note and "shared" not in note]}
    return {key: value for key, value in data.items() if key not in without}


class Member:
    """One of several threads that share an evaluation."""

    def __init__(self, rank, size, barrier, slots):
        self.rank, self.size, self._barrier, self._slots = rank, size, barrier, slots

    def gather(self, mine):
        self._slots[self.rank] = mine
        self._barrier.wait(timeout=60)
        found = list(self._slots)
        self._barrier.wait(timeout=60)
        return found


def together(size, work):
    """What ``work(crew)`` returns or raises in each of several threads; an error of one frees the others."""
    barrier, slots, found = threading.Barrier(size), [None] * size, [None] * size

    def run(rank):
        try:
            found[rank] = work(Member(rank, size, barrier, slots))
        except BaseException as error:
            found[rank] = error
            if not isinstance(error, Exception):  # others would wait for it; what all raise together needs no help
                barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    return found
