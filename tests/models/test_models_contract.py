"""The contract that every name of the catalogue keeps. Joining the catalogue means being tested here."""

import copy
import itertools

import pytest
import torch
from torch import fx, nn

from deconfound.core.protocols import FeatureSplit
from deconfound.errors import InputError
from deconfound.models import Network, build, names, options_of, split_model

# Narrow forms of the same classes, so that all sizes can run; the full widths run once below.
NARROW = {
    "preact-resnet18": {"width": 4},
    "preact-resnet50": {"width": 2},
    "resnet18": {"width": 4},
    "resnet34": {"width": 4},
    "resnet50": {"width": 2},
    "vgg11": {"width": 4},
    "vgg13": {"width": 4},
    "vgg16": {"width": 4},
    "vit": {"width": 12, "depth": 2},
    "wrn": {"depth": 10, "widen": 1},
}
RANKS = {"mlp": 2, "vit": 3}  # vectors and tokens; all others have maps
HEAVY = ("wrn-28-10", "wrn-34-10")
LIGHT = [name for name in names() if name not in HEAVY]
SIZES = [16, 28, 32, (33, 40)]


def make(name, classes=10, channels=3, size=32, **options):
    return build(name, classes=classes, channels=channels, size=size, **{**NARROW.get(name, {}), **options}).eval()


def pictures(channels, size, count=2):
    height, width = (size, size) if isinstance(size, int) else size
    return torch.rand(count, channels, height, width)


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_split_and_gradient(name, channels):
    for size, (classes, bias) in zip(SIZES, itertools.cycle([(2, True), (100, False)])):
        model = make(name, classes, channels, size, mean=0.4, std=0.2, bias=bias)
        images = pictures(channels, size).requires_grad_()
        features = model.features(images)
        logits = model(images)
        assert features.shape == (2, model.last.in_features)
        assert logits.shape == (2, classes)
        assert torch.equal(model.head(features), logits)
        assert torch.equal(logits, model(images))
        assert model.last.weight.shape == (classes, features.shape[1])
        assert (model.last.bias is not None) == bias
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
        assert gradient.isfinite().all()
        assert (gradient.flatten(1) != 0).any(dim=1).all()
        assert isinstance(model, FeatureSplit)


@pytest.mark.parametrize("name", HEAVY)
def test_wide_networks_at_full_width(name):
    model = make(name, 10, 3, 8, dropout=0.3)
    images = pictures(3, 8, 1).requires_grad_()
    logits = model(images)
    assert torch.equal(model.head(model.features(images)), logits)
    assert logits.shape == (1, 10)
    assert torch.autograd.grad(logits.sum(), images)[0].abs().sum() > 0


@pytest.mark.parametrize("name", LIGHT)
def test_normalisation_inside_equals_normalising_by_hand(name):
    inside = make(name, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    outside = make(name)
    outside.load_state_dict(inside.state_dict())  # strict: normalisation adds no name
    images = pictures(3, 32)
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    std = torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1)
    assert torch.equal(inside(images), outside((images - mean) / std))
    assert not torch.equal(inside(images), outside(images))


@pytest.mark.parametrize("name", LIGHT)
def test_head_is_the_last_linear_layer(name):
    model = make(name)
    features = torch.randn(3, model.last.in_features)
    assert torch.equal(model.head(features), nn.functional.linear(features, model.last.weight, model.last.bias))


@pytest.mark.parametrize("name", LIGHT)
def test_channels_last_copy_and_functional_call_agree(name):
    model, images = make(name, mean=0.5, std=0.25), pictures(3, 32)
    logits = model(images)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(images.to(memory_format=torch.channels_last)), logits, rtol=1e-4, atol=1e-5)
    clone = copy.deepcopy(model)
    doubled = {key: 2 * value for key, value in dict(model.last.named_parameters(prefix="last")).items()}
    with torch.no_grad():
        clone.last.weight.mul_(2)
        clone.last.bias.mul_(2)
    assert torch.equal(model(images), logits), "a copy shares no parameter"
    place = next(key for key, module in model.named_modules() if module is model.last)
    swapped = {f"{place}.{key.removeprefix('last.')}": value for key, value in doubled.items()}
    assert torch.equal(torch.func.functional_call(model, swapped, (images,)), clone(images))


@pytest.mark.parametrize("name", LIGHT)
def test_is_traceable_as_a_whole(name):
    model, images = make(name, mean=0.5, std=0.25), pictures(3, 32)
    assert torch.equal(fx.symbolic_trace(model)(images), model(images))


