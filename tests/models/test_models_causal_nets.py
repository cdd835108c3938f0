"""h and g against recorded numbers, in all forms, and the cut they look at."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from deconfound.core.guards import statistics_kept
from deconfound.core.protocols import CausalFeatures, FeatureSplit
from deconfound.errors import InputError
from deconfound.models import (
    CausalFeatureMap,
    CiiV,
    Sampling,
    build,
    causal_net,
    feature_cut,
    probed_shape,
    split_model,
)
from deconfound.models.causal_nets import ConvolutionalNet, LinearNet
from toys import SplitNet


def renamed(key):
    """The authors' name of a layer as ours."""
    return key.replace(".conv.", ".").replace(".deconv.", ".")


def recorded_net(recorded, role):
    net = ConvolutionalNet(8)
    net.load_state_dict(
        {renamed(k.removeprefix(f"{role}.")): v for k, v in recorded.items() if k.startswith(f"{role}.")}
    )
    return net


@pytest.fixture
def recorded(shared):
    with np.load(shared / "golden" / "cafe_amr_gmm.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_both_networks_follow_the_recorded_ones(recorded):
    h, g = recorded_net(recorded, "h"), recorded_net(recorded, "g")
    residual = recorded["features_adversarial"] - recorded["features_natural"]
    with torch.no_grad():
        for name, net in (("h_of_z_train", h), ("g_of_z_train", g)):
            with statistics_kept(net):
                close(net(residual), recorded[name], 1e-4)
        h.eval()
        g.eval()
        close(g(residual), recorded["g_of_z"], 1e-5)
        close(h(recorded["g_of_z"]), recorded["h_of_g_of_z"], 1e-5)
        close(h(residual), recorded["h_of_z"], 1e-5)


def test_statistics_are_kept_inside_the_guard_and_move_outside():
    net, maps = ConvolutionalNet(4), torch.rand(3, 4, 5, 5)
    before = copy.deepcopy(net.state_dict())
    with statistics_kept(net):
        kept = net(maps)
    with pytest.raises(InputError), statistics_kept(net):
        net(maps[:, :2])
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(net(maps), kept)
    assert any(not torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(("shape", "kind"), [((6, 4, 3), ConvolutionalNet), ((5, 6), LinearNet), ((6,), LinearNet)])
def test_forms_keep_the_shape_and_every_weight_counts(shape, kind):
    net = causal_net(shape)
    assert type(net) is kind
    features = torch.randn(7, *shape)
    found = net(features)
    assert found.shape == features.shape
    (found**2).sum().backward()
    layers = [m for m in net.modules() if hasattr(m, "weight") and not isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(layers) == 7
    assert all(bool(layer.weight.grad.any()) for layer in layers)


def test_the_linear_form_is_the_convolutional_one_layer_for_layer():
    """On maps of 1 x 1 a 3x3 convolution is its centre, and the pool is the map."""
    maps, vectors = causal_net((5, 1, 1)).double().eval(), causal_net((5,)).double().eval()
    convolved = [m for m in maps.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    linear = [m for m in vectors.modules() if isinstance(m, nn.Linear)]
    linear.remove(vectors.linear[0])
    with torch.no_grad():
        for conv, dense in zip(convolved, linear, strict=True):
            centre = conv.weight[:, :, 1, 1]
            dense.weight.copy_(centre.T if isinstance(conv, nn.ConvTranspose2d) else centre)
            dense.bias.copy_(conv.bias)
    vectors.linear.load_state_dict(maps.linear.state_dict())
    rows = torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(vectors(rows), maps(rows[:, :, None, None])[:, :, 0, 0])


def test_tokens_meet_in_the_pool_alone():
    net, tokens = causal_net((4, 6)).eval(), torch.randn(2, 4, 6)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(tokens[:, order]), net(tokens)[:, order])
    one = net(tokens[:, :1])
    torch.testing.assert_close(one[:, 0], net(tokens[:, 0]))


def test_roles_and_seeds_start_apart_and_repeat():
    weights = [next(causal_net((4, 2, 2), role=r, seed=s).parameters()) for r, s in [("h", 0), ("g", 0), ("h", 1)]]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[0], next(causal_net((4, 2, 2)).parameters()))


@pytest.mark.parametrize(
    ("shape", "form", "line"),
    [
        ((16, 8), "convolutional", r"features: got \(16, 8\); expected maps \(c, h, w\) for the convolutional form"),
        ((8,), "convolutional", "features without spatial extent"),
        ((8, 4, 4), "linear", r"features: got \(8, 4, 4\); expected tokens"),
        ((8,), "round", "form: got 'round'; expected one of auto, convolutional, linear"),
        ((1, 2, 3, 4), "auto", "features: got"),
    ],
)
def test_forms_that_do_not_fit_are_refused(shape, form, line):
    with pytest.raises(InputError, match=line):
        causal_net(shape, form)


def test_features_of_another_shape_are_refused_when_called():
    with pytest.raises(InputError, match=r"features: got \(2, 7, 4\); expected maps \(B, 4, h, w\); features without"):
        causal_net((4, 3, 3))(torch.rand(2, 7, 4))
    with pytest.raises(InputError, match="features: got"):
        causal_net((4,))(torch.rand(2, 5))


CUTS = {
    "vgg16": ({"width": 4}, (32, 2, 2)),
    "resnet18": ({"width": 4}, (32, 4, 4)),
    "wrn": ({"depth": 10, "widen": 1}, (64, 8, 8)),
    "preact-resnet18": ({"width": 4}, (32, 4, 4)),
    "small": ({}, (32, 8, 8)),
    "mlp": ({}, (256,)),
    "vit": ({"width": 12, "depth": 1}, (64, 12)),
}


@pytest.mark.parametrize("name", CUTS)
def test_usual_cuts(name):
    options, shape = CUTS[name]
    model = build(name, classes=10, channels=3, size=32, mean=0.5, std=0.25, **options).eval()
    images = torch.rand(2, 3, 32, 32)
    cut = feature_cut(model, probe=images)
    assert isinstance(cut, FeatureSplit)
    assert probed_shape(cut, torch.zeros(1, 3, 32, 32)) == shape
    assert torch.equal(cut.head(cut.features(images)), model(images))
    causal = CausalFeatureMap(model, causal_net(shape))
    assert isinstance(causal, CausalFeatures)
    assert torch.equal(causal(images), model(images))


def test_where_the_usual_cuts_are():
    images = torch.rand(2, 3, 32, 32)
    vgg = build("vgg16", classes=10, channels=3, size=32, width=4).eval()
    assert (feature_cut(vgg).features(images) < 0).any()  # before its ReLU
    wide = build("wrn", classes=10, channels=3, size=32, depth=10, widen=1).eval()
    assert (feature_cut(wide).features(images) >= 0).all()  # behind it
    resnet = build("resnet18", classes=10, channels=3, size=32, width=4).eval()
    torch.testing.assert_close(feature_cut(resnet).features(images).mean(dim=(2, 3)), resnet.features(images))


def test_a_named_layer_and_one_that_does_not_exist():
    model = build("resnet18", classes=10, channels=3, size=32, width=4)
    assert probed_shape(feature_cut(model, "layer2"), torch.rand(1, 3, 32, 32)) == (8, 16, 16)
    with pytest.raises(
        InputError, match=r"^layer: got 'layer9'; expected one of .*layer4.*\(did you mean 'layer4'\?\)"
    ):
        CausalFeatureMap(model, causal_net((4, 2, 2)), "layer9")


def test_other_networks_are_cut_where_they_are_split():
    plain = SplitNet().eval()
    assert probed_shape(feature_cut(plain), torch.rand(1, 1, 8, 8)) == (16,)
    split = split_model(plain, "conv")
    assert probed_shape(feature_cut(split), torch.rand(1, 1, 8, 8)) == (4, 8, 8)


class TimmLike(nn.Module):
    """A transformer with timm's methods: tokens, their mean, a classifier."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.fc = nn.Conv2d(1, 6, 4, stride=4), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward_features(self, images):
        return self.norm(self.embed(images).flatten(2).transpose(1, 2))

    def forward_head(self, tokens, pre_logits=False):
        pooled = tokens.mean(dim=1)
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self):
        return self.fc

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


def test_timm_networks_are_cut_at_their_tokens_or_at_a_named_layer():
    images, split = torch.rand(2, 1, 8, 8), split_model(TimmLike().eval())
    cut = feature_cut(split, probe=images)
    assert probed_shape(cut, images) == (4, 6)
    assert probed_shape(split, images) == (6,)  # the other cut, before the last layer, is untouched
    assert torch.equal(cut.head(cut.features(images)), split(images))
    assert probed_shape(feature_cut(split, "embed"), images) == (6, 2, 2)


def test_ciiv_is_cut_at_its_expected_views():
    model = CiiV(SplitNet(channels=3), Sampling(loops=3), channels=1, size=8, mean=0.5, std=0.25).eval()
    images = torch.rand(2, 1, 8, 8)
    cut = feature_cut(model, probe=images)
    assert probed_shape(cut, images) == (3, 16)
    torch.testing.assert_close(cut.head(cut.features(images)), cut(images))


def test_the_hypothesis_speaks_of_the_difference():
    model = build("resnet18", classes=10, channels=3, size=16, width=2).eval()
    images, moved = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    causal = CausalFeatureMap(model, nn.Identity())
    natural, adversarial = causal.features(images), causal.features(moved)
    torch.testing.assert_close(causal.causal(natural, adversarial), model(moved))


def test_a_copy_shares_nothing_and_another_network_shares_h():
    model = build("resnet18", classes=10, channels=3, size=16, width=2)
    causal = CausalFeatureMap(model, causal_net((16, 2, 2)), "layer4")
    twin, other = copy.deepcopy(causal), causal.around(copy.deepcopy(model))
    own = {id(p) for p in causal.parameters()}
    assert own == {id(p) for p in (*model.parameters(), *causal.hypothesis.parameters())}
    assert not own & {id(p) for p in twin.parameters()}
    assert {id(p) for p in twin.network.parameters()} <= {id(p) for p in twin.parameters()}
    assert other.hypothesis is causal.hypothesis
    assert other.network is not model
    images = torch.rand(2, 3, 16, 16)
    for one in (causal, twin, other):
        one.eval()
    assert torch.equal(other.features(images), causal.features(images))
    assert torch.equal(twin.features(images), causal.features(images))
