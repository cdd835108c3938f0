"""Judge a checkpoint that was made elsewhere: a state dict, the network's code, and what its training assumed.

Weights are opened as plain tensors only, never as arbitrary pickles. On the command line (in the folder examples):

    python third_party_checkpoint.py theirs.pt
    deconfound evaluate third_party_checkpoint:network --weights theirs.pt --data digits --mean 0.3 --std 0.4 --eps 0.1
    deconfound evaluate lenet5 --weights path/to/lenet5.pt --data path/to/mnist --eps 0.3
"""

import sys
import tempfile
from pathlib import Path

import rich
import torch
from torch import nn

import deconfound
from deconfound.recipes import Judging, Target, evaluate_target
from deconfound.reporting import evaluation_table

MEAN, STD = 0.3, 0.4  # what their training subtracted and divided by, outside of the network


def network() -> nn.Module:
    """Their architecture, as their code has it: it expects images that are normalised already."""
    return nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))


def train_elsewhere(file: Path) -> None:
    """Stands for the authors: plain PyTorch, and a checkpoint with the usual clutter around the weights."""
    torch.manual_seed(0)
    model, train = network(), deconfound.data.load("digits").train
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(5):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model((batch.images - MEAN) / STD), batch.labels).backward()
            optimizer.step()
    theirs = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}  # as DataParallel names them
    torch.save({"state_dict": theirs, "epoch": 5}, file)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/theirs.pt")
        train_elsewhere(weights)
        named = {"target": "third_party_checkpoint:network", "weights": str(weights), "mean": (MEAN,), "std": (STD,)}
        record, _ = evaluate_target(Target(**named, data="digits", eps=0.1, n=100), Judging(suite="quick"))
    rich.print(evaluation_table(record))


if __name__ == "__main__":
    main()
