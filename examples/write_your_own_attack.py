"""Write your own attack: a frozen configuration with a body; the rest of the protocol is inherited.

By the name ``module:callable`` it is used wherever attacks are named, also as a suite of one attack:

    python examples/write_your_own_attack.py
    deconfound evaluate runs/first --suite write_your_own_attack:Contrast      (in the folder examples)
"""

from dataclasses import dataclass

import rich
import torch

import deconfound
from deconfound.attacks import Hunt, HuntingAttack
from deconfound.core.protocols import Classifier
from deconfound.reporting import evaluation_table


@dataclass(frozen=True)
class Contrast(HuntingAttack):
    """Moves every image away from, then towards, its own mean grey, as far as the threat model allows."""

    levels: int = 8
    name: str = "contrast"

    def settings(self) -> dict[str, object]:
        """Plain data for the record."""
        return {"kind": "contrast", "norm": self.threat.norm, "eps": self.threat.eps, "levels": self.levels}

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Candidates for the images that still stand; the hunt keeps what the judge gets wrong and drops it."""
        for level in torch.linspace(-1, 1, self.levels).tolist():
            images = hunt.points.images
            centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
            hunt.drop_fallen(self.threat.project(images + level * centred, images), ask_all=True)
            if not len(hunt.points):
                return


def main() -> None:
    trained = deconfound.train("standard", data="digits", changes={"epochs": 3})
    data, threat = deconfound.data.load("digits"), deconfound.ThreatModel("linf", 0.3)
    batch = next(data.test.batches([torch.arange(100)]))

    attack = deconfound.attacks.make("write_your_own_attack:Contrast", threat, levels=16)
    adversarial = attack(trained.model, batch.images, batch.labels)
    assert threat.contains(adversarial, batch.images).all()
    print(f"{attack.name} changed {int((adversarial != batch.images).flatten(1).any(1).sum())} of {len(adversarial)}")

    suite = "write_your_own_attack:Contrast"  # an upper bound: quick, by gradients, leaves less
    record = deconfound.evaluate(trained.model, data.test, threat=threat, suite=suite, index=torch.arange(100))
    rich.print(evaluation_table(record))


if __name__ == "__main__":
    main()
