"""Atomic writes: all or nothing, whatever the system refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deconfound.errors import InputError
from deconfound.store import remove, write_bytes, write_text
from deconfound.store.atomic import replacing


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def listing(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_text(path, "gr\u00fcn\n")
    assert path.read_bytes() == "gr\u00fcn\n".encode()
    write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert listing(path.parent) == ["file.txt"]


@pytest.mark.parametrize(("place", "name"), [(os, "fsync"), (Path, "write_bytes"), (Path, "replace")])
@pytest.mark.parametrize("there_before", [True, False])
def test_failure_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch, place, name, there_before):
    path = tmp_path / "file.txt"
    if there_before:
        path.write_text("old")
    monkeypatch.setattr(place, name, full_disk)
    with pytest.raises(InputError) as caught:
        write_bytes(path, b"new")
    monkeypatch.undo()
    message = str(caught.value)
    assert message == (
        f"out: got {str(path)!r}; expected a place that can be written (No space left on device); nothing was changed"
    )
    assert listing(tmp_path) == (["file.txt"] if there_before else [])
    assert not there_before or path.read_text() == "old"


def test_a_crash_of_the_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def crash():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["file.txt"]


def test_the_content_is_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("flush"), fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (calls.append("rename"), replace(path, to))[1])
    write_bytes(tmp_path / "file", b"x")
    assert calls == ["flush", "rename", "flush"]  # the content, the name, the folder that holds the name


def test_a_file_system_that_cannot_flush_folders_will_do(tmp_path, monkeypatch):
    fsync = os.fsync

    def picky(handle):
        if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", picky)
    write_bytes(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["file/below", "n" * 300])
def test_impossible_places_are_one_line(tmp_path, name):
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError, match="a place that can be written"):
        write_bytes(tmp_path / name, b"x")
    assert listing(tmp_path) == ["file"]


def test_removal_of_what_is_there_and_of_what_is_not(tmp_path):
    (tmp_path / "file").write_text("old")
    for _ in range(2):
        remove(tmp_path / "file")
        assert listing(tmp_path) == []


def test_a_removal_that_the_system_refuses_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "unlink", full_disk)
    with pytest.raises(InputError) as caught:
        remove(tmp_path / "file")
    rule = "a file that can be removed (No space left on device)"
    assert str(caught.value) == f"out: got {str(tmp_path / 'file')!r}; expected {rule}"
