"""What selects weights: never what an attack leaves of a network that predicts at random."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from deconfound.errors import InputError
from deconfound.recipes.validation import check_selection, validator
from judged import Noisy
from resolved import recipe
from toys import ToySource, tiny_net


@pytest.mark.parametrize(("name", "keep", "refused"), [
    ("pgd-at", "best", True), ("pgd-at", "last", False), ("standard", "best", False), ("fair/trades", "best", True),
])  # fmt: skip
def test_the_best_of_a_random_network_under_attack_is_refused(name, keep, refused):
    found = recipe(name, f"selection.keep={keep}")
    check_selection(found, tiny_net())
    if refused:
        with pytest.raises(InputError, match=r"^selection\.keep: got 'best'; expected last for a network"):
            check_selection(found, Noisy(tiny_net()))
    else:
        check_selection(found, Noisy(tiny_net()))


def test_a_random_network_is_validated_on_clean_images_alone_whatever_the_batch(monkeypatch):
    source, found = ToySource(count=30), []
    for size in (500, 30, 7):
        monkeypatch.setattr("deconfound.recipes.validation.BATCH", size)
        validate = validator(recipe("pgd-at"), source, Fabric(accelerator="cpu", devices=1))
        found.append(validate(Noisy(tiny_net(), 2.0)))
        assert "validation_robust" in validate(tiny_net())
    assert [set(one) for one in found] == [{"validation_clean"}] * 3
    assert found[0] == found[1] == found[2]
    assert torch.isfinite(torch.tensor(found[0]["validation_clean"]))
