"""What tests of causal inoculation share: hosts, a reference with a hypothesis, and the model's step on a batch."""

from __future__ import annotations

from dataclasses import replace

import torch

from deconfound.attacks import PGD, causal_inversion
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Progress
from deconfound.models import CausalFeatureMap, causal_net
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import AdversarialTraining, CausalAdv, Trades
from deconfound.objectives.styled import StyleLoss
from toys import SplitNet, ToySource

THREAT = ThreatModel("linf", 0.1)
ATTACK = PGD(THREAT, steps=2, keep="last")
INVERSION = causal_inversion(0.05, 3)
MIDDLE = Progress(epoch=1, epochs=2)


def reference(seed=5, norm=True):
    """A network and a hypothesis with a say of its own."""
    torch.manual_seed(seed)
    causal = CausalFeatureMap(SplitNet(seed, norm=norm), causal_net((16,), seed=seed))
    causal.network.passes = 0
    return causal


def adv(model):
    return AdversarialTraining(model, ATTACK)


def trades(model):
    return Trades(model, ATTACK)  # the five hosts of the paper craft by cross entropy


def causaladv(model):
    return CausalAdv(model, StyleBranch(16, 4), replace(ATTACK, loss=StyleLoss()))


HOSTS = {"adv": adv, "trades": trades, "causaladv": causaladv}


def host_of(name, seed=0):
    return HOSTS[name](SplitNet(seed, norm=True))


def batch_of(count=16):
    return next(ToySource(count, 4).batches([torch.arange(count)]))


ALIVE = []  # steps under way: what an objective holds for them goes with them


def model_step(objective, batch):
    """The model's step; the losses of the steps before it are evaluated, and no weight moves."""
    for player in objective.players().values():
        player.train()
    ALIVE[:] = [objective.steps(batch, MIDDLE, Streams(0, batch.index))]
    for step in ALIVE[0]:
        if step.player == "model":
            return step
        step.loss()
    raise AssertionError("no step of the model")
