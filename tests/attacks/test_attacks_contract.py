"""What every attack owes its caller. An attack that joins the registry is tested here."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from torch import nn

from deconfound.attacks import ATTACKS, make
from deconfound.core.protocols import Attack
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

NORMS = {"linf": 0.1, "l2": 0.6, "l1": 3.0}
# What the contract says does not need many steps.
FEWER = {
    "pgd": {"steps": 4},
    "mi-fgsm": {"steps": 4},
    "cw-linf": {"steps": 4},
    "apgd": {"steps": 6},
    "apgd-t": {"steps": 4, "targets": 2},
    "fab": {"steps": 5},
    "fab-t": {"steps": 5, "targets": 2},
    "square": {"queries": 60},
    "spsa": {"steps": 3, "pairs": 4},
    "noise": {"tries": 4},
    "cw-l2": {"steps": 6},
    "deepfool": {"steps": 6},
    "ddn": {"steps": 6},
    "fmn": {"steps": 6},
    "patch": {"steps": 4, "share": 0.2},
}


# Attacks whose default step size is a share of eps.
FOLLOWING = ("pgd", "mi-fgsm", "cw-linf", "fgsm", "fgsm-rs", "spsa")


def can(name, setting):
    return setting in inspect.signature(ATTACKS[name]).parameters


def norms_of(name):
    return tuple(norm for norm in NORMS if not refuses(name, norm))


def threat_of(name):
    """A threat model that the attack works in."""
    norm = norms_of(name)[0]
    return ThreatModel(norm, NORMS[norm])


def is_bounded(name):
    """Whether a norm bounds the attack; else its threat model is the whole box."""
    return build(name, threat_of(name)).threat == threat_of(name)


def refuses(name, norm):
    try:
        build(name, ThreatModel(norm, NORMS[norm]))
    except InputError as error:
        return error.field == "norm"
    return False


def build(name, threat, **settings):
    return make(name, threat, **FEWER.get(name, {}) | settings)


def keeps(name):
    return ({"keep": "first_adversarial"}, {"keep": "last"}) if can(name, "keep") else ({},)


everything = pytest.mark.parametrize(
    ("name", "norm", "keep"),
    [
        pytest.param(name, norm, keep, id="-".join([name, norm, *keep.values()]))
        for name in ATTACKS
        for norm in norms_of(name)
        for keep in keeps(name)
    ],
)
every_attack = pytest.mark.parametrize("name", list(ATTACKS))
every_pair = pytest.mark.parametrize(("name", "norm"), [(name, norm) for name in ATTACKS for norm in norms_of(name)])
every_trainer = pytest.mark.parametrize("name", [name for name in ATTACKS if can(name, "keep")])


def small_net(classes=4, channels=2, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(4 * 25, classes),
    ).double()


def examples(count=16, channels=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, 5, 5, generator=generator, dtype=torch.float64)


def labelled(model, images, wrong=6):
    """The model's own labels, with some made wrong."""
    with torch.no_grad():
        logits = model.eval()(images)
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return labels


class Breaking(nn.Module):
    """Raises at its n-th forward."""

    def __init__(self, inner, at):
        super().__init__()
        self.inner, self.left = inner, at

    def forward(self, images):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("planted")
        return self.inner(images)


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
@pytest.mark.parametrize("training", [True, False])
def test_model_and_random_state_are_left_as_found(name, norm, keep, training):
    model, images = small_net().train(training), examples()
    model[0].eval()
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    labels = torch.zeros(16, dtype=torch.int64)
    before = [module.training for module in model.modules()]
    buffers = {key: value.clone() for key, value in model.state_dict().items()}
    state, originals = torch.random.get_rng_state(), images.clone()
    build(name, ThreatModel(norm, NORMS[norm]), **keep)(model, images, labels)
    assert [module.training for module in model.modules()] == before
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]
    assert [p.grad is not None for p in model.parameters()] == [False] * 4 + [True, False]
    assert (model[5].weight.grad == 1).all()
    assert all(torch.equal(value, buffers[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images, originals)
    assert not images.requires_grad
    assert not model._forward_hooks


@everything
@pytest.mark.parametrize("at", [1, 2])
def test_an_error_inside_the_model_leaves_everything_as_found(name, norm, keep, at):
    model = Breaking(small_net(), at).train()
    state = torch.random.get_rng_state()
    attack = build(name, ThreatModel(norm, NORMS[norm]), **keep)
    if keep.get("keep") == "last":
        at = model.left = min(at, attack.settings()["steps"])  # that many forwards there are
    with pytest.raises(RuntimeError, match="planted"):
        attack(model, examples(), torch.zeros(16, dtype=torch.int64))
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert not model._forward_hooks


@everything
@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_works_the_same_for_callers_without_gradients(name, norm, keep, caller):
    model, images = small_net(), examples()
    labels = labelled(model, images)
    attack = build(name, ThreatModel(norm, NORMS[norm]), **keep)
    expected = attack(model, images, labels)
    with caller():
        found = attack(model, images.clone(), labels.clone(), Streams(0, range(16)))  # clones are inference tensors
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)
    assert not found.is_inference()


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
def test_bfloat16_autocast_keeps_the_iterate_in_float32(name):
    model, images = small_net().float(), examples().float()
    attack = build(name, threat_of(name))
    labels = labelled(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attack(model, images, labels)
    assert found.dtype == torch.float32
    assert attack.threat.contains(found, images).all()
    assert (found != images).any()


@every_attack
def test_a_model_of_nan_and_infinity_counts_as_wrong_and_harms_nothing(name):
    class Poisoned(nn.Module):
        def forward(self, images):
            pixel = images.flatten(1)
            return torch.stack([pixel.sum(1), torch.where(pixel[:, 0] > 0.5, torch.nan, -10.0) * pixel[:, 1]], dim=1)

    attack, images = build(name, threat_of(name)), examples()
    labels = torch.zeros(16, dtype=torch.int64)
    silent = images[:, 0, 0, 0] > 0.5
    for keep in keeps(name):
        found = build(name, threat_of(name), **keep)(Poisoned(), images, labels)
        assert attack.threat.contains(found, images).all()
        assert torch.equal(found[silent], images[silent]) or keep.get("keep") == "last"


@every_attack
def test_a_model_without_input_gradient_is_attacked_in_vain_not_in_error(name):
    def steps(images):
        with torch.no_grad():
            return torch.stack([images.mean((1, 2, 3)), torch.zeros(len(images), dtype=images.dtype)], dim=1)

    images = examples()
    found = build(name, threat_of(name))(steps, images, torch.zeros(16, dtype=torch.int64))
    assert torch.equal(found, images)


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


@every_attack
def test_channels_last_weights_and_plain_functions_are_models_too(name):
    model, images = small_net(), examples()
    labels = labelled(model, images)
    attack = build(name, threat_of(name))
    expected = attack(model, images, labels)
    model.eval()
    assert torch.equal(attack(lambda x: model(x), images, labels), expected)
    converted = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(attack(converted, images, labels), expected, rtol=0, atol=1e-9)


def test_unknown_names_and_settings_are_input_errors():
    with pytest.raises(InputError, match="did you mean 'pgd'"):
        make("pdg", ThreatModel())
    with pytest.raises(InputError, match=r"fgsm\.steps"):
        make("fgsm", ThreatModel(), steps=3)
