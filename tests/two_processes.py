"""Run by ``test_training_distributed`` in two processes; with one process it gives what they are compared with."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from deconfound.attacks import PGD, causal_inversion
from deconfound.attacks.losses import kl_to_reference
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.models import CausalFeatureMap, causal_net
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_surrogates import SampledSurrogate
from deconfound.models.sampler import Sampling
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import (
    AMRGMM,
    AdversarialTraining,
    CausalAdv,
    CiiVAdversarialTraining,
    Inoculated,
    Standard,
    Trades,
    WeightPerturbed,
)
from deconfound.objectives.styled import StyleLoss
from deconfound.recipes.compute import first_decides
from deconfound.training import AveragingSettings, Hooks, LoopSettings, OptimizerSettings, SelectionSettings, fit
from toys import Game, MemoryCheckpoints, Rows, SplitNet, ToySource, tiny_net

THREAT = ThreatModel("linf", 0.1)


def settings(**changes):
    base = {"epochs": 5, "batch_size": 16, "lr": 0.05, "selection": SelectionSettings(keep="last")}
    return LoopSettings(**(base | changes))


def standard(seed):
    return Standard(tiny_net(seed)), settings()


def pgd_at(seed):
    attack = PGD(THREAT, steps=3, keep="last")
    return AdversarialTraining(tiny_net(seed), attack, warmup=0.5), settings(precision="64-true", clip_norm=1.0)


def batchnorm(seed):
    attack = PGD(THREAT, steps=2, keep="last", loss=kl_to_reference, start="gaussian", mode="train")
    averaging = AveragingSettings(name="ema", decay=0.8)
    return Trades(tiny_net(seed, norm=True), attack), settings(epochs=2, averaging=averaging)


def dropout(seed):
    model = nn.Sequential(tiny_net(seed, norm=True), nn.Dropout(0.5))
    return Standard(model), settings(epochs=2, averaging=AveragingSettings(name="swa", start=0.0))


def game(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = nn.Linear(4, 1)
    return Game(tiny_net(seed), critic), settings(epochs=2, lr=0.02)


def causaladv(seed):
    attack = PGD(THREAT, steps=2, keep="last", loss=StyleLoss())
    branch = StyleBranch(16, 4, seed=seed)
    return CausalAdv(SplitNet(seed), branch, attack), settings(epochs=3, precision="64-true")


def ciiv(seed):
    model = CiiV(SplitNet(seed, channels=3), Sampling(loops=4), channels=1, size=8)
    attack = PGD(THREAT, steps=2, keep="last")
    objective = CiiVAdversarialTraining(model, attack, SampledSurrogate(model, wide=True))
    return objective, settings(epochs=3, precision="64-true")


def amr_gmm(seed):
    causal = CausalFeatureMap(tiny_net(seed, norm=True), causal_net((4, 8, 8), seed=seed), "2")
    game = AMRGMM(causal, causal_net((4, 8, 8), role="g", seed=seed), PGD(THREAT, steps=2, keep="last"))
    adamw = OptimizerSettings(name="adamw", amsgrad=True, weight_decay=1e-5)
    return game, settings(epochs=2, lr=1e-3, players={"h": adamw, "g": adamw})


def cafe(seed):
    causal = CausalFeatureMap(tiny_net(seed + 7, norm=True), causal_net((4, 8, 8), seed=seed), "2")
    host = AdversarialTraining(tiny_net(seed), PGD(THREAT, steps=2, keep="last"))
    return Inoculated(host, causal, causal_inversion(0.05, 2)), settings(epochs=2, precision="64-true")


def awp(seed):
    attack = PGD(THREAT, steps=2, keep="last", loss=kl_to_reference, start="gaussian")
    return WeightPerturbed(Trades(tiny_net(seed), attack), gamma=0.05), settings(epochs=3, precision="64-true")


def awp_style(seed):
    host, chosen = causaladv(seed)
    return WeightPerturbed(host, gamma=0.05), chosen


CASES = {
    "standard": standard,
    "pgd-at": pgd_at,
    "batchnorm": batchnorm,
    "dropout": dropout,
    "game": game,
    "causaladv": causaladv,
    "ciiv": ciiv,
    "amr-gmm": amr_gmm,
    "cafe": cafe,
    "awp": awp,
    "awp-style": awp_style,
}


def trained(name, fabric, seed):
    """Final weights and buffers of all players, the kept weights and the history of one case."""
    objective, chosen = CASES[name](seed)
    result = fit(objective, ToySource(), chosen, fabric)
    players = {
        f"{player}/{key}": value
        for player, module in objective.players().items()
        for key, value in module.state_dict().items()
    }
    return {"players": players, "kept": result.model, "history": result.history}


def one_process(name):
    """The same case without company."""
    precision = CASES[name](0)[1].precision
    return trained(name, Fabric(accelerator="cpu", devices=1, precision=precision), 0)


def refused(fabric):
    """What a batch size of 15 is answered with."""
    try:
        fit(Standard(tiny_net()), ToySource(), settings(batch_size=15), fabric)
    except InputError as error:
        return str(error)
    return None


def stopped(fabric):
    """Only the second process is asked to stop; then both continue from the first one's state."""
    kept, objective = MemoryCheckpoints(), Standard(tiny_net())
    hooks = Hooks(checkpointer=kept, should_stop=lambda: fabric.global_rank == 1)
    first = fit(objective, ToySource(), settings(), fabric, hooks)
    state = fabric.broadcast(kept.states[-1] if kept.states else None, src=0)
    hooks = Hooks(checkpointer=MemoryCheckpoints([state]))
    again = fit(Standard(tiny_net(seed=3)), ToySource(), settings(), fabric, hooks)
    return {
        "stopped": first.stopped,
        "place": (state["epoch"], state["step"]),
        "saved": len(kept.states),
        "kept": again.model,
    }


