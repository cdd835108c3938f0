"""The hub: reached, unreachable, without the name; and the data library kept silent."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace

import pytest

import deconfound.data.hub as hub
from deconfound.data.sources import load
from deconfound.errors import InputError


@pytest.fixture
def answer(monkeypatch):
    """Let the hub's first answer be a value or an error."""
    import huggingface_hub

    def install(result):
        def dataset_info(self, name, timeout):
            assert 0 < timeout <= 10
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)

    return install


def table(folder):
    import datasets

    with hub.quiet():
        return datasets.load_dataset(str(folder))


def test_a_hub_name_takes_the_same_path_as_a_folder(answer, monkeypatch, make_folder):
    import datasets

    folder = make_folder({"train": {"a": [0, 1], "b": [2]}, "test": {"a": [3], "b": [4]}})
    found, asked = table(folder), []
    answer("here")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: asked.append((name, options)) or found)
    data = load("owner/pets")
    assert asked == [("owner/pets", {})]  # in particular no remote code
    assert (len(data.train), len(data.test), data.class_names) == (3, 2, ("a", "b"))
    assert data.train.digest() == load(str(folder)).train.digest()


def test_unreachable_is_one_line_and_quick(answer, capfd):
    answer(OSError("[Errno -2] Name or service not known"))
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        load("owner/pets")
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert "\n" not in message
    assert "owner/pets" in message
    assert "cannot be reached" in message
    assert "cache" in message
    assert capfd.readouterr() == ("", "")


def test_unreachable_but_cached(answer, monkeypatch, make_folder):
    import datasets

    found = table(make_folder({"train": {"a": [0, 1], "b": [2]}}))

    def cached(name, **options):
        assert datasets.config.HF_HUB_OFFLINE  # or it would retry for twenty seconds
        return found

    answer(OSError("no route"))
    before = datasets.config.HF_HUB_OFFLINE
    monkeypatch.setattr(datasets, "load_dataset", cached)
    assert len(load("owner/pets").train) == 3
    assert datasets.config.HF_HUB_OFFLINE is before


def test_no_such_name_on_the_hub(answer):
    from huggingface_hub.errors import RepositoryNotFoundError

    response = SimpleNamespace(headers={}, request=None, status_code=404)
    answer(RepositoryNotFoundError("404\nmany\nlines", response=response))
    with pytest.raises(InputError, match="none of this name"):
        load("owner/pets")


def test_a_set_that_the_library_refuses_is_one_line(answer, monkeypatch):
    import datasets

    def refuse(name, **options):
        raise ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']")

    answer("here")
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError) as caught:
        load("owner/pets")
    assert "Config name is missing" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("failing", [False, True])
def test_settings_of_the_libraries_come_back(failing):
    import datasets
    from huggingface_hub import utils

    logging.getLogger("datasets").setLevel(logging.INFO)

    def settings():
        bars = datasets.are_progress_bars_disabled(), utils.are_progress_bars_disabled()
        return bars, [logging.getLogger(name).level for name in ("datasets", "huggingface_hub", "fsspec")]

    before = settings()
    try:
        with hub.quiet():
            assert datasets.are_progress_bars_disabled()
            assert not logging.getLogger("datasets").isEnabledFor(logging.CRITICAL)
            if failing:
                raise KeyError
    except KeyError:
        assert failing
    assert settings() == before
    logging.getLogger("datasets").setLevel(logging.WARNING)


def test_bars_that_were_off_stay_off():
    import datasets

    datasets.disable_progress_bars()
    try:
        with hub.quiet():
            pass
        assert datasets.are_progress_bars_disabled()
    finally:
        datasets.enable_progress_bars()


def test_nothing_is_shown_and_nothing_written_beside_the_data(make_folder, tmp_path, capfd):
    import datasets

    folder = tmp_path / "tables"
    found = table(make_folder({"train": {"a": [0, 1], "b": [2]}, "test": {"a": [3]}}))
    folder.mkdir()
    for split, rows in found.items():
        rows.to_parquet(str(folder / f"{split}.parquet"))
    capfd.readouterr()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    data = load(str(folder))
    data.train.digest()
    assert len(data.train) == 3
    assert capfd.readouterr() == ("", "")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not datasets.are_progress_bars_disabled()
