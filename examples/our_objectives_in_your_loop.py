"""Our objectives, CausalAdv-M and TRADES, in your training loop: they say what is minimised, you do the rest.

python examples/our_objectives_in_your_loop.py
"""

import rich
import torch
from torch import nn

import deconfound
from deconfound.attacks import PGD
from deconfound.attacks.losses import kl_to_reference
from deconfound.core.protocols import Objective
from deconfound.core.types import Progress
from deconfound.models import StyleBranch
from deconfound.objectives import CausalAdv, StyleLoss, Trades
from deconfound.reporting import leaderboard_table

THREAT, EPOCHS = deconfound.ThreatModel("linf", 0.1), 3


def causaladv(model: nn.Module) -> CausalAdv:
    """Two players, the classifier and its style branch; the inner attack climbs content and style."""
    attack = PGD(THREAT, steps=2, keep="last", loss=StyleLoss("cross_entropy", 1.0, 0.1))
    return CausalAdv(model, StyleBranch(model.last.in_features, model.last.out_features), attack, alpha=0.1)


def trades(model: nn.Module) -> Trades:
    """One player; the inner attack climbs the KL to the clean prediction."""
    return Trades(model, PGD(THREAT, steps=2, keep="last", loss=kl_to_reference, start="gaussian"), beta=6)


def fit(objective: Objective, data: deconfound.data.DataSet) -> None:
    """Steps are taken as they come, before the next is asked for, each with the optimiser of its own player."""
    players = objective.players()
    optimizers = {name: torch.optim.AdamW(player.parameters(), lr=0.003) for name, player in players.items()}
    for epoch in range(EPOCHS):
        for batch in data.train.batches(torch.randperm(len(data.train)).split(64)):
            streams = deconfound.Streams(0, batch.index).fold("epoch", epoch)
            for step in objective.steps(batch, Progress(epoch=epoch, epochs=EPOCHS), streams):
                optimizers[step.player].zero_grad()
                with step.scope():
                    step.loss().total.backward(inputs=list(players[step.player].parameters()))
                optimizers[step.player].step()


def main() -> None:
    data, records = deconfound.data.load("digits"), []
    for make in (causaladv, trades):
        torch.manual_seed(0)
        model = deconfound.models.build("small", classes=10, channels=1, size=16)
        fit(make(model), data)
        judged = {"threat": THREAT, "suite": "quick", "index": torch.arange(60), "name": make.__name__}
        records.append(deconfound.evaluate(model, data.test, **judged))
    rich.print(leaderboard_table(records))


if __name__ == "__main__":
    main()
