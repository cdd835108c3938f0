"""Attacks of other libraries under our contract."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from deconfound.attacks import PGD, bridges
from deconfound.attacks.bridge_parts import Library, Shielded, step_size
from deconfound.attacks.bridges import Bridge, bridge, members
from deconfound.attacks.points import Points
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

NORMS = {"linf": 0.1, "l2": 0.6, "l1": 3.0}
BOXES = [(0.0, 1.0), (-1.0, 3.0)]


def equal_margins(norm, eps, box=(0.0, 1.0), count=12, side=4):
    """A linear classifier of two classes and images, all right by 0.99 of what the ball reaches, so that of a climb
    in equal steps along the gradient only the last iterate breaks them. No ball touches the box."""
    low, high = box
    torch.manual_seed(0)
    layer = nn.Linear(side * side, 2).double()
    weight = (layer.weight[1] - layer.weight[0]).detach()
    generator = torch.Generator().manual_seed(1)
    flat = 0.5 + 0.04 * torch.randn(count, side * side, generator=generator, dtype=torch.float64)
    flat = low + (high - low) * (flat - ((flat - 0.5) @ weight)[:, None] * weight / weight.square().sum())
    gain = {"linf": weight.abs().sum(), "l2": weight.norm(), "l1": weight.square().sum() / weight.abs().sum()}[norm]
    with torch.no_grad():
        layer.bias[0], layer.bias[1] = 0.99 * eps * gain + flat[0] @ weight, 0
    images = flat.view(count, 1, side, side)
    assert images.min() > low + eps
    assert images.max() < high - eps
    return nn.Sequential(nn.Flatten(), layer), images, torch.zeros(count, dtype=torch.int64), weight


def small_net(classes=4, channels=2):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(4 * 64, classes),
    ).eval()


def examples(model, count=20, channels=2, wrong=5, dtype=torch.float32):
    images = torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return images, labels


def check_contract(attack, model, images, labels, wrong=5):
    """Clean where it was wrong or nothing was found; elsewhere adversarial, inside the threat model."""
    found = attack(model, images, labels)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert attack.threat.contains(found, images).all()
    with torch.no_grad():
        fallen = model(found).argmax(1) != labels
    changed = (found != images).flatten(1).any(1)
    assert not changed[:wrong].any()
    assert torch.equal(fallen[wrong:], changed[wrong:])
    return int(changed.sum())


def planted(monkeypatch, run, make=lambda model, eps=0.1, strength=1: None):
    """A library ``planted`` with one attack ``Attack`` that does what ``run`` says."""
    library = Library(
        name="planted",
        module="json",
        distribution="planted",
        advice="none",
        own=frozenset({"model", "eps"}),
        members=lambda module: {"Attack": make},
        follow=lambda maker, norm, eps, chosen: {"eps": eps},
        run=run,
    )
    monkeypatch.setattr(bridges, "LIBRARIES", {"planted": library})


# foolbox


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


# what every bridge owes its caller


@pytest.mark.parametrize("attack", ["foolbox:LinfPGD", "torchattacks:PGD", "art:ProjectedGradientDescent"])
@pytest.mark.parametrize("at", [None, 1, 3])
def test_model_and_random_states_are_left_as_found_also_after_an_error(attack, at):
    present(attack)

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = small_net(), 0

        def forward(self, images):
            self.calls += 1
            if self.calls == at:
                raise RuntimeError("planted")
            assert not self.inner.training
            return self.inner(images)

    model = Watched().train()
    images, labels = examples(model.inner.eval())
    model.inner.train()
    model.inner[0].eval()
    model.inner[0].bias.requires_grad_(False)
    model.inner[5].weight.grad = torch.ones_like(model.inner[5].weight)
    buffers = {key: value.clone() for key, value in model.state_dict().items()}
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    attack = bridge(attack, ThreatModel("linf", 0.1))
    if at is None:
        attack(model, images, labels)
    else:
        with pytest.raises(RuntimeError, match="planted") as caught:
            attack(model, images, labels)
        assert at == 1 or caught.value.__notes__ == [f"raised inside {attack.name}"]
    assert [module.training for module in model.inner.modules()] == [True, False] + [True] * 5
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]
    assert [p.grad is not None for p in model.parameters()] == [False] * 4 + [True, False]
    assert (model.inner[5].weight.grad == 1).all()
    assert all(torch.equal(value, buffers[key]) for key, value in model.state_dict().items())
    assert not model._forward_hooks
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_generators_of_a_library_are_seeded_from_the_streams(monkeypatch):
    drawn = []

    def run(task):
        drawn.append((torch.rand(()).item(), float(np.random.rand()), random.random(), task.seed))  # noqa: NPY002
        return (task.pixels,)

    planted(monkeypatch, run)
    attack, images = bridge("planted:Attack", ThreatModel("linf", 0.1)), torch.rand(4, 1, 4, 4)
    labels = torch.zeros(4, dtype=torch.int64)

    def model(images):
        return images.flatten(1)[:, :2] * torch.tensor([1.0, 0.0])

    order = torch.tensor([2, 0, 3, 1])
    attack(model, images, labels, Streams(0, range(4)))
    attack(model, images[order], labels, Streams(0, order))
    attack(model, images, labels, Streams(1, range(4)))
    attack(model, images, labels, Streams(0, range(4)))
    assert drawn[0] == drawn[1] == drawn[3]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))


def test_what_a_library_returns_is_made_finite_and_projected(monkeypatch):
    def run(task):
        found = task.pixels + 10 * torch.ones_like(task.pixels)
        found[:, :, 0] = torch.nan
        found[:, :, 1] = -torch.inf
        return (found,)

    planted(monkeypatch, run)
    images = torch.full((2, 1, 4, 4), 0.5)

    def model(images):
        total = images.flatten(1).sum(1)
        return torch.stack([torch.full_like(total, 8.1), total], 1)

    found = bridge("planted:Attack", ThreatModel("linf", 0.1))(model, images, torch.zeros(2, dtype=torch.int64))
    expected = images.clone()
    expected[:, :, 2:] = 0.6
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("returned", [lambda task: task.pixels[:1], lambda task: None, lambda task: (1, 2)])
def test_an_attack_that_returns_no_images_is_an_input_error(monkeypatch, returned):
    planted(monkeypatch, lambda task: (returned(task),))
    attack = bridge("planted:Attack", ThreatModel("linf", 0.1))
    with pytest.raises(InputError, match="planted:Attack"):
        attack(
            lambda images: images.flatten(1)[:, :2] - torch.tensor([-1.0, 0]),
            torch.rand(2, 1, 2, 2),
            torch.zeros(2).long(),
        )


def test_a_library_sees_a_module_that_hides_the_surrogate():
    inner = small_net().train()
    images, labels = examples(inner.eval())
    points = Points.of(images, labels, None, None)
    shielded = Shielded(inner, points, ThreatModel("linf", 0.1, (0.0, 2.0)), 0)
    shielded.train()
    shielded.zero_grad()
    assert not inner.training
    assert len(list(shielded.parameters())) == 1
    with torch.no_grad():
        torch.testing.assert_close(shielded(images), inner(2 * images))
        assert shielded(images.double()).dtype == torch.float64


# names and settings


def test_unknown_names_and_settings_are_input_errors_with_near_names():
    threat = ThreatModel("linf", 0.1)
    for wrong, near in (
        ("foolbox:LinfPDG", "did you mean 'foolbox:LinfPGD'"),
        ("folbox:LinfPGD", "did you mean 'foolbox:LinfPGD'"),
        ("foolbox", "LIBRARY:ATTACK"),
        ("foolbox:LinfPGD:2", "LIBRARY:ATTACK"),
    ):
        with pytest.raises(InputError, match=near) as caught:
            bridge(wrong, threat)
        assert caught.value.field == "attack"
        assert caught.value.value == wrong
    with pytest.raises(InputError, match=r"foolbox:LinfPGD\.step: got 3; expected a setting of this attack: .*steps"):
        bridge("foolbox:LinfPGD", threat, step=3)
    with pytest.raises(InputError, match=r"foolbox:VirtualAdversarialAttack\.steps"):
        bridge("foolbox:VirtualAdversarialAttack", ThreatModel("l2", 1))
    with pytest.raises(InputError, match="library"):
        members("nothing")
    with pytest.raises(InputError, match="threat"):
        bridge("foolbox:LinfPGD", "linf")


@pytest.mark.parametrize("attack", ["LinfPGD", "L2PGD", "L1PGD", "L2AdditiveUniformNoiseAttack"])
def test_an_attack_in_another_norm_is_refused(attack):
    own = "linf" if attack.startswith("Linf") else attack[:2].lower()
    for norm, eps in NORMS.items():
        if norm == own:
            assert Bridge(ThreatModel(norm, eps), attack=f"foolbox:{attack}").threat.norm == norm
        else:
            with pytest.raises(InputError, match=f"moves in {own}$"):
                bridge(f"foolbox:{attack}", ThreatModel(norm, eps))


@pytest.mark.parametrize(
    ("attack", "module", "install"),
    [
        ("torchattacks:PGD", "torchattacks", "pip install torchattacks"),
        ("foolbox:LinfPGD", "foolbox.attacks", "pip install foolbox"),
        ("art:ProjectedGradientDescent", "art.attacks.evasion", "pip install adversarial-robustness-toolbox"),
        ("adv_lib:apgd", "adv_lib.attacks", "install github.com/jeromerony/adversarial-library"),
        ("advlib:apgd", "adv_lib.attacks", "install github.com/jeromerony/adversarial-library"),
    ],
)
def test_an_absent_library_is_one_clear_input_error(monkeypatch, attack, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=install) as caught:
        bridge(attack, ThreatModel("linf", 0.1))
    assert (caught.value.field, caught.value.value) == ("attack", attack)
    assert "\n" not in str(caught.value)


def test_nothing_is_imported_before_it_is_used():
    code = (
        "import sys, deconfound.attacks.bridges\n"
        "print([name for name in ('foolbox', 'torchattacks', 'art', 'adv_lib', 'torchvision') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_settings_are_json_and_hold_the_librarys_defaults():
    attack = bridge("foolbox:LinfPGD", ThreatModel("linf", 0.1), steps=7)
    found = json.loads(json.dumps(attack.settings()))
    assert found == attack.settings()
    assert (found["kind"], found["attack"], found["norm"], found["eps"]) == ("bridge", "foolbox:LinfPGD", "linf", 0.1)
    assert found["settings"] == {"rel_stepsize": 0.01 / 0.3, "abs_stepsize": None, "steps": 7, "random_start": True}
    assert found["version"]
    assert attack.name == "foolbox:LinfPGD"
    assert bridge("foolbox:LinfPGD", ThreatModel("linf", 0.1), name="theirs").name == "theirs"
    moved = attack.at(ThreatModel("linf", 0.2))
    assert moved == dataclasses.replace(attack, threat=ThreatModel("linf", 0.2))
    assert moved.at(attack.threat) == attack
    assert hash(moved.at(attack.threat)) == hash(attack)


def test_step_sizes_follow_the_radius_and_never_exceed_it():
    assert step_size(0.1, 10) == pytest.approx(0.025)
    assert step_size(0.1, 1) == 0.1
    assert step_size(0.1, None) == pytest.approx(0.125)


# libraries that may be absent


def present(attack):
    """Skips where the library of an attack does not import."""
    try:
        members(attack.split(":")[0])
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("box", BOXES)
def test_torchattacks_pgd_is_ours_without_a_random_start(box):
    present("torchattacks:PGD")
    model, images, labels, weight = equal_margins("linf", 0.05, box)
    threat, width = ThreatModel("linf", 0.05, box), box[1] - box[0]
    attack = bridge("torchattacks:PGD", threat, steps=5, alpha=0.01 / width, random_start=False)
    expected = images + 0.05 * weight.sign().view(1, 1, 4, 4)
    torch.testing.assert_close(attack(model, images, labels), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "norm", "settings"),
    [
        ("torchattacks:PGD", "linf", {}),
        ("torchattacks:FFGSM", "linf", {}),
        ("torchattacks:APGD", "l2", {}),
        ("torchattacks:APGDT", "linf", {}),
        ("torchattacks:FAB", "linf", {"steps": 4}),
        ("torchattacks:CW", "l2", {"c": 10.0, "steps": 20}),
        ("torchattacks:Square", "linf", {"n_queries": 100}),
        ("torchattacks:AutoAttack", "linf", {}),
        ("art:ProjectedGradientDescent", "linf", {"max_iter": 10}),
        ("art:ProjectedGradientDescent", "l2", {"max_iter": 10}),
        ("art:FastGradientMethod", "l1", {}),
        ("art:AutoProjectedGradientDescent", "linf", {"max_iter": 10, "nb_random_init": 1}),
        ("art:DeepFool", "l2", {"max_iter": 10}),
        ("art:SquareAttack", "linf", {"max_iter": 50}),
    ],
)
def test_other_libraries_keep_the_contract(attack, norm, settings):
    present(attack)
    model = small_net(5)
    images, labels = examples(model)
    made = bridge(attack, ThreatModel(norm, NORMS[norm]), **settings)
    assert check_contract(made, model, images, labels) > 0
    assert torch.equal(made(model, images, labels), made(model, images, labels))
    assert json.loads(json.dumps(made.settings())) == made.settings()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("attack", ["torchattacks:PGD", "art:ProjectedGradientDescent", "art:DeepFool"])
def test_other_libraries_work_with_few_classes(attack, classes):
    present(attack)
    model = small_net(classes)
    images, labels = examples(model)
    threat = ThreatModel("l2", 0.6) if attack == "art:DeepFool" else ThreatModel("linf", 0.1)
    assert check_contract(bridge(attack, threat), model, images, labels) > 0


def test_fixed_step_sizes_of_other_libraries_follow_the_radius():
    present("torchattacks:PGD")
    small = bridge("torchattacks:PGD", ThreatModel("linf", 0.01), steps=10)
    assert small.settings()["settings"]["alpha"] == pytest.approx(0.0025)
    assert small.at(ThreatModel("linf", 0.3)).settings()["settings"]["alpha"] == pytest.approx(0.075)
    chosen = bridge("torchattacks:PGD", ThreatModel("linf", 0.3), alpha=0.01)
    assert chosen.settings()["settings"]["alpha"] == 0.01
    for field in ("eps", "model", "seed"):
        with pytest.raises(InputError, match=rf"torchattacks:PGD\.{field}"):
            bridge("torchattacks:PGD", ThreatModel("linf", 0.3), **{field: 1})
    refused = bridge("torchattacks:Pixle", ThreatModel("linf", 0.3), restarts=-1)
    with pytest.raises(InputError, match="it says"):
        refused(small_net(), *examples(small_net()))


def test_art_shows_no_progress_bars(capfd):
    present("art:AutoAttack")
    model = small_net(5)
    images, labels = examples(model, 8)
    attack = bridge("art:AutoAttack", ThreatModel("linf", 0.5))  # all fall to its first attack
    assert attack(model, images, labels).shape == images.shape
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def adv_lib(monkeypatch):
    """adv-lib needs torchvision and visdom only for a perceptual distance and for plots; neither is used here."""
    pytest.importorskip("adv_lib")
    torchvision, visdom = types.ModuleType("torchvision"), types.ModuleType("visdom")
    torchvision.models, visdom.Visdom = types.ModuleType("torchvision.models"), object
    for name, module in (("torchvision", torchvision), ("torchvision.models", torchvision.models), ("visdom", visdom)):
        monkeypatch.setitem(sys.modules, name, module)
    yield
    for name in [name for name in sys.modules if name.startswith("adv_lib")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        ("apgd", "linf"),
        ("apgd", "l1"),
        ("pgd_linf", "linf"),
        ("fab", "l2"),
        ("fmn", "l1"),
        ("ddn", "l2"),
        ("fga", "l1"),
    ],
)
def test_adv_lib_keeps_the_contract(adv_lib, attack, norm):
    model = small_net(5)
    images, labels = examples(model)
    few = {"apgd": {"n_iter": 10}, "fab": {"n_iter": 10}, "ddn": {"steps": 30}}
    made = bridge(f"advlib:{attack}", ThreatModel(norm, NORMS[norm]), **few.get(attack, {}))
    assert made.attack == f"adv_lib:{attack}"
    assert check_contract(made, model, images, labels) > 0
    assert torch.equal(made(model, images, labels), made(model, images, labels))
    assert json.loads(json.dumps(made.settings())) == made.settings()


def test_adv_lib_pgd_is_ours_without_a_random_start(adv_lib):
    model, images, labels, weight = equal_margins("linf", 0.05)
    attack = bridge("adv_lib:pgd_linf", ThreatModel("linf", 0.05), steps=6, relative_step_size=0.2, random_init=False)
    expected = images + 0.05 * weight.sign().view(1, 1, 4, 4)
    torch.testing.assert_close(attack(model, images, labels), expected, rtol=0, atol=1e-6)
