"""Splitting any module at a layer: exact, shared, and refused where the cut is not clean."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deconfound.core.protocols import FeatureSplit
from deconfound.errors import InputError
from deconfound.models import Normalise, build, split_model


class Residual(nn.Module):
    """Traceable, with a skip connection, a layer used twice, an unused one, a tuple and in-place activations."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("shift", torch.tensor(0.25))
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.twice = nn.Conv2d(4, 4, 1)
        self.recurrent = nn.LSTM(4, 5, batch_first=True)
        self.unused = nn.Linear(3, 3)
        self.fc = nn.Linear(5, 6)

    def forward(self, images, weight=None):
        if weight is not None:
            images = images * weight
        maps = self.act(self.norm(self.stem(images))) * self.scale + self.shift
        maps = self.body(maps) + maps
        maps = self.twice(self.twice(maps))
        maps = F.dropout(maps, 0.5, training=self.training)
        sequence, _ = self.recurrent(maps.flatten(2).transpose(1, 2))
        return self.fc(sequence.mean(dim=1))


@pytest.fixture
def images():
    return torch.rand(4, 3, 8, 8)


@pytest.mark.parametrize("layer", ["stem", "norm", "act", "fc"])
def test_head_after_features_is_the_model(layer, images):
    model = Residual().eval()
    parts = split_model(model, layer)
    assert isinstance(parts, FeatureSplit)
    assert torch.equal(parts.head(parts.features(images)), model(images))
    assert torch.equal(parts(images), model(images))


def test_features_are_what_the_layer_gives(images):
    model = Residual().eval()
    assert torch.equal(split_model(model, "norm").features(images), model.norm(model.stem(images)))
    assert torch.equal(split_model(model, "norm", at="input").features(images), model.stem(images))


def test_without_a_layer_the_input_of_the_last_linear(images):
    model = Residual().eval()
    parts = split_model(model)
    features = parts.features(images)
    assert features.shape == (4, 5)
    assert parts.last is model.fc
    assert torch.equal(model.fc(features), model(images))


def test_the_head_leaves_the_callers_tensor_alone(images):
    model = Residual().eval()
    parts = split_model(model, "norm")  # an in-place ReLU follows
    features = parts.features(images)
    before = features.clone()
    parts.head(features)
    assert (before < 0).any()
    assert torch.equal(features, before)
    leaf = before.detach().clone().requires_grad_()
    parts.head(leaf).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_parameters_are_shared_and_listed_once(images):
    model = Residual().eval()
    parts = split_model(model, "norm")
    assert list(parts.state_dict()) == ["model." + name for name in model.state_dict()]
    assert sum(1 for _ in parts.parameters()) == sum(1 for _ in model.parameters())
    with torch.no_grad():
        model.scale.mul_(3)
        model.shift.add_(1)
        model.fc.weight.mul_(2)
    assert torch.equal(parts.head(parts.features(images)), model(images))
    parts.head(parts.features(images)).sum().backward()
    assert model.scale.grad is not None
    assert model.stem.weight.grad is not None
    doubled = parts.double()
    assert doubled.features(images.double()).dtype == torch.float64
    assert torch.equal(doubled.head(doubled.features(images.double())), model(images.double()))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda parts: pickle.loads(pickle.dumps(parts))])
@pytest.mark.parametrize("layer", ["norm", None])
def test_copies_are_independent(copied, layer, images):
    parts = split_model(Residual().eval(), layer)
    twin = copied(parts)
    assert torch.equal(twin.head(twin.features(images)), parts(images))
    with torch.no_grad():
        twin.model.scale.mul_(7)
        twin.model.fc.bias.add_(1)
    assert torch.equal(twin.head(twin.features(images)), twin.model(images))
    assert torch.equal(parts.head(parts.features(images)), parts.model(images))
    assert not torch.equal(twin(images), parts(images))


def test_the_mode_is_the_models_own_also_for_functional_dropout(images):
    model = Residual().train()
    parts = split_model(model, "norm")
    assert model.training
    features = parts.features(images)
    torch.manual_seed(1)
    first = parts.head(features)
    assert not torch.equal(parts.head(features), first), "dropout draws in training"
    torch.manual_seed(1)
    assert torch.equal(parts.head(features), first)
    model.eval()
    assert torch.equal(parts.head(parts.features(images)), parts.head(parts.features(images)))
    assert torch.equal(parts.head(parts.features(images)), model(images))


def test_splitting_changes_no_state(images):
    model = Residual()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    split_model(model, "norm", probe=images)
    assert [m.training for m in model.modules()].count(False) == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_normalisation_in_front(images):
    model, normalise = Residual().eval(), Normalise(0.5, 0.25, channels=3)
    parts = split_model(model, "stem", normalise=normalise, probe=images)
    assert torch.equal(parts.features(images), model.stem((images - 0.5) / 0.25))
    assert torch.equal(parts.head(parts.features(images)), model((images - 0.5) / 0.25))
    again = split_model(parts, "norm")
    assert again.model is model
    assert torch.equal(again(images), parts(images))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("body.1", "the images reach the output around this one too"),
        ("body", "the images reach the output around this one too"),
        ("twice", "runs once in a forward pass; this one runs 2 times"),
        ("unused", "this one runs 0 times"),
        ("stemm", "did you mean 'stem'"),
        ("", "expected one of stem, norm"),
    ],
)
def test_unclean_cuts_are_refused(layer, message):
    with pytest.raises(InputError, match=message) as caught:
        split_model(Residual(), layer)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("layer: ")