@pytest.mark.parametrize("name", ["small", "resnet20", "wrn", "vgg11", "vit"])
def test_compiles_into_one_graph(name):
    model, images = make(name, mean=0.5, std=0.25), pictures(3, 32)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize("name", LIGHT)
def test_last_map_is_a_cut_before_pooling(name):
    model, images = make(name, mean=0.5, std=0.25), pictures(3, 32)
    parts = split_model(model, model.last_map)
    maps = parts.features(images)
    assert maps.ndim == RANKS.get(name, 4)
    assert torch.equal(parts.head(maps), model(images))
    assert parts.last is model.last


@pytest.mark.parametrize("name", LIGHT)
def test_below_the_minimum_is_refused_and_the_minimum_works(name):
    model = make(name)
    least = model.minimum
    assert make(name, size=least)(pictures(3, least)).shape == (2, 10)
    with pytest.raises(InputError, match=f"size: got {least - 1}; expected .* at least {least} pixels"):
        make(name, size=least - 1)
    with pytest.raises(InputError, match="size"):
        make(name, size=(32, least - 1))


@pytest.mark.parametrize("name", LIGHT)
def test_wrong_channel_count_is_refused(name):
    with pytest.raises(InputError, match="images"):
        make(name, channels=3)(pictures(1, 32))


@pytest.mark.parametrize("name", ["small", "lenet5", "smallcnn", "mlp", "vit"])
def test_networks_of_fixed_size_refuse_another_one(name):
    with pytest.raises(InputError, match="images: got '32 x 28 pixels'; expected 28 x 28 pixels"):
        make(name, size=28)(pictures(3, (32, 28)))


def test_training_and_evaluation_differ_only_where_they_should():
    model, images = make("smallcnn", dropout=0.5), pictures(3, 32)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_vgg_mlp_is_the_feature():
    model = make("vgg13", hidden=24)
    assert model.last.in_features == 24
    features = model.features(pictures(3, 32))
    assert features.shape == (2, 24)
    assert (features >= 0).all()


def test_vgg_parameter_names_do_not_depend_on_size():
    assert list(make("vgg16", size=16).state_dict()) == list(make("vgg16", size=64).state_dict())


def test_option_a_shortcut_is_subsampling_with_zero_channels():
    shortcut = make("resnet20").get_submodule("layer2.0.shortcut")
    maps = torch.rand(2, 16, 5, 6)
    carried = shortcut(maps)
    assert carried.shape == (2, 32, 3, 3)
    assert torch.equal(carried[:, 8:24], maps[:, :, ::2, ::2])
    assert carried[:, :8].abs().sum() == carried[:, 24:].abs().sum() == 0


def test_convolutions_start_by_he():
    model = make("resnet18", width=32)
    weight = model.get_submodule("layer4.1.conv1").weight
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    assert abs(weight.mean().item()) < 1e-3


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("resnet18", {"classes": 1}, "classes"),
        ("resnet18", {"classes": True}, "classes"),
        ("resnet18", {"channels": 0}, "channels"),
        ("resnet18", {"size": (32,)}, "size"),
        ("resnet18", {"size": 32.0}, "size"),
        ("resnet18", {"size": "32"}, "size"),
        ("resnet18", {"width": 0}, "width"),
        ("wrn", {"depth": 30}, "depth"),
        ("wrn", {"dropout": 1.0}, "dropout"),
        ("smallcnn", {"dropout": -0.1}, "dropout"),
        ("vgg16", {"hidden": -1}, "hidden"),
        ("resnet18", {"mean": 0.5}, "std"),
        ("vit", {"heads": 5}, "width"),
        ("vit", {"patch": 33}, "patch"),
        ("mlp", {"depth": 0}, "depth"),
    ],
)
def test_bad_values_are_named(name, changes, field):
    with pytest.raises(InputError, match=f"^{field}: ") as caught:
        make(name, **changes)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_options_suggest_the_nearest():
    with pytest.raises(InputError, match="did you mean 'resnet18'"):
        make("resnet81")
    with pytest.raises(InputError, match="did you mean 'width'"):
        make("resnet18", witdh=16)
    with pytest.raises(InputError, match="option of wrn-28-10: got 'widen'"):
        make("wrn-28-10", widen=2)
    with pytest.raises(InputError, match="model"):
        options_of("nothing-like-it")


def test_options_are_what_build_takes():
    assert options_of("resnet18") == ("bias", "width", "stem")
    assert options_of("wrn") == ("bias", "depth", "widen", "dropout")
    for name in names():
        assert "bias" in options_of(name)
    assert isinstance(make("small"), Network)
