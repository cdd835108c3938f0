"""The job behind ``deconfound list``: what there is, with a line on each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deconfound.errors import unknown_name


def _recipes() -> list[tuple[str, str]]:
    from deconfound.recipes.resolve import about, names

    return [(name, about(name)) for name in names()]


def _models() -> list[tuple[str, str]]:
    from deconfound import models

    return [
        *((name, models.about(name)) for name in models.names()),
        ("timm:NAME", "any network of timm (extra: timm)"),
        ("torchvision:NAME", "any classifier of torchvision (extra: torchvision)"),
        ("MODULE:CALLABLE", "your own: a function that returns a torch.nn.Module"),
    ]


def _data() -> list[tuple[str, str]]:
    from deconfound.data.overlays import OVERLAYS

    first, *others = OVERLAYS
    return [
        ("digits", "scikit-learn's bundled handwritten digits, 16x16; nothing to download"),
        ("shapes", "generated discs, squares and triangles, 64x64, on patches whose colour agrees with the class"),
        ("shapes:rho=R", "with probability R instead of 0.917; likewise train=N, test=N, seed=N, joined by commas"),
        ("DATA:train=N", "the first N training images of any data set; likewise test=N"),
        (
            f"DATA+{first}:rho=R",
            f"any data set with {OVERLAYS[first].what} that agrees with the class with probability R",
        ),
        *((f"DATA+{name}:rho=R", f"likewise with {OVERLAYS[name].what}; seed=N draws others") for name in others),
        ("FOLDER", "images on disk: Hugging Face layout (parquet), or train/CLASS/*.png and test/CLASS/*.png"),
        ("OWNER/NAME", "a data set of the Hugging Face hub, for example uoft-cs/cifar10"),
        ("MODULE:CALLABLE", "your own: a function that returns {'train': (images, labels), 'test': ...}"),
    ]


def _attacks() -> list[tuple[str, str]]:
    from deconfound.attacks import about, names

    return [
        *((name, about(name)) for name in names()),
        ("LIBRARY:ATTACK", "of torchattacks, foolbox, art or adv_lib"),
        ("module:callable", "your own: a callable of a threat model and settings that returns an attack"),
    ]


def _suites() -> list[tuple[str, str]]:
    from deconfound.attacks import suites

    return [*((name, suites.about(name)) for name in suites.names()), *suites.SINGLE_ATTACKS.items()]


def _objectives() -> list[tuple[str, str]]:
    from deconfound.recipes.registry import OBJECTIVES

    return [(name, entry.about) for name, entry in OBJECTIVES.items()]


def _studies() -> list[tuple[str, str]]:
    from deconfound.recipes.study_file import about, names

    return [(name, about(name)) for name in names()]


KINDS: Mapping[str, Callable[[], list[tuple[str, str]]]] = {
    "recipes": _recipes,
    "models": _models,
    "data": _data,
    "attacks": _attacks,
    "suites": _suites,
    "objectives": _objectives,
    "studies": _studies,
}


def listing(kind: str) -> list[tuple[str, str]]:
    """Names of a kind with one line on each.

    Raises:
        InputError: no such kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    return KINDS[kind]()
