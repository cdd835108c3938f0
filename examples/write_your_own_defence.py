"""Write your own defence: an objective, its settings, its entry, and the adaptive attack that it declares.

Its entry, by the name ``module:NAME``, is a recipe, in Python and on the command line (in the folder examples):

    python examples/write_your_own_defence.py
    deconfound train write_your_own_defence:PAIRING --out runs/pairing --set objective.weight=1
    deconfound evaluate runs/pairing --suite adaptive
"""

import tempfile
from pathlib import Path

import rich
from torch import Tensor, nn

import deconfound
from deconfound.core.types import Batch, DeclaredAttack, Loss
from deconfound.functional.losses import cross_entropy
from deconfound.objectives import AdversarialTraining
from deconfound.recipes import Entry, Judging, ObjectiveSettings, Recipe, Target, evaluate_target, inner_attack
from deconfound.reporting import evaluation_table


class PairingSettings(ObjectiveSettings):
    weight: float = 0.5


class Pairing(AdversarialTraining):
    """Adversarial logit pairing (Kannan et al. 2018): CE(z(x~), y) + weight mean (z(x) - z(x~))^2, x~ from PGD."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__(model, inner_attack(recipe), recipe.eps_warmup)
        self.weight = recipe.objective.weight

    def loss(self, batch: Batch, adversarial: Tensor, *rest: object) -> Loss:
        host = super().loss(batch, adversarial, *rest)
        paired = (self.model(batch.images) - host.adversarial).square().mean()
        return host._replace(total=host.total + self.weight * paired, parts={**host.parts, "paired": paired.detach()})

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """PGD that also pulls the paired logits apart: the defence is judged by who knows it."""
        return (DeclaredAttack(name="apart", loss=apart, context=clean, settings={"attack": "pgd", "steps": 40}),)


def clean(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {"clean": model(images)}


def apart(model: nn.Module, images: Tensor, labels: Tensor, context: dict[str, Tensor]) -> Tensor:
    logits = model(images)
    return cross_entropy(logits, labels) + (logits - context["clean"]).square().mean(dim=1)


PAIRING = Entry("adversarial logit pairing (Kannan et al. 2018)", PairingSettings, Pairing)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run, changes = Path(folder) / "pairing", {"epochs": 3, "steps": 2, "objective.weight": 1.0}
        deconfound.train("write_your_own_defence:PAIRING", data="digits", out=run, changes=changes)
        rich.print(evaluation_table(evaluate_target(Target(target=str(run), n=30), Judging(suite="adaptive"))[0]))
