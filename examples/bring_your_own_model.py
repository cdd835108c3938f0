"""Bring your own model: any torch module from images in [0, 1] to logits is attacked and judged as it is.

Two rules: normalisation lives inside the model, and its output is logits. The training below is plain PyTorch.

    python examples/bring_your_own_model.py
"""

import rich
import torch
from torch import nn

import deconfound
from deconfound.reporting import evaluation_table

EPS = 0.1  # in pixels of [0, 1], the usual radius on digits


def network() -> nn.Module:
    """A small network; the first layer normalises, so radii stay in pixels."""
    return nn.Sequential(
        deconfound.models.Normalise(mean=0.5, std=0.25, channels=1),
        nn.Flatten(),
        nn.Linear(16 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def main() -> None:
    torch.manual_seed(0)
    data = deconfound.data.load("digits")
    model, loss = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(5):
        for batch in data.train.batches(torch.randperm(len(data.train)).split(64)):
            optimizer.zero_grad()
            loss(model(batch.images), batch.labels).backward()
            optimizer.step()

    threat = deconfound.ThreatModel("linf", EPS)
    first = torch.arange(100)
    record = deconfound.evaluate(model, data.test, threat=threat, suite="quick", index=first, name="mine")
    rich.print(evaluation_table(record))


if __name__ == "__main__":
    main()
