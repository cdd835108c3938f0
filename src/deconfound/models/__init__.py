"""Classifiers: networks by name, normalisation inside, any network split in features and head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.models.catalogue import about, build, names, options_of
    from deconfound.models.causal_nets import ConvolutionalNet, LinearNet, causal_net
    from deconfound.models.ciiv import CiiV
    from deconfound.models.ciiv_surrogates import ExpectedSurrogate, SampledSurrogate
    from deconfound.models.feature_map import CausalFeatureMap, feature_cut, probed_shape
    from deconfound.models.mlp import MLP
    from deconfound.models.network import Network
    from deconfound.models.normalise import Normalise
    from deconfound.models.preact_resnet import PreActResNet
    from deconfound.models.resnet import ResNet
    from deconfound.models.sampler import Sampler, Sampling
    from deconfound.models.small import LeNet5, Small, SmallCNN
    from deconfound.models.smoothed import Smoothed
    from deconfound.models.split import Split, split_model
    from deconfound.models.style_branch import StyleBranch
    from deconfound.models.vgg import VGG
    from deconfound.models.vit import ViT
    from deconfound.models.weights import fit_state
    from deconfound.models.wide_resnet import WideResNet

_HOME = {
    "CausalFeatureMap": "feature_map",
    "CiiV": "ciiv",
    "ConvolutionalNet": "causal_nets",
    "ExpectedSurrogate": "ciiv_surrogates",
    "LeNet5": "small",
    "LinearNet": "causal_nets",
    "MLP": "mlp",
    "Network": "network",
    "Normalise": "normalise",
    "PreActResNet": "preact_resnet",
    "ResNet": "resnet",
    "SampledSurrogate": "ciiv_surrogates",
    "Sampler": "sampler",
    "Sampling": "sampler",
    "Small": "small",
    "SmallCNN": "small",
    "Smoothed": "smoothed",
    "Split": "split",
    "StyleBranch": "style_branch",
    "VGG": "vgg",
    "ViT": "vit",
    "WideResNet": "wide_resnet",
    "about": "catalogue",
    "build": "catalogue",
    "causal_net": "causal_nets",
    "feature_cut": "feature_map",
    "fit_state": "weights",
    "names": "catalogue",
    "options_of": "catalogue",
    "probed_shape": "feature_map",
    "split_model": "split",
}

__all__ = [
    "CausalFeatureMap",
    "CiiV",
    "ConvolutionalNet",
    "ExpectedSurrogate",
    "LeNet5",
    "LinearNet",
    "MLP",
    "Network",
    "Normalise",
    "PreActResNet",
    "ResNet",
    "SampledSurrogate",
    "Sampler",
    "Sampling",
    "Small",
    "SmallCNN",
    "Smoothed",
    "Split",
    "StyleBranch",
    "VGG",
    "ViT",
    "WideResNet",
    "about",
    "build",
    "causal_net",
    "feature_cut",
    "fit_state",
    "names",
    "options_of",
    "probed_shape",
    "split_model",
]


__getattr__ = exporter(__name__, _HOME)
