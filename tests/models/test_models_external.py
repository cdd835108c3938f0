"""Networks of other libraries under the same contract; each skips where the library is absent."""

import sys
import types

import pytest
import torch
from torch import nn

from deconfound.attacks import PGD
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch, Progress
from deconfound.errors import InputError
from deconfound.models import build, fit_state
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import CausalAdv
from deconfound.objectives.styled import StyleLoss, linear_layer


@pytest.fixture(scope="module")
def timm():
    """timm imports torchvision, whose PyPI wheel registers operators that a CPU-only torch does not have."""
    register = torch.library.register_fake

    def tolerant(op, *arguments, **keywords):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register(op, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.library, "register_fake", tolerant)
        return pytest.importorskip("timm", exc_type=ImportError)


@pytest.fixture(scope="module")
def torchvision(timm):
    return pytest.importorskip("torchvision", exc_type=ImportError)


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_efficientnet", "test_convnext", "vgg11"])
def test_timm_pooled_vector(timm, name, images):
    model = build(f"timm:{name}", classes=7, channels=3, size=32, mean=0.5, std=0.25).eval()
    features, logits = model.features(images), model(images)
    assert features.ndim == 2
    assert logits.shape == (2, 7)
    assert torch.equal(model.head(features), logits)
    assert model.last.weight.shape == (7, features.shape[1])
    assert torch.equal(logits, model.model((images - 0.5) / 0.25))


def test_timm_own_cut_and_named_layers(timm, images):
    whole = build("timm:resnet10t", classes=7, channels=3, size=32, layer="forward_features").eval()
    assert whole.features(images).ndim == 4
    assert torch.equal(whole.head(whole.features(images)), whole(images))
    named = build("timm:resnet10t", classes=7, channels=1, size=(33, 40), layer="layer3").eval()
    grey = torch.rand(2, 1, 33, 40)
    assert torch.equal(named.head(named.features(grey)), named(grey))
    assert named.last is named.model.fc
    tokens = build("timm:test_vit", classes=7, channels=3, size=32, layer="forward_features").eval()
    assert tokens.features(images).ndim == 3
    assert torch.equal(tokens.head(tokens.features(images)), tokens(images))


def test_timm_faults(timm):
    with pytest.raises(InputError, match="did you mean 'timm:resnet18'"):
        build("timm:resnett18", classes=7, channels=3, size=32)
    with pytest.raises(InputError, match=r"timm:resnet10t.*colour"):
        build("timm:resnet10t", classes=7, channels=3, size=32, colour="red")
    with pytest.raises(InputError, match="did you mean 'layer4'"):
        build("timm:resnet10t", classes=7, channels=3, size=32, layer="layer44")


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_torchvision(torchvision, name, images):
    model = build(f"torchvision:{name}", classes=7, channels=3, size=32).eval()
    assert model(images).shape == (2, 7)
    if name == "squeezenet1_1":  # ends in a convolution: it classifies, and a cut needs a name
        with pytest.raises(InputError, match="no split was found"):
            model.features(images)
        model = build(f"torchvision:{name}", classes=7, channels=3, size=32, layer="features").eval()
    else:
        assert model.last.out_features == 7
    assert torch.equal(model.head(model.features(images)), model(images))


def test_torchvision_faults(torchvision):
    with pytest.raises(InputError, match="did you mean 'torchvision:resnet18'"):
        build("torchvision:resnet81", classes=7, channels=3, size=32)
    with pytest.raises(InputError, match="channels: got 1"):
        build("torchvision:resnet18", classes=7, channels=1, size=32)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_an_absent_library_says_how_to_get_it(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"an importable {library} .*pip install 'deconfound\[{library}\]'"):
        build(f"{library}:resnet18", classes=7, channels=3, size=32)


@pytest.fixture
def foreign(monkeypatch):
    module = types.ModuleType("foreign_nets")

    def plain(classes, channels):
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * 1024, 8), nn.ReLU(), nn.Linear(8, classes))

    def sized(classes, size, depth=1):
        side = size if isinstance(size, int) else size[0]
        layers = [layer for _ in range(depth) for layer in (nn.Linear(8, 8), nn.Tanh())]
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 8), *layers, nn.Linear(8, classes))

    def greedy(**everything):
        assert set(everything) == {"classes", "channels", "size", "extra"}
        return plain(everything["classes"], everything["channels"])

    def wrong_classes():
        return plain(4, 3)

    def no_module(classes):
        return "net"

    def fails(classes):
        raise ZeroDivisionError("no luck")

    for function in (plain, sized, greedy, wrong_classes, no_module, fails):
        setattr(module, function.__name__, function)
    module.constant = 3
    monkeypatch.setitem(sys.modules, "foreign_nets", module)
    return module


