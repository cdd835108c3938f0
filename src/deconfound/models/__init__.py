"""Classifiers: networks by name, normalisation inside, any network split in features and head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.models.catalogue import about, build, names, options_of
    from deconfound.models.ciiv import CiiV
    from deconfound.models.ciiv_surrogates import ExpectedSurrogate, SampledSurrogate
    from deconfound.models.network import Network
    from deconfound.models.normalise import Normalise
    from deconfound.models.preact_resnet import PreActResNet
    from deconfound.models.resnet import ResNet
    from deconfound.models.sampler import Sampler, Sampling
    from deconfound.models.small import LeNet5, Small, SmallCNN
    from deconfound.models.smoothed import Smoothed
    from deconfound.models.split import Split, split_model
    from deconfound.models.vgg import VGG
    from deconfound.models.weights import fit_state
    from deconfound.models.wide_resnet import WideResNet

_HOME = {
    "CiiV": "ciiv",
    "ExpectedSurrogate": "ciiv_surrogates",
    "LeNet5": "small",
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
    "VGG": "vgg",
    "WideResNet": "wide_resnet",
    "about": "catalogue",
    "build": "catalogue",
    "fit_state": "weights",
    "names": "catalogue",
    "options_of": "catalogue",
    "split_model": "split",
}

__all__ = [
    "CiiV",
    "ExpectedSurrogate",
    "LeNet5",
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
    "VGG",
    "WideResNet",
    "about",
    "build",
    "fit_state",
    "names",
    "options_of",
    "split_model",
]


__getattr__ = exporter(__name__, _HOME)