def resumed(fabric):
    """Saved within the second epoch, since the second process alone finds it time; what goes on from there, and what
    was never interrupted."""
    chosen, kept = settings(epochs=2, batch_size=4), MemoryCheckpoints()
    hooks = Hooks(checkpointer=kept, checkpoint_seconds=0 if fabric.global_rank == 1 else 1e9)
    whole = fit(Standard(tiny_net()), ToySource(), chosen, fabric, hooks)
    places = [(state["epoch"], state["step"]) for state in kept.states]
    state = fabric.broadcast(kept.states[2] if kept.states else None, src=0)
    journal = Rows()
    hooks = Hooks(checkpointer=MemoryCheckpoints([copy.deepcopy(state)]), journal=journal)  # momentum moves in place
    again = fit(Standard(tiny_net(seed=3)), ToySource(), chosen, fabric, hooks)
    return {
        "places": places,
        "state": state,
        "whole": whole.history,
        "again": again.history,
        "journal": journal.rows,
        "same": all(torch.equal(value, again.model[name]) for name, value in whole.model.items()),
    }


def resumed_alone(state):
    """One process goes on where two were."""
    hooks = Hooks(checkpointer=MemoryCheckpoints([state]))
    return fit(Standard(tiny_net(seed=3)), ToySource(), settings(epochs=2, batch_size=4), hooks=hooks).history


def apart(fabric):
    """Only the first process finds a checkpoint, as on machines without a shared disk."""
    kept = MemoryCheckpoints()
    fit(Standard(tiny_net()), ToySource(), settings(epochs=1), fabric, Hooks(checkpointer=kept))
    try:
        fit(Standard(tiny_net()), ToySource(), settings(), fabric, Hooks(checkpointer=kept))
    except InputError as error:
        return str(error)
    return None


def decided(fabric):
    """Only the first process refuses."""

    def refuse():
        if fabric.global_rank:
            raise AssertionError("asked of the first process only")
        raise InputError("out", "here", "another place")

    try:
        first_decides(fabric, refuse)
    except InputError as error:
        return str(error)
    return None


def main(folder):
    """Every case, in this process's part; results in ``folder/rank.pt``."""
    torch.set_num_threads(1)
    results = {}
    for name, case in CASES.items():
        fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision=case(0)[1].precision)
        fabric.launch()
        assert fabric.world_size == 2
        results[name] = trained(name, fabric, seed=fabric.global_rank)  # different starts on purpose
    results["refused"] = refused(fabric)
    results["stopped"] = stopped(fabric)
    results["resumed"] = resumed(fabric)
    results["apart"] = apart(fabric)
    results["decided"] = decided(fabric)
    torch.save(results, Path(folder) / f"{fabric.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
