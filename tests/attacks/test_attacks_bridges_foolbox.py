"""Attacks of foolbox under our contract, and what is kept of what they find."""

from __future__ import annotations

import pytest
import torch

from bridged import BOXES, NORMS, check_contract, equal_margins, examples, small_net
from deconfound.attacks import PGD
from deconfound.attacks.bridges import bridge
from deconfound.core.threat import ThreatModel


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.1)])
def test_foolbox_pgd_is_ours_without_a_random_start(norm, eps, box):
    """Five steps of eps / 5 along a constant gradient."""
    model, images, labels, _ = equal_margins(norm, eps, box)
    threat = ThreatModel(norm, eps, box)
    name = {"linf": "LinfPGD", "l2": "L2PGD"}[norm]
    theirs = bridge(f"foolbox:{name}", threat, steps=5, rel_stepsize=0.2, random_start=False)(model, images, labels)
    ours = PGD(threat, steps=5, step_size=eps / 5, start="none")(model, images, labels)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    assert (theirs != images).flatten(1).any(1).all()


def test_foolbox_l1_step_is_in_closed_form():
    """x + eps g / |g|_1, in another box."""
    model, images, labels, weight = equal_margins("l1", 0.3, (-1, 3))
    found = bridge("foolbox:L1FastGradientAttack", ThreatModel("l1", 0.3, (-1, 3)))(model, images, labels)
    expected = images + (0.3 * weight / weight.abs().sum()).view(1, 1, 4, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("LinfPGD", "linf"),
        ("L2PGD", "l2"),
        ("SparseL1DescentAttack", "l1"),
        ("L2DeepFoolAttack", "l2"),
        ("LInfFMNAttack", "linf"),
        ("L2CarliniWagnerAttack", "l2"),
        ("SaltAndPepperNoiseAttack", "l2"),
        ("LinearSearchContrastReductionAttack", "l1"),
    ],
)
def test_foolbox_attacks_keep_the_contract_at_any_number_of_classes(name, norm, classes):
    model = small_net(classes)
    images, labels = examples(model)
    few = {
        "L2CarliniWagnerAttack": {"binary_search_steps": 2, "steps": 20},
        "LInfFMNAttack": {"steps": 20},
        "SaltAndPepperNoiseAttack": {"steps": 30},
        "LinearSearchContrastReductionAttack": {"steps": 30},
    }
    attack = bridge(f"foolbox:{name}", ThreatModel(norm, NORMS[norm]), **few.get(name, {}))
    broken = check_contract(attack, model, images, labels)
    assert broken > 0 or name.startswith(("Salt", "Linear"))


@pytest.mark.parametrize("box", BOXES)
def test_doubles_and_other_boxes(box):
    low, high = box
    inner = small_net().double()
    images, labels = examples(inner, dtype=torch.float64)

    def model(scaled):
        assert scaled.dtype == torch.float64
        return inner((scaled - low) / (high - low))

    attack = bridge("foolbox:LinfPGD", ThreatModel("linf", 0.1 * (high - low), box), steps=5)
    scaled = low + (high - low) * images
    assert check_contract(attack, model, scaled, labels) > 3


def test_the_judge_decides_what_is_kept():
    model = small_net()
    images, labels = examples(model)
    attack = bridge("foolbox:LinfPGD", ThreatModel("linf", 0.1))
    assert torch.equal(attack(model, images, labels, judge=lambda x, y, streams: torch.zeros_like(y).bool()), images)
    seen = []

    def judge(x, y, streams):
        seen.append(len(x))
        return y == labels[7]

    attack(model, images, labels, judge=judge)
    right = int((labels != labels[7]).sum())
    assert seen[:2] == [20, right]


def test_a_candidate_beyond_the_radius_has_a_second_chance_along_its_own_direction():
    """foolbox's minimum-norm attacks return points outside; both that projected and that shrunk are judged."""
    sizes = []
    model = small_net()
    images, labels = examples(model)
    attack = bridge("foolbox:L2DeepFoolAttack", ThreatModel("l2", 0.05))

    def judge(x, y, streams):
        sizes.append(len(x))
        return torch.zeros_like(y).bool()

    attack(model, images, labels, judge=judge)
    assert sizes == [20, 20, 20]


def test_radius_zero_and_no_points_cost_nothing():
    images, labels = torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64)
    assert torch.equal(bridge("foolbox:LinfPGD", ThreatModel("linf", 0))(None, images, labels), images)
    assert bridge("foolbox:LinfPGD", ThreatModel("linf", 0.1))(None, images[:0], labels[:0]).shape == (0, 1, 4, 4)


def test_a_model_without_gradient_is_attacked_in_vain_not_in_error():
    def steps(images):
        with torch.no_grad():
            return torch.stack([images.mean((1, 2, 3)), torch.zeros(len(images))], 1)

    images = torch.rand(4, 1, 4, 4)
    attack = bridge("foolbox:LinfPGD", ThreatModel("linf", 0.1), random_start=False)
    assert torch.equal(attack(steps, images, torch.zeros(4, dtype=torch.int64)), images)


def test_a_stochastic_model_is_drawn_afresh_and_from_streams_alone():
    inner, calls = small_net(), []
    images, labels = examples(inner)

    class Drawing:
        def draw(self, images, streams, draws):
            calls.append(streams.uniform(())[0].item())
            return inner(images)[None] + 0.01 * streams.normal((4,))[None]

    attack = bridge("foolbox:LinfPGD", ThreatModel("linf", 0.1), steps=5)
    first = attack(Drawing(), images, labels)
    assert len(set(calls)) >= 6
    assert torch.equal(attack(Drawing(), images, labels), first)
    assert (first != images).any()
