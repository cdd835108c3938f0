"""Checkpoints: plain to open, damage is noticed, and an intact one is there at every moment."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from deconfound.errors import InputError
from deconfound.store import CheckpointFile


def state(number, size=300):
    weights = torch.arange(size, dtype=torch.float32) + number
    history = [{"loss": 0.1 * number}]
    return {"players": {"model": {"weight": weights}}, "history": history, "step": number, "best": None}


def save(folder, *numbers, digest="a recipe"):
    for number in numbers:
        CheckpointFile(folder, digest).save(state(number))


def loaded(folder, digest="a recipe"):
    found = CheckpointFile(folder, digest).load()
    return None if found is None else found["step"]


@pytest.fixture
def folder(tmp_path):
    save(tmp_path, 1, 2)
    return tmp_path


def test_keeps_the_last_two(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert loaded(folder) == 2
    (folder / "last.ckpt").unlink()
    assert loaded(folder) == 1
    save(folder, 3, 4, 5)
    assert loaded(folder) == 5
    assert torch.load(folder / "previous.ckpt", weights_only=True)["state"]["step"] == 4


def test_nothing_there_is_none(tmp_path):
    assert loaded(tmp_path) is None
    assert loaded(tmp_path / "nowhere") is None


def test_opens_without_this_library(folder):
    found = torch.load(folder / "last.ckpt", weights_only=True)
    assert found["digest"] == "a recipe"
    assert torch.equal(found["state"]["players"]["model"]["weight"], state(2)["players"]["model"]["weight"])
    assert found["state"]["history"] == [{"loss": 0.2}]


def fifty_places(size):
    rng = random.Random(7)
    return sorted({0, 1, size - 1, size - 2, size - 40, size - 66, size - 90, *rng.sample(range(size), 43)})


def refused(folder, caplog):
    """Damage to ``last.ckpt`` is named, and ``previous.ckpt`` is used."""
    caplog.clear()
    assert loaded(folder) == 1
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("damaged checkpoint last.ckpt: ")
    assert text.endswith("continuing from previous.ckpt")


def test_any_truncation_is_noticed(folder, caplog):
    whole = (folder / "last.ckpt").read_bytes()
    for length in fifty_places(len(whole)):
        (folder / "last.ckpt").write_bytes(whole[:length])
        refused(folder, caplog)


def test_any_changed_byte_is_noticed(folder, caplog):
    whole = (folder / "last.ckpt").read_bytes()
    rng = random.Random(8)
    for place in fifty_places(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        (folder / "last.ckpt").write_bytes(damaged)
        refused(folder, caplog)


@pytest.mark.parametrize(
    "damage", [lambda whole: whole + b"\0", lambda whole: b"\0" * len(whole), lambda whole: b"junk"]
)
def test_other_damage_is_noticed(folder, caplog, damage):
    whole = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(damage(whole))
    refused(folder, caplog)


def test_both_damaged_is_one_line_that_names_both(folder, caplog):
    (folder / "last.ckpt").write_bytes(b"")
    whole = bytearray((folder / "previous.ckpt").read_bytes())
    whole[100] ^= 1
    (folder / "previous.ckpt").write_bytes(whole)
    with pytest.raises(InputError) as caught:
        loaded(folder)
    assert str(caught.value) == (
        f"resume: got {str(folder)!r}; expected an intact checkpoint (last.ckpt: its end is missing; "
        "previous.ckpt: its content does not match its digest); --overwrite starts again"
    )
    assert not caplog.records


def test_a_damaged_last_never_replaces_an_intact_previous(folder):
    """Between the two renames of a save, the intact one must still be there."""
    (folder / "last.ckpt").write_bytes(b"damaged")
    file = CheckpointFile(folder, "a recipe")
    assert file.load()["step"] == 1
    seen = []
    replace = Path.replace

    def spy(path, to):
        seen.append(loaded_somewhere(folder))
        return replace(path, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", spy)
        file.save(state(3))
    assert seen == [[1]]
    assert loaded(folder) == 3
    file.save(state(4))
    assert torch.load(folder / "previous.ckpt", weights_only=True)["state"]["step"] == 3


def loaded_somewhere(folder):
    """The steps of all intact checkpoints in a copy of the folder as it is now."""
    found = []
    for name in ("last.ckpt", "previous.ckpt"):
        other = folder.with_name("copy")
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir()
        if (folder / name).exists():
            shutil.copy(folder / name, other / name)
            try:
                found.append(loaded(other))
            except InputError:
                continue
    return found


@pytest.mark.parametrize("hard_links", [True, False])
def test_an_intact_one_is_there_at_every_moment(folder, monkeypatch, hard_links):
    moments = []

    def watched(original):
        def call(*args, **kwargs):
            moments.append(loaded_somewhere(folder))
            return original(*args, **kwargs)

        return call

    def no_links(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "fsync", watched(os.fsync))
    monkeypatch.setattr(Path, "replace", watched(Path.replace))
    save(folder, 3)
    monkeypatch.undo()
    assert len(moments) >= 4
    assert all(2 in steps or 3 in steps for steps in moments)
    assert loaded_somewhere(folder) == [3, 2]
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_without_hard_links_a_failed_save_still_leaves_one(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError, match="No space left on device"):
        save(folder, 3)
    monkeypatch.undo()
    assert loaded(folder) == 2


def test_a_full_disk_is_one_line_and_both_files_stay(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError, match="No space left on device"):
        save(folder, 3)
    monkeypatch.undo()
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after["last.ckpt"] == before["last.ckpt"]
    assert loaded(folder) == 2
    assert sorted(after) == sorted(before)


def test_another_training_is_refused(folder):
    with pytest.raises(InputError, match="belongs to another training"):
        loaded(folder, digest="another recipe")


def test_objects_that_run_code_are_not_opened(tmp_path):
    """Even with a right digest, which anyone can compute."""
    file = CheckpointFile(tmp_path, "a recipe")
    file.save({"step": 1})
    file.save({"step": Payload(tmp_path / "ran")})
    assert file.load()["step"] == 1
    assert not (tmp_path / "ran").exists()


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
