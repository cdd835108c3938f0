"""The ``datasets`` library kept silent, and the hub reached quickly or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deconfound.errors import InputError, reason

TIMEOUT = 5.0  # seconds for the first answer; the library's own retries take over twenty
_LOGGERS = ("datasets", "huggingface_hub", "fsspec", "filelock")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no log line of the data libraries inside; their settings come back, also after an error."""
    import datasets
    from huggingface_hub import utils as hub

    levels = [(logger, logger.level) for logger in map(logging.getLogger, _LOGGERS)]
    # Where the user's environment decides about bars, the libraries warn of being told something else.
    bars = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is None and not datasets.are_progress_bars_disabled()
    hub_bars = hub.are_progress_bars_disabled()
    try:
        for logger, _ in levels:
            logger.setLevel(logging.CRITICAL + 1)
        if bars:
            datasets.disable_progress_bars()
        if not hub_bars:
            hub.disable_progress_bars()
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
        if not hub_bars:
            hub.enable_progress_bars()


@contextmanager
def _offline() -> Iterator[None]:
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _missing(name: str) -> str:
    """Why the hub gave no answer within the time limit; empty where it did.

    Raises:
        InputError: the hub answered that there is no such data set, or none for this user.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=TIMEOUT)
    except (RepositoryNotFoundError, HFValidationError):  # also where access has to be asked for
        raise InputError("data", name, "a data set on the hub; there is none of this name that may be read") from None
    except HfHubHTTPError as error:
        return f"the hub answered with {reason(error)}"
    except Exception as error:  # names of network errors differ between the library's versions
        return f"the hub cannot be reached ({reason(error)})"
    return ""


def reach(name: str, otherwise: str = "") -> Mapping[str, Any]:
    """The splits of a hub data set, from the library's cache where the hub does not answer.

    Args:
        name: ``owner/name``.
        otherwise: end of the message when it is neither on the hub nor in the cache.

    Raises:
        InputError: in one line and within seconds, what stands in the way.
    """
    import datasets

    silence = _missing(name)
    try:
        if not silence:
            return datasets.load_dataset(name)
        with _offline():
            return datasets.load_dataset(name)
    except Exception as error:
        if silence:
            raise InputError(
                "data", name, f"a data set on the hub, but {silence} and it is not in the cache{otherwise}"
            ) from None
        raise InputError("data", name, f"a hub data set that can be loaded as it is ({reason(error)})") from None