def test_a_layer_that_gives_a_tuple_is_refused(images):
    parts = split_model(Residual().eval(), "recurrent")
    with pytest.raises(InputError, match="one tensor; this gives tuple"):
        parts.features(images)
    with pytest.raises(InputError, match="one tensor"):
        split_model(Residual(), "recurrent", probe=images)


def test_unknown_layers_of_deep_networks_are_listed_briefly():
    with pytest.raises(InputError, match=r"layers inside these \(did you mean 'layer4'\?\)") as caught:
        split_model(build("resnet18", classes=10, channels=3, size=32, width=4), "layer5")
    assert len(str(caught.value)) < 250


class Branching(nn.Module):
    """Decides by the data, which no tracing can follow; its block is traceable."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
        self.fc = nn.Linear(5, 3)

    def forward(self, images):
        features = self.block(images)
        return self.fc(features if features.sum() > 0 else -features)


def test_untraceable_models_still_classify_and_say_why(images):
    model = Branching().eval()
    parts = split_model(model)
    assert torch.equal(parts(images), model(images))
    with pytest.raises(InputError, match=r"no split was found without one .*TraceError"):
        parts.features(images)
    with pytest.raises(InputError, match="no split"):
        parts.head(torch.rand(4, 5))
    with pytest.raises(InputError, match="logits come from one linear layer"):
        _ = parts.last
    with pytest.raises(InputError, match="a layer inside modules that torch"):
        split_model(model, "fc")


def test_control_flow_inside_other_modules_does_not_matter(images):
    model = nn.Sequential(Branching(), nn.ReLU(), nn.Linear(3, 4)).eval()
    parts = split_model(model, "1")
    assert torch.equal(parts.features(images), model[:2](images))
    assert torch.equal(parts.head(parts.features(images)), model(images))
    assert torch.equal(split_model(model).features(images), parts.features(images))


class WithMethods(nn.Module):
    """Brings its own split, which no tracing is needed for."""

    def __init__(self, honest=True):
        super().__init__()
        self.inner, self.last, self.honest = Branching(), nn.Linear(3, 4), honest

    def features(self, images):
        return self.inner(images)

    def head(self, features):
        return self.last(features) if self.honest else -self.last(features)

    def forward(self, images):
        return self.last(self.inner(images))


def test_a_models_own_methods_come_first_and_are_checked(images):
    model = WithMethods().eval()
    parts = split_model(model, probe=images)
    assert torch.equal(parts.features(images), model.features(images))
    assert parts.last is model.last
    liar = split_model(WithMethods(honest=False).eval(), probe=images)
    assert torch.equal(liar.head(liar.features(images)), liar(images))


class SubmodulesOfThatName(nn.Module):
    """``features`` and ``head`` are layers here, and do not make up the model."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, images):
        return self.head(self.features(images).relu_().mean(dim=(2, 3)))


def test_layers_called_features_and_head_are_no_split(images):
    model = SubmodulesOfThatName().eval()
    parts = split_model(model)
    assert parts.features(images).shape == (4, 4)
    assert torch.equal(parts.head(parts.features(images)), model(images))
    at_maps = split_model(model, "features")
    maps = at_maps.features(images)
    assert torch.equal(at_maps.head(maps), model(images))
    assert torch.equal(maps, at_maps.features(images)), "relu_ in the head wrote to a copy"


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("resnet18", "layer4", (4, 32, 1, 1)),
        ("resnet18", "layer3.0", (4, 16, 2, 2)),
        ("resnet18", "bn1", (4, 4, 8, 8)),
        ("wrn", "relu", (4, 64, 2, 2)),
        ("vgg16", "layers.41", (4, 32, 1, 1)),
        ("preact-resnet18", "layer2", (4, 8, 4, 4)),
    ],
)
def test_our_networks_give_maps_at_named_layers(name, layer, shape, images):
    options = {"depth": 10, "widen": 1} if name == "wrn" else {"width": 4}
    model = build(name, classes=7, channels=3, size=8, mean=0.5, std=0.25, **options).eval()
    parts = split_model(model, layer)
    assert parts.features(images).shape == shape
    assert torch.equal(parts.head(parts.features(images)), model(images))


def test_vgg_cut_is_before_the_relu(images):
    model = build("vgg16", classes=7, channels=3, size=8, width=4).eval()
    assert model.last_map == "layers.41"
    assert (split_model(model, model.last_map).features(images) < 0).any()


def test_compiles(images):
    model = build("resnet18", classes=7, channels=3, size=8, width=4).eval()
    parts = split_model(model, "layer4")
    features = torch.compile(parts.features, backend="eager")(images)
    torch.testing.assert_close(features, parts.features(images))


def test_bad_place():
    with pytest.raises(InputError, match="at: got 'middle'"):
        split_model(Residual(), "stem", at="middle")
