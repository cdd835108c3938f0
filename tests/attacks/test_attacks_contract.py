"""What every attack owes its caller. An attack that joins the registry is tested here."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from deconfound.attacks import ATTACKS, make
from deconfound.core.protocols import Attack
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from registered_attacks import (
    NORMS,
    build,
    can,
    every_attack,
    everything,
    examples,
    labelled,
    norms_of,
    small_net,
    threat_of,
)

# Attacks whose default step size is a share of eps.
FOLLOWING = ("pgd", "mi-fgsm", "cw-linf", "fgsm", "fgsm-rs", "spsa")


def is_bounded(name):
    """Whether a norm bounds the attack; else its threat model is the whole box."""
    return build(name, threat_of(name)).threat == threat_of(name)


every_pair = pytest.mark.parametrize(("name", "norm"), [(name, norm) for name in ATTACKS for norm in norms_of(name)])
every_trainer = pytest.mark.parametrize("name", [name for name in ATTACKS if can(name, "keep")])


class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, images):
        self.calls += 1
        return self.inner(images)


@everything
def test_output_lies_inside_the_threat_model(name, norm, keep):
    model, images = small_net().float(), examples().float()
    images[:, :, :2] = images[:, :, :2].round()  # pixels at the ends of the box
    attack = build(name, ThreatModel(norm, NORMS[norm]), **keep)
    found, threat = attack(model, images, labelled(model, images)), attack.threat
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert not found.requires_grad
    assert threat.contains(found, images).all()
    assert (found != images).flatten(1).any(1).any()


@everything
def test_radius_zero_returns_the_input_without_asking_the_model(name, norm, keep):
    if not is_bounded(name):
        pytest.skip("no norm bounds it, so it has no radius")
    images = examples()
    found = build(name, ThreatModel(norm, 0), **keep)(None, images, torch.zeros(16, dtype=torch.int64))
    assert torch.equal(found, images)
    assert found.data_ptr() != images.data_ptr()


@everything
def test_an_empty_batch_comes_back_empty(name, norm, keep):
    attack = build(name, ThreatModel(norm, NORMS[norm]), **keep)
    assert attack(small_net(), examples()[:0], torch.zeros(0, dtype=torch.int64)).shape == (0, 2, 5, 5)


@every_pair
def test_errors_stay_clean_found_examples_are_adversarial_others_clean(name, norm):
    model, images = small_net(), examples(60)
    labels = labelled(model, images)
    found = build(name, ThreatModel(norm, NORMS[norm]))(model, images, labels)
    with torch.no_grad():
        wrong = model(found).argmax(1) != labels
    changed = (found != images).flatten(1).any(1)
    assert not changed[:6].any()
    assert wrong[:6].all()
    assert torch.equal(wrong[6:], changed[6:])
    assert changed.any()


@everything
def test_two_classes_and_odd_memory_layouts(name, norm, keep):
    model, images = small_net(classes=2), examples()
    labels = labelled(model, images)
    attack = build(name, ThreatModel(norm, NORMS[norm]), **keep)
    expected = attack(model, images, labels)
    strided = torch.stack([images, images], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    for other in (strided, images.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(attack(model, other, labels), expected, rtol=0, atol=1e-12)


@everything
@pytest.mark.parametrize("size", [1, 7])
def test_float64_results_do_not_depend_on_batch_size_or_order(name, norm, keep, size):
    model, images = small_net(), examples(21)
    labels, index = labelled(model, images), torch.arange(21) * 3 + 5
    attack = build(name, ThreatModel(norm, NORMS[norm]), **keep)
    whole = attack(model, images, labels, Streams(3, index))
    order = torch.randperm(21, generator=torch.Generator().manual_seed(size))
    parts = [attack(model, images[p], labels[p], Streams(3, index[p])) for p in order.split(size)]
    again = torch.empty_like(whole)
    again[order] = torch.cat(parts)
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-9)
    with torch.no_grad():
        assert torch.equal(model(again).argmax(1), model(whole).argmax(1))


@every_trainer
def test_keep_last_costs_its_steps_and_no_forward_more(name):
    model = Counting(small_net())
    attack = build(name, ThreatModel("linf", 0.1), keep="last")
    attack(model, examples(), torch.zeros(16, dtype=torch.int64))
    assert model.calls == attack.settings()["steps"]


@every_trainer
def test_keep_last_moves_every_point_and_asks_no_judge(name):
    def never(images, labels, streams):
        raise AssertionError("asked")

    model, images = small_net(), examples()
    labels = labelled(model, images)
    found = build(name, ThreatModel("linf", 0.1), keep="last")(model, images, labels, judge=never)
    assert (found != images).flatten(1).any(1).all()


@every_attack
def test_settings_are_json_and_at_changes_nothing_but_the_threat_model(name):
    threat = threat_of(name)
    attack: Attack = build(name, threat)
    settings = json.loads(json.dumps(attack.settings()))
    assert settings == attack.settings()
    held = attack.threat
    assert (settings["norm"], settings["eps"], settings["box"]) == (held.norm, held.eps, [0.0, 1.0])
    moved = attack.at(threat.with_eps(2 * threat.eps))
    assert moved.name == attack.name
    other = moved.settings()
    if is_bounded(name):
        assert moved.threat == threat.with_eps(2 * threat.eps)
        assert other.pop("eps") == 2 * settings.pop("eps")
    if name in FOLLOWING:
        assert other.pop("step_size") == pytest.approx(2 * settings.pop("step_size"))
    assert other == settings
    assert attack.at(threat) == attack


@every_attack
def test_a_wrong_call_is_an_input_error_and_costs_no_forward(name):
    attack, images = build(name, threat_of(name)), examples()
    labels = torch.zeros(16, dtype=torch.int64)
    for wrong in (
        (images.to(torch.bfloat16), labels),
        (images.mul(255).to(torch.uint8), labels),
        (images, labels[:5]),
        (images, labels.float()),
        (images, labels, Streams(0, range(5))),
        (images, labels, None, {"reference_logits": torch.zeros(5, 4)}),
    ):
        with pytest.raises(InputError):
            attack(None, *wrong)


def test_unknown_names_and_settings_are_input_errors():
    with pytest.raises(InputError, match="did you mean 'pgd'"):
        make("pdg", ThreatModel())
    with pytest.raises(InputError, match=r"fgsm\.steps"):
        make("fgsm", ThreatModel(), steps=3)