def test_a_callable_gets_what_it_takes(foreign, images):
    for spec, options in [("plain", {}), ("sized", {"depth": 2}), ("greedy", {"extra": 1})]:
        model = build(f"foreign_nets:{spec}", classes=7, channels=3, size=32, mean=0.5, std=0.25, **options).eval()
        features = model.features(images)
        assert features.shape == (2, 8)
        assert torch.equal(model.head(features), model(images))
        assert torch.equal(model(images), model.model((images - 0.5) / 0.25))
        assert model.last.out_features == 7


def test_a_callable_with_a_layer_and_weights(foreign, images):
    model = build("foreign_nets:plain", classes=7, channels=3, size=32, layer="1").eval()
    assert (model.features(images) < 0).any()
    source = foreign.plain(7, 3)
    fit_state(model, source.state_dict())
    assert torch.equal(model(images), source(images))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("foreign_nets:plane", {}, "did you mean 'foreign_nets:plain'"),
        ("foreign_nets:constant", {}, "something that can be called"),
        ("foreign_nets:wrong_classes", {}, "7 classes in its output, not 4"),
        ("foreign_nets:no_module", {}, "returns a torch.nn.Module"),
        ("foreign_nets:fails", {}, "ZeroDivisionError: no luck"),
        ("foreign_nets:sized", {"dept": 2}, "did you mean 'depth'"),
        ("foreign_nets:plain", {"layer": "5"}, "layer: got '5'"),
        ("no_such_module_at_all:net", {}, "a module that can be imported .*ModuleNotFoundError"),
        (":net", {}, "a module that can be imported"),
    ],
)
def test_callable_faults(foreign, spec, options, message):
    with pytest.raises(InputError, match=message) as caught:
        build(spec, classes=7, channels=3, size=32, **options)
    assert "\n" not in str(caught.value)


def test_a_network_for_another_size_is_refused(foreign):
    with pytest.raises(InputError, match=r"a network that takes \(1, 3, 16, 16\) images, but RuntimeError"):
        build("foreign_nets:plain", classes=7, channels=3, size=16)


def test_a_network_that_draws_keeps_its_draw(monkeypatch):
    class Drawing(nn.Module):
        def draw(self, images, streams, draws):
            noise = streams.uniform((draws, 4)).transpose(0, 1)
            return images.flatten(1)[None, :, :4] + noise

        def attack_surrogates(self):
            return ()

    module = types.ModuleType("drawing_nets")
    module.net = lambda: Drawing()
    monkeypatch.setitem(sys.modules, "drawing_nets", module)
    made = build("drawing_nets:net", classes=4, channels=1, size=4)
    assert isinstance(made, Drawing)
    for field, options in (("mean", {"mean": 0.5, "std": 0.5}), ("layer", {"layer": "x"})):
        with pytest.raises(InputError, match=f"{field}: got .* methods of its own"):
            build("drawing_nets:net", classes=4, channels=1, size=4, **options)
    with pytest.raises(InputError, match="5 classes in its output, not 4"):
        build("drawing_nets:net", classes=5, channels=1, size=4)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_a_style_branch_beside_a_timm_network(timm, name, images):
    model = build(f"timm:{name}", classes=3, channels=3, size=32)
    last = linear_layer(model)
    assert last is model.last
    attack = PGD(ThreatModel("linf", 0.03), steps=1, keep="last", loss=StyleLoss())
    objective = CausalAdv(model, StyleBranch(last.in_features, 3), attack)
    batch = Batch(images, torch.tensor([0, 2]), torch.arange(2))
    steps = objective.steps(batch, Progress(epoch=1, epochs=2), Streams(0, batch.index))
    losses = {step.player: step.loss().total for step in steps}
    assert losses.keys() == {"style", "model"}
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_style_branch_needs_vectors_as_features(timm):
    maps = build("timm:resnet10t", classes=3, channels=3, size=32, layer="forward_features")
    with pytest.raises(InputError, match=r"^model: got 'ResNet'; .*model_options.layer=NAME"):
        linear_layer(maps)
