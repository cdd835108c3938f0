"""What selects weights during training: accuracy on the validation split, clean and under PGD."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from torch import nn

from deconfound.attacks import PGD
from deconfound.core.guards import evaluating
from deconfound.core.protocols import ImageSource, StochasticClassifier
from deconfound.core.streams import Streams
from deconfound.errors import require
from deconfound.recipes.registry import entry_of, is_stochastic
from deconfound.recipes.schema import Recipe
from deconfound.training.distributed import all_reduce

# Images per validation batch; the result does not depend on it.
BATCH = 500


def validator(recipe: Recipe, source: ImageSource, fabric: Fabric) -> Callable[[nn.Module], dict[str, float]]:
    """A function of the network that returns ``validation_clean`` and, where it means something, ``validation_robust``.

    Robust is under the recipe's threat model, PGD of ``selection.steps`` steps with fixed streams, for objectives with
    adversarial examples on deterministic networks: a random one would be selected for masking. Each process judges its
    share of the images; the counts are summed.
    """
    attack = None
    if entry_of(recipe.objective.name).adversarial and not is_stochastic(recipe.objective):
        attack = PGD(recipe.threat, steps=recipe.selection.steps)
    mine = torch.arange(len(source))[fabric.global_rank :: fabric.world_size]

    def validate(model: nn.Module) -> dict[str, float]:
        climbs = attack is not None and not isinstance(model, StochasticClassifier)
        counts = torch.zeros(3, dtype=torch.float64, device=fabric.device)
        with evaluating(model), torch.no_grad(), fabric.autocast():
            for batch in source.batches(mine.split(BATCH), fabric.device):
                images = batch.images.double() if recipe.precision == "64-true" else batch.images
                streams = Streams(recipe.seed, batch.index).fold("validation")
                if isinstance(model, StochasticClassifier):
                    logits = model.draw(images, streams.to(images.device), 1)[0]
                else:
                    logits = model(images)
                right = logits.argmax(dim=1) == batch.labels
                counts[0] += len(images)
                counts[1] += right.sum()
                if climbs:
                    assert attack is not None  # said by climbs
                    adversarial = attack(model, images, batch.labels, streams)
                    counts[2] += (right & (model(adversarial).argmax(dim=1) == batch.labels)).sum()
        if fabric.world_size > 1:
            counts = all_reduce(fabric, counts, "sum")
        n, clean, robust = counts.tolist()
        found = {"validation_clean": clean / n}
        return found | ({"validation_robust": robust / n} if climbs else {})

    return validate


def check_selection(recipe: Recipe, model: nn.Module) -> None:
    """A random network is not selected by what an attack leaves of it: that would be masking.

    Raises:
        InputError: the best weights of an adversarially trained random network.
    """
    random = isinstance(model, StochasticClassifier) and entry_of(recipe.objective.name).adversarial
    rule = "last for a network that predicts at random: the best under PGD would hide its gradient best"
    require(not random or recipe.selection.keep == "last", "selection.keep", recipe.selection.keep, rule)
