"""What ``deconfound.evaluate`` is given, by its types: the usual mix-ups, each with what to give instead.

Shapes: N images (N, C, H, W), labels and index (N,) int64.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from deconfound.attacks.settings import check_threat
from deconfound.core.protocols import ImageSource
from deconfound.data import DataSet
from deconfound.errors import InputError, meant, nearest


def check_asked(model: object, images: object, labels: object, index: object, threat: object) -> None:
    """Model, images, labels, index and threat model are of types that can be judged; values are checked later.

    Raises:
        InputError: a type that is none of these, with what it takes to make it one.
    """
    check_threat(threat)
    _check_model(model)
    _check_images(images)
    if labels is not None and not isinstance(labels, Tensor):
        rule = "an int64 tensor of shape (N,), such as torch.as_tensor(labels)"
        raise InputError("labels", type(labels).__name__, rule)
    if index is not None and not isinstance(index, Tensor):
        rule = "an int64 tensor of places, such as torch.arange(100)"
        raise InputError("index", index if isinstance(index, int | range) else type(index).__name__, rule)


def check_settings(given: Iterable[str], known: Iterable[str]) -> None:
    """Every keyword is one.

    Raises:
        TypeError: an unknown one, with the nearest; how many images are judged is said by ``index``.
    """
    known = [*known, "index"]
    for name in given:
        if name not in known:
            near = "index" if name == "n" else nearest(name, known)
            raise TypeError(f"evaluate() got an unexpected keyword argument {name!r}{meant(near)}")


def _check_model(model: object) -> None:
    if isinstance(model, nn.Module):
        return
    advice = ""
    if isinstance(model, str):
        advice = "; deconfound.load(RUN) gives that of a run"
    elif isinstance(getattr(model, "model", None), nn.Module):
        advice = "; this one holds it as .model"
    raise InputError("model", type(model).__name__, f"a torch.nn.Module{advice}")


def _check_images(images: Any) -> None:
    if isinstance(images, Tensor | ImageSource):
        return
    advice = 'or a split such as deconfound.data.load("digits").test'
    if isinstance(images, DataSet):
        advice = "or a split of the data set: .test or .train"
    elif type(images).__module__ == "numpy":
        advice = "such as torch.from_numpy(images), with labels likewise"
    raise InputError("images", type(images).__name__, f"a float tensor (N, C, H, W) in [0, 1], {advice}")
