"""Fast surrogates: the same function as the model, or a lower rung."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deconfound.core.guards import attacking
from deconfound.errors import InputError
from deconfound.models import build, fit_state
from deconfound.models.fast import _BOUNDS, ITSELF, _ladder, _Probe, fast_surrogate, native_bfloat16
from foldable import (
    BatchStatistics,
    Body,
    ConvReused,
    Functional,
    InPlace,
    LinearNorm,
    NormAfterAddition,
    NormInBranch,
    NormShared,
    Pooled,
    ValueDependent,
    Weightnormed,
    awakened,
    images,
    norms,
)

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


FOLDS = {
    Body: (1, "float32, folded"),
    NormShared: (0, "float32, folded"),
    NormInBranch: (1, "float32, folded"),
    NormAfterAddition: (2, "float32, folded"),
    ConvReused: (0, "float32, folded"),
    Functional: (0, "float32, folded"),
    BatchStatistics: (1, "float32, folded"),
    InPlace: (0, "float32, folded"),
    Pooled: (0, "float32, folded"),
    LinearNorm: (1, "float32, folded"),
    Weightnormed: (1, "float32, folded"),
    ValueDependent: (2, ITSELF),
}


@pytest.fixture(params=FOLDS, ids=lambda kind: kind.__name__)
def kind(request):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return request.param, awakened(request.param())


def gradient(model, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).logsumexp(dim=1).sum(), x)[0]


def test_float32_rung_is_the_same_function(kind):
    made, model = kind
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fast_surrogate(model, images(), LABELS, precision="32")
    left, rung = FOLDS[made]
    assert found.rung == rung
    assert norms(found.classifier) == left
    for count, side in ((6, 8), (5, 8), (1, 8)):
        x = images(side=side, count=count)
        torch.testing.assert_close(found.classifier(x), model(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient(found.classifier, x), gradient(model, x), rtol=1e-3, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bfloat16_stays_near_and_keeps_types(kind):
    made, model = kind
    x = images()
    found = fast_surrogate(model, x, LABELS, precision="bf16")
    expected = "bfloat16, channels-last" if made is ValueDependent else "bfloat16, folded, channels-last"
    assert found.rung == expected, found.notes
    given = x.clone().requires_grad_()
    logits = found.classifier(given)
    (slope,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), given)
    assert (logits.dtype, slope.dtype) == (torch.float32, torch.float32)
    assert slope.stride() == x.stride(), "attacks may call view on it"
    assert found.agreement.logit_error > 0, "rounding shows, so this is bfloat16"
    assert torch.equal(logits, found.classifier(x)), "deterministic"


def test_the_model_is_left_as_it_is():
    model = Body().train()
    model.norm.eval()
    calls = []
    model.register_forward_hook(lambda *_: calls.append("called"))
    handles = dict(model._forward_hooks)
    flags = {name: value.requires_grad for name, value in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    made = fast_surrogate(model, images(), LABELS, precision="32")
    heard = len(calls)
    made.classifier(images())
    assert len(calls) == heard, "hooks are not taken along"
    assert dict(model._forward_hooks) == handles
    assert {name: value.requires_grad for name, value in model.named_parameters()} == flags
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert not made.classifier.training
    assert not any(parameter.requires_grad for parameter in made.classifier.parameters())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in made.classifier.parameters())


class Drawing(Body):
    def draw(self, x, streams, draws):
        return self(x).expand(draws, -1, -1)


class Noisy(Body):
    def maps(self, x):
        return super().maps(x + 0.01 * torch.randn_like(x))


def test_what_is_not_doubled():
    for model, x, reason in (
        (Drawing(), images(), "draws"),
        (Noisy(), images(), "asked twice"),
        (Body().double(), images().double(), "float64"),
        (Body().bfloat16(), images(), "bfloat16"),
    ):
        found = fast_surrogate(model, x, LABELS, precision="bf16")
        assert found.classifier is model
        assert found.rung == ITSELF
        assert len(found.notes) == 1
        assert reason in found.notes[0]


class Switching(Body):
    """A tensor made while tracing: its fold holds the branch of the batch size that was tried."""

    def maps(self, x):
        return super().maps(x) * (0.1 if torch.is_tensor(x) and type(x) is torch.Tensor else 5.0)


def test_a_planted_wrong_double_is_refused():
    model = awakened(Switching())
    found = fast_surrogate(model, images(), LABELS, precision="32")
    assert found.rung == ITSELF
    assert found.notes[0].startswith("float32, folded: logits differ by")
    lower_rung = fast_surrogate(model, images(), LABELS, precision="bf16")
    assert lower_rung.rung == "bfloat16, channels-last"


def test_agreement_sees_logits_and_gradients_apart():
    model, x = awakened(Body()), images()

    class Masked(nn.Module):
        def forward(self, given):
            return model(given.detach()) + 0 * given.sum()

    class Shifted(nn.Module):
        def forward(self, given):
            return model(given) + torch.tensor([0.0, 0.0, 1.0])

    with attacking("eval", "cpu", model):
        probe = _Probe(model, x, LABELS)
        assert probe.agreement(model) == (0, 1)
        assert probe.agreement(Masked()).logit_error == 0
        assert probe.agreement(Masked()).gradient_share < _BOUNDS[torch.bfloat16].gradient_share
        assert probe.agreement(Shifted()).gradient_share == 1
        assert probe.agreement(Shifted()).logit_error > _BOUNDS[torch.bfloat16].logit_error


def test_the_ladder_depends_on_size_and_machine(monkeypatch):
    small = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    large = nn.Sequential(nn.Flatten(), nn.Linear(192, 4000), nn.Linear(4000, 3))
    for native in (True, False):
        monkeypatch.setattr("deconfound.models.fast.native_bfloat16", lambda _, native=native: native)
        assert [rung.name for rung in _ladder(small, images(), "auto")] == ["float32, folded"]
        rungs = [rung.name for rung in _ladder(large, images(), "auto")]
        assert rungs[0].startswith("bfloat16" if native else "float32")
        assert [rung.name for rung in _ladder(large, images(), "32")] == ["float32, folded"]
        assert len(list(_ladder(small, images(), "bf16"))) == 4
    with pytest.raises(InputError, match="precision"):
        fast_surrogate(small, images(), LABELS, precision="16")


def test_native_bfloat16_is_a_fact_of_the_device():
    assert native_bfloat16("cpu") is native_bfloat16(torch.device("cpu"))
    assert not native_bfloat16("meta")


@pytest.mark.parametrize(
    ("file", "name", "share"),
    [
        ("mnist_small_pgd.pth", "small", 0.98),
        ("mnist_lenet5_adv.pt", "lenet5", 0.75),
        ("mnist_lenet5_clean.pt", "lenet5", 0.98),
        ("cifar10_resnet20_clean.th", "resnet20", 0.95),
    ],
)
def test_trained_networks_reach_the_top_rung(shared, file, name, share):
    channels, side = (3, 32) if name == "resnet20" else (1, 28)
    levels = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)} if name == "resnet20" else {}
    model = build(name, classes=10, channels=channels, size=side, **levels)
    fit_state(model, torch.load(shared / "weights" / file, weights_only=True, map_location="cpu"), file)
    x = F.interpolate(images(channels, 7, 16), side, mode="bilinear")
    found = fast_surrogate(model, x, torch.arange(16) % 10, precision="bf16")
    assert found.rung == "bfloat16, folded, channels-last"
    assert found.agreement.logit_error < 0.02
    assert found.agreement.gradient_share > share


def test_a_compiled_double_climbs_like_the_plain_one():
    """Traced and differentiated ahead of time, without a code generator; several sizes, one program."""
    model, x = awakened(Body()), images()
    plain = fast_surrogate(model, x, LABELS, precision="32")
    made = fast_surrogate(model, x, LABELS, precision="32", compiler="aot_eager")
    assert (made.rung, made.notes) == (f"{plain.rung}, compiled", ())
    for count in (1, 3, 6):
        (first, one), (second, two) = (climbed(net, x[:count]) for net in (plain.classifier, made.classifier))
        torch.testing.assert_close(second, first)
        torch.testing.assert_close(two, one)
    with torch.no_grad():
        kept = made.classifier(x)
        made.classifier(x.flip(0))
    torch.testing.assert_close(kept, plain.classifier(x))  # no later call writes into it


def climbed(net, x):
    x = x.clone().requires_grad_()
    logits = net(x)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    return logits.detach(), gradient


def test_what_does_not_compile_is_climbed_as_it_is():
    made = fast_surrogate(awakened(Body()), images(), LABELS, precision="32", compiler="no such backend")
    assert "compiled" not in made.rung
    assert len(made.notes) == 1
    assert made.notes[0].startswith(f"{made.rung}, compiled: ")
