"""What tests of CausalAdv share: a small one, a batch, its steps by plain gradient descent, and its state."""

from __future__ import annotations

import torch

from deconfound.attacks import PGD
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Progress
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import CausalAdv
from deconfound.objectives.styled import StyleLoss
from deconfound.training import LoopSettings, SelectionSettings
from toys import SplitNet, ToySource

THREAT = ThreatModel("linf", 0.1)
CONTENT = {"m": "cross_entropy", "t": "kl"}
MIDDLE = Progress(epoch=2, epochs=4, step=1, steps=3)


def causal(variant="m", seed=0, norm=False, steps=3, classes=4, width=16, bias=True, **settings):
    model = SplitNet(seed, classes, norm=norm, width=width, bias=bias)
    style = StyleBranch(width, classes, seed=seed)
    with torch.no_grad():
        style.head.weight.mul_(10)  # so that the marginalisation, quadratic in it, is seen
    beta, alpha = settings.get("beta", {"m": 1.0, "t": 6.0}[variant]), settings.get("alpha", 1.0)
    loss = StyleLoss(CONTENT[variant], beta, alpha)
    start = "uniform" if variant == "m" else "gaussian"
    return CausalAdv(model, style, PGD(THREAT, steps=steps, keep="last", loss=loss, start=start), variant, **settings)


def marginalised(branch, style, labels, ratio):
    """Logits of a style branch in evaluation, with the marginalisation."""
    return branch.plain_logits(style) + branch.correction(labels, ratio)


def toy_batch(count=16, classes=4):
    return next(ToySource(count, classes).batches([torch.arange(count)]))


def streams(batch):
    return Streams(0, batch.index)


def state(objective):
    return {
        f"{name}/{key}": value.clone()
        for name, player in objective.players().items()
        for key, value in player.state_dict().items()
    }


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def train_step(objective, batch, progress=MIDDLE, rate=0.1):
    """All steps of a batch by plain gradient descent, as the loop takes them."""
    found = []
    for step in objective.steps(batch, progress, streams(batch)):
        parameters = list(objective.players()[step.player].parameters())
        for parameter in parameters:
            parameter.grad = None
        with step.scope():
            loss = step.loss()
            loss.total.backward(inputs=parameters)
        with torch.no_grad():
            for parameter in parameters:
                parameter -= rate * parameter.grad
        found.append((step.player, loss))
    return found


def loop(**changes):
    settings = {"epochs": 4, "batch_size": 16, "lr": 0.05, "selection": SelectionSettings(keep="last")}
    return LoopSettings(**(settings | changes))
