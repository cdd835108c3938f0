"""What a training is refused for before anything of it moves or is written."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deconfound.errors import require
from deconfound.training.plan import check_shares
from deconfound.training.settings import AveragingSettings, LoopSettings


def check_training(players: Mapping[str, nn.Module], settings: LoopSettings, count: int, world: int) -> None:
    """Batches and averaging suit the players.

    Args:
        players: of the objective, by name.
        settings: of the loop.
        count: of training images.
        world: processes.

    Raises:
        InputError: as for ``check_batches`` and ``check_averaging``.
    """
    check_batches(players, count, settings.batch_size, world)
    check_averaging(settings.averaging, players)


def is_trained(player: nn.Module) -> bool:
    """Whether steps may move it: one parameter at least requires a gradient."""
    return any(parameter.requires_grad for parameter in player.parameters())


def check_batches(players: Mapping[str, nn.Module], count: int, batch_size: int, world: int) -> None:
    """A process's share of a batch is even, and not a single image where a trained player has BatchNorm.

    Of one image BatchNorm has no variance (or that of its places alone, for maps), and torch refuses vectors of it.

    Args:
        players: by name; those without a parameter to train are evaluated, and pass.
        count: of training images.
        batch_size: global.
        world: processes.

    Raises:
        InputError: it is uneven or too small.
    """
    size = min(batch_size, count)
    check_shares(size, world)
    if size // world > 1:
        return
    name = next((name for name, player in players.items() if is_trained(player) and _normalises(player)), None)
    field, shown = ("batch_size", batch_size) if batch_size <= count else ("data", f"{count} training images")
    least = f"at least {2 * world}, two images for each process, because BatchNorm in {name} normalises over them"
    require(name is None, field, shown, least)


def _normalises(player: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in player.modules())


def check_averaging(settings: AveragingSettings, players: Mapping[str, nn.Module]) -> None:
    """Averaging is of the model, and of a model that is trained without company.

    Weights averaged beside a style branch or a test function that are not would be of no pair that was ever trained,
    and those of a frozen network are no average.

    Raises:
        InputError: averaging is asked for, and the model is not the one player that is trained.
    """
    if settings.name == "none":
        return
    trained = [name for name, player in players.items() if is_trained(player)]
    rule = f"none, because the model alone is averaged, and what is trained here is {', '.join(trained) or 'nothing'}"
    require(trained == ["model"], "averaging.name", settings.name, rule)
