"""Networks from runs, weight files and names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from deconfound import models
from deconfound.errors import InputError, meant, nearest, require
from deconfound.models.external import PREFIXES
from deconfound.recipes.ciiv import sampled_network
from deconfound.recipes.hosts import under_noise
from deconfound.recipes.schema import Recipe, validated
from deconfound.store import RunFolder, read_weights
from deconfound.store.weights import digest_tensors


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A network in eval mode, and what its file says of it: recipe and class names (None for foreign weights)."""

    model: nn.Module
    name: str
    digest: str
    recipe: Recipe | None = None
    class_names: tuple[str, ...] | None = None
    shape: tuple[int, int, int] | None = None
    metadata: Mapping[str, Any] | None = None


def build_model(recipe: Recipe, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The network that a recipe names, its normalisation inside, behind its sampler or noise where it has one."""
    if recipe.sampler is not None:
        return sampled_network(recipe, classes, shape, recipe.sampler)
    options = dict(recipe.model_options)
    if recipe.normalisation is not None:
        options |= {"mean": recipe.normalisation.mean, "std": recipe.normalisation.std}
    network = models.build(recipe.model, classes=classes, channels=shape[0], size=shape[1:], **options)
    return under_noise(network, recipe)


def load(run: str | Path) -> nn.Module:
    """The network of a run folder (or of its ``model.safetensors``), in eval mode.

    Raises:
        InputError: no run there, a damaged file, or weights that do not fit.
    """
    return load_run(run).model


def load_run(run: str | Path) -> Loaded:
    """Like ``load``, with recipe, class names and digest."""
    require(isinstance(run, str | Path), "run", type(run).__name__, "the folder of a run, as train leaves it")
    path = Path(run)
    file = RunFolder(path).model if path.is_dir() else path
    if not file.is_file():
        begun = path.is_dir() and RunFolder(path).has_checkpoint()
        more = "; this run is unfinished, train with --resume and the same --out goes on" if begun else ""
        raise InputError("run", str(run), f"a folder with model.safetensors, as train leaves it{more}")
    _check_weights(file)
    tensors, metadata = read_weights(file, "run")
    if "recipe" not in metadata:
        raise InputError("run", str(run), "weights written by train; for foreign ones give a model name and --weights")
    recipe = validated(metadata["recipe"], str(file))
    shape = tuple(metadata["shape"])
    model = build_model(recipe, len(metadata["class_names"]), shape)
    models.fit_state(model, tensors, str(file))
    return Loaded(
        model=model.eval(),
        name=path.name or str(path),
        digest=digest_tensors(tensors),
        recipe=recipe,
        class_names=tuple(metadata["class_names"]),
        shape=shape,
        metadata=metadata,
    )


def _check_weights(file: Path) -> None:
    """Say what a file that holds no weights is, where its place or its name tells."""
    folder = RunFolder(file.parent)
    if file.suffix == ".py":
        raise InputError("run", str(file), f"a run folder; {file.stem}:NAME names a network that this file makes")
    if folder.model.is_file() and file.suffix not in (".safetensors", ".pt", ".pth"):
        raise InputError("run", str(file), f"a run folder, such as the one that this file is in, {file.parent}")


def is_network(name: str) -> bool:
    """Whether a name is that of a network: one of ours, or of the form LIBRARY:NAME."""
    return ":" in name or name in models.names()


def check_foreign(name: str, weights: str | Path | None) -> None:
    """Say early what is wrong with a network given by name.

    Raises:
        InputError: neither a run nor a known network, or one of ours or of another library without weights.
    """
    if ":" in name and not name.startswith(PREFIXES):
        return
    if not is_network(name):
        if re.search(r"[/\\]|^[.~]", name):
            rule = "a run folder that exists; there is none at this path (deconfound train RECIPE --out DIR makes one)"
            raise InputError("target", name, rule)
        known = (*models.names(), "timm:NAME", "torchvision:NAME", "MODULE:CALLABLE")
        hint = meant(nearest(name, known))
        raise InputError("target", name, f"a run folder that exists, or a network: {', '.join(known)}{hint}")
    if weights is None:
        raise InputError("weights", None, f"a file of weights (--weights): {name!r} names a network, not a trained one")


def load_foreign(
    name: str, weights: str | Path | None, classes: int, shape: tuple[int, int, int], options: Mapping[str, Any]
) -> Loaded:
    """A network by name with a file of weights.

    What a function of the user's own returns may be trained already; it needs no file.

    Raises:
        InputError: unknown name, weights that do not fit, or of a run whose network is more than this name says.
    """
    model = models.build(name, classes=classes, channels=shape[0], size=shape[1:], **options)
    if weights is not None:
        tensors, metadata = read_weights(weights)
        _check_plain(name, str(weights), metadata)
        models.fit_state(model, tensors, str(weights))
    return Loaded(model=model.eval(), name=name, digest=digest_of(model))


def _check_plain(name: str, weights: str, metadata: Mapping[str, Any]) -> None:
    """Weights that say what network they are of: the one that is named, with nothing around it and no options."""
    if "recipe" not in metadata:
        return
    recipe = validated(metadata["recipe"], weights)
    more = (recipe.normalisation, recipe.sampler, recipe.model_options, under_noise(nn.Identity(), recipe))
    plain = recipe.model == name and not any(more[:3]) and isinstance(more[3], nn.Identity)
    around = f"this run of {recipe.recipe} has more to it than the name says"
    rule = f"weights of {name} alone; {around}: deconfound evaluate {weights}"
    require(plain, "weights", weights, rule)


def digest_of(model: nn.Module) -> str:
    """Weights and buffers, also those that are not saved with them, such as a normalisation."""
    state = dict(model.state_dict())
    return digest_tensors(state | {f"unsaved {name}": b for name, b in model.named_buffers() if name not in state})
