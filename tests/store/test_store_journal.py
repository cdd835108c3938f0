"""Journals: what was appended is there after a kill; a cut line is dropped."""

from __future__ import annotations

import errno
import os

import pytest

from deconfound.errors import InputError
from deconfound.store import JsonLines
from deconfound.store.journal import TensorBoardMirror

ROWS = [{"epoch": 0.0, "loss": 0.1 + 0.2, "name": "grün \u2028 \n"}, {"epoch": 1.0, "loss": 1e-300}, {"epoch": 2.0}]


def filled(path):
    journal = JsonLines(path)
    for row in ROWS:
        journal.append(row)
    return journal


def test_what_is_appended_comes_back(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    assert filled(path).entries() == ROWS
    assert JsonLines(path).entries() == ROWS
    assert path.read_text().count("\n") == len(ROWS)


def test_opening_writes_nothing(tmp_path):
    JsonLines(tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_any_cut_keeps_the_whole_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    filled(path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = sum(end - 1 <= length for end in ends)  # the last line is whole also without its newline
        journal = JsonLines(path)
        assert journal.entries() == ROWS[:kept]
        journal.append({"epoch": 9.0})
        assert JsonLines(path).entries() == [*ROWS[:kept], {"epoch": 9.0}]


@pytest.mark.parametrize("tail", [b"\0\0\0", b"\xff\xfe", b"5\n", b'"text"\n', b"null\n", b"{} {}\n"])
def test_rubbish_at_the_end_is_dropped(tmp_path, tail):
    path = tmp_path / "rows.jsonl"
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert JsonLines(path).entries() == ROWS
    assert path.read_bytes() == whole


def test_each_append_is_flushed_to_the_disk(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(handle))
    filled(tmp_path / "rows.jsonl")
    assert len(calls) == len(ROWS)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    journal = filled(tmp_path / "rows.jsonl")

    def refuse(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError, match="No space left on device"):
        journal.append({"epoch": 3.0})
    assert journal.entries() == ROWS


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_the_numbers(tmp_path):
    mirror = TensorBoardMirror(JsonLines(tmp_path / "rows.jsonl"), tmp_path / "board")
    assert not (tmp_path / "board").exists()
    for epoch in range(3):
        mirror.append({"epoch": float(epoch), "loss": epoch / 2, "validation_clean": 0.5, "note": "text"})
    mirror.close()
    assert scalars(tmp_path / "board") == {
        "loss": [(0, 0.0), (1, 0.5), (2, 1.0)],
        "validation/clean": [(0, 0.5), (1, 0.5), (2, 0.5)],
    }
    assert len(mirror.entries()) == 3


def test_tensorboard_of_a_resumed_run_holds_each_epoch_once(tmp_path):
    for epochs in ((0, 1, 2), (1, 2, 3)):  # killed in epoch 3, the checkpoint was of epoch 1
        mirror = TensorBoardMirror(JsonLines(tmp_path / f"rows{epochs[0]}.jsonl"), tmp_path / "board")
        for epoch in epochs:
            mirror.append({"epoch": float(epoch), "loss": float(epoch)})
        mirror.close()
    assert scalars(tmp_path / "board") == {"loss": [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]}


def test_closing_an_unused_mirror_is_harmless(tmp_path):
    TensorBoardMirror(JsonLines(tmp_path / "rows.jsonl"), tmp_path / "board").close()
    assert list(tmp_path.iterdir()) == []
