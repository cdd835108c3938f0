"""Run by ``test_recipes_sharding`` in two processes; alone it gives what they are compared with."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import torch

from deconfound.attacks.apgd import APGD
from deconfound.attacks.fab import FAB
from deconfound.attacks.gradient import PGD
from deconfound.attacks.square import Square
from deconfound.attacks.suites import Columns, Suite
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Audit
from deconfound.recipes.compute import Compute
from deconfound.recipes.crew import FabricCrew, launched
from deconfound.recipes.evaluating import Judging, Subject, run
from judged import ORIGIN, Noisy, judged, untimed
from toys import ToySource, tiny_net

THREAT = ThreatModel("linf", 0.06)
L2 = ThreatModel("l2", 0.5)


def short(setting):
    """The suites' shape with few steps: two attacks, an audit of two, columns in and beyond the threat model."""
    threat = setting.threat
    slow = (FAB(threat, steps=3, targets=2), Square(threat, queries=20, draws=setting.budget.query_draws))
    return Suite(
        name="fast",
        attacks=(APGD(threat, steps=3), APGD(threat, steps=2, targets=2)),
        audit=Audit(attacks=slow, least=6, share=0.1),
        columns=(Columns("column", PGD(threat, steps=3)), Columns("norm", PGD(L2, steps=2, name="l2"))),
    )


def example(noise=0.0):
    """A random network and images that it is right about, but for some."""
    source, net = ToySource(count=46), tiny_net()
    with torch.no_grad():
        source.labels = net(source.images).argmax(1)
    source.labels[::9] = (source.labels[::9] + 1) % 4
    return (Noisy(net, noise) if noise else net), source


def record(suite, crew=None, journal=None, model=None, **judging):
    """A whole evaluation by name, with pictures; with curve and checks where no draws make them dear."""
    stochastic = suite == "rand"
    net, source = example(0.05 if stochastic else 0.0)
    subject = Subject(model=model or net, images=source, labels=None, index=None, threat=THREAT, provenance=ORIGIN)
    settings = Judging(
        **{"suite": suite, "batch_size": 6, "budget": "demo", "curve": not stochastic, "checks": not stochastic}
        | judging
    )
    with mock.patch("deconfound.attacks.suites.fast", short), mock.patch("deconfound.attacks.suites.rand", short):
        return run(settings, subject, journal=journal, crew=crew)


SUITES = ("quick", "fast", "rand")


class Failing(PGD):
    """Fails in one process only, in a way of its own."""

    def __call__(self, model, *rest, **more):
        if failing == "second":
            raise Odd(7, "planted")
        return super().__call__(model, *rest, **more)


class Odd(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, number, text):
        super().__init__(text)


failing = ""


def failure(crew):
    """What each process says when the second one fails."""
    global failing
    failing = "second" if crew.rank == 1 else ""
    model, source = example()
    try:
        judged(model, source.images, source.labels, [Failing(THREAT, steps=1)], THREAT, crew=crew, batch_size=6)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(folder):
    """Every suite, in this process's part; results in ``folder/RANK-NAME``."""
    torch.set_num_threads(1)
    fabric = launched(Compute(devices=2, accelerator="cpu"))
    assert fabric.world_size == 2
    crew = FabricCrew(fabric)
    torch.save(failure(crew), Path(folder) / f"{crew.rank}-failure")
    for suite in SUITES:
        torch.save(untimed(record(suite, crew)), Path(folder) / f"{crew.rank}-{suite}")


if __name__ == "__main__":
    main(sys.argv[1])
