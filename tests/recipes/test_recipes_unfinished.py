"""Journals of an evaluation: killed anywhere, any number of processes goes on to the same record."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import two_judges
from deconfound.attacks import PGD
from deconfound.core.types import Audit
from deconfound.errors import InputError
from deconfound.evaluation import ledger
from deconfound.recipes.unfinished import with_journal
from judged import Planted, Switch, judged, numbered, together, untimed
from toys import Rows


class Killed(BaseException):
    """Stands for a kill."""


class Fuse:
    """Ends every process at once after so many lines of journal."""

    def __init__(self, lines):
        self.left, self.lock = lines, threading.Lock()

    def guard(self, journal):
        return SimpleNamespace(entries=journal.entries, append=lambda entry: self.append(journal, entry))

    def append(self, journal, entry):
        with self.lock:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            journal.append(entry)


class Counted(torch.nn.Module):
    """Counts the images that pass."""

    def __init__(self, net):
        super().__init__()
        self.net, self.count = net, 0

    def forward(self, images):
        self.count += len(images)
        return self.net(images)


def shared(record, size, fuse=None, precise=True, overwrite=False, **settings):
    """Results or errors of several processes that share an evaluation, and how many images passed their models."""
    net, source = two_judges.example()
    images = source.images.double() if precise else source.images
    models = [Counted(copy.deepcopy(net).to(images.dtype)) for _ in range(size)]
    suite = two_judges.short(SimpleNamespace(threat=two_judges.THREAT, budget=SimpleNamespace(query_draws=1)))
    call = {
        "audit": suite.audit,
        "columns": suite.columns,
        "batch_size": 6,
        "curve_attack": lambda threat: PGD(threat, steps=1),
        "curve_radii": (0, 0.03, 0.2),
        "probes": None,
    } | settings

    def work(crew, journal):
        return judged(
            models[crew.rank],
            images,
            source.labels,
            suite.attacks,
            two_judges.THREAT,
            journal=fuse.guard(journal) if fuse else journal,
            crew=crew,
            **{key: value(crew) if callable(value) and key == "seed" else value for key, value in call.items()},
        )

    found = together(size, lambda crew: with_journal(record, partial(work, crew), overwrite=overwrite, crew=crew))
    return found, sum(model.count for model in models)


def journals(folder):
    return sorted(folder.glob("*.journal*"))


def lines(folder):
    return [json.loads(line) for path in journals(folder) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The record of one process, and how many images each piece passed."""
    place = tmp_path_factory.mktemp("whole") / "record.json"
    kept = Rows()
    fuse = SimpleNamespace(guard=lambda journal: kept)
    (record,), _ = shared(place, 1, fuse)
    return untimed(record), {entry["piece"]: entry["cost"][2] for entry in kept.rows}


@pytest.mark.parametrize(
    ("first", "then", "after"),
    [
        (1, 1, 3),
        (1, 2, 12),
        (2, 1, 9),
        (2, 3, 20),
        (1, 3, 21),
        (2, 1, 25),
        (1, 1, 23),
        (3, 2, 30),
        (2, 2, 38),
        (1, 3, 44),
        (3, 1, 4),
    ],
)
def test_killed_anywhere_any_number_of_processes_ends_in_the_same_record(tmp_path, uninterrupted, first, then, after):
    whole, passed = uninterrupted
    place = tmp_path / "record[1].json"  # a name that means something to a shell
    found, _ = shared(place, first, Fuse(after))
    assert all(isinstance(error, Killed | threading.BrokenBarrierError) for error in found)
    kept = {entry["piece"] for entry in lines(tmp_path)}
    assert len(lines(tmp_path)) == after
    assert kept <= {*passed}
    with journals(tmp_path)[-1].open("a") as file:
        file.write('{"piece": "cut o')
    found, count = shared(place, then)
    assert [untimed(record) for record in found] == [whole] * then
    assert count == sum(images for piece, images in passed.items() if piece not in kept)
    assert journals(tmp_path) == []


def test_every_journal_holds_a_share_and_all_are_forgotten_on_demand(tmp_path):
    place = tmp_path / "record.json"
    shared(place, 3, Fuse(24))
    assert [path.name for path in journals(tmp_path)] == [f"record.json.journal{end}" for end in ("", ".1", ".2")]
    assert all(len(path.read_text().splitlines()) > 2 for path in journals(tmp_path))
    found, _ = shared(place, 2, seed=1)
    assert {str(error).partition(";")[0] for error in found} == {"journal: seed: got 0"}
    assert all("(--overwrite forgets it)" in str(error) for error in found)
    assert len(journals(tmp_path)) == 3
    found, _ = shared(place, 2, overwrite=True, seed=1)
    assert [record.seed for record in found] == [1, 1]
    assert journals(tmp_path) == []


@pytest.mark.parametrize(("first", "then", "after"), [(1, 1, 12), (1, 2, 30), (2, 1, 9), (3, 2, 38)])
def test_an_overwrite_goes_on_from_the_journal_that_it_began(tmp_path, uninterrupted, first, then, after):
    whole, passed = uninterrupted
    place = tmp_path / "record.json"
    place.write_text("finished before")
    (tmp_path / "record.json.journal.2").write_text("of the finished one")
    for path in (place, *journals(tmp_path)):
        os.utime(path, (1e9, 1e9))
    shared(place, first, Fuse(after), overwrite=True)
    kept = {entry["piece"] for entry in lines(tmp_path)}
    found, count = shared(place, then)
    assert all("a finished record lies here (--overwrite replaces it)" in str(error) for error in found)
    assert (count, len(lines(tmp_path))) == (0, after)
    found, count = shared(place, then, overwrite=True)
    assert [untimed(record) for record in found] == [whole] * then
    assert count == sum(images for piece, images in passed.items() if piece not in kept)
    assert journals(tmp_path) == []


@pytest.mark.parametrize(("older", "size"), [(True, 1), (True, 2), (False, 1), (False, 2)])
def test_an_overwrite_forgets_a_journal_older_than_the_record_or_of_another_call(tmp_path, uninterrupted, older, size):
    whole, passed = uninterrupted
    place = tmp_path / "record.json"
    shared(place, 2, Fuse(20), **({} if older else {"seed": 7}))
    place.write_text("finished")
    for path in journals(tmp_path):
        os.utime(path, ns=(place.stat().st_mtime_ns + (0 if older else 10**9),) * 2)
    found, count = shared(place, size, overwrite=True)
    assert [untimed(record) for record in found] == [whole] * size
    assert count == sum(passed.values())
    assert journals(tmp_path) == []


@pytest.mark.parametrize("size", [1, 2])
def test_a_journal_that_cannot_be_removed_is_everyones_line(tmp_path, monkeypatch, size):
    place = tmp_path / "record.json"
    shared(place, 1, Fuse(3))
    place.write_text("finished since")

    def refuse(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    found, count = shared(place, size, overwrite=True)
    line = f"out: got '{place}.journal'; expected a file that can be removed (Permission denied)"
    assert [str(error) for error in found] == [line] * size
    assert count == 0


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("seed", {"seed": 5}),
        ("suite", {"suite": "other"}),
        ("batch_size", {"batch_size": 5}),
        ("audit", {"audit": None}),
        ("attacks", {"columns": ()}),
        ("curve", {"curve_radii": (0, 0.04)}),
        ("gallery", {"gallery": 1}),
    ],
)
def test_a_journal_of_another_call_is_refused_in_one_line(tmp_path, key, change):
    place = tmp_path / "record.json"
    shared(place, 1, Fuse(5))
    before = [path.read_bytes() for path in journals(tmp_path)]
    (error,), count = shared(place, 1, **change)
    assert isinstance(error, InputError)
    assert error.field.startswith("journal: ")
    if key != "audit":  # another audit has other attacks, too
        assert error.field == f"journal: {key}"
    assert "\n" not in str(error)
    assert count == 0
    assert [path.read_bytes() for path in journals(tmp_path)] == before


@pytest.mark.parametrize(("key", "value"), [("schema", 0), ("model", "other"), ("data", "x"), ("surrogate", "bf16")])
def test_a_journal_of_another_schema_model_data_or_surrogate_is_refused(tmp_path, key, value):
    place = tmp_path / "record.json"
    shared(place, 1, Fuse(4))
    (path,) = journals(tmp_path)
    first, *rest = path.read_text().splitlines()
    entry = json.loads(first)
    assert entry["piece"] == "call"
    entry["result"][key] = value
    path.write_text("\n".join([json.dumps(entry), *rest]) + "\n")
    (error,), _ = shared(place, 1)
    assert str(error).startswith(f"journal: {key}: got {value!r}; expected ")
    path.write_text("\n".join(rest) + "\n")
    (error,), _ = shared(place, 1)
    assert str(error).startswith("journal: got 'finished pieces without the call they belong to'")


def test_lines_that_are_no_pieces_are_passed_over(tmp_path, uninterrupted):
    place = tmp_path / "record.json"
    shared(place, 1, Fuse(4))
    with journals(tmp_path)[0].open("a") as file:
        file.write('{"piece": "clean/4"}\n{"note": 1}\n')
    (record,), _ = shared(place, 1)
    assert untimed(record) == uninterrupted[0]


def test_processes_of_different_calls_do_not_work_together(tmp_path):
    found, _ = shared(tmp_path / "record.json", 2, seed=lambda crew: crew.rank)
    assert [str(error) for error in found] == ["process 1: seed: got 1; expected 0, as in this call"] * 2
    assert journals(tmp_path) == []


def test_processes_without_a_common_disk_share_what_each_has(tmp_path, uninterrupted):
    """Each continues from its own journal; together they know all pieces and repeat none."""
    whole, passed = uninterrupted
    shared(tmp_path / "record.json", 2, Fuse(20))
    first, second = journals(tmp_path)
    places = [tmp_path / name / "record.json" for name in ("a", "b")]
    for source, place, name in zip(
        (first, second), places, ("record.json.journal", "record.json.journal.1"), strict=True
    ):
        place.parent.mkdir()
        shutil.move(source, place.parent / name)
    kept = {entry["piece"] for place in places for entry in lines(place.parent)}

    net, source = two_judges.example()
    models = [Counted(copy.deepcopy(net).double()) for _ in places]
    suite = two_judges.short(SimpleNamespace(threat=two_judges.THREAT, budget=SimpleNamespace(query_draws=1)))

    def work(crew, journal):
        return judged(
            models[crew.rank],
            source.images.double(),
            source.labels,
            suite.attacks,
            two_judges.THREAT,
            audit=suite.audit,
            columns=suite.columns,
            batch_size=6,
            curve_attack=lambda threat: PGD(threat, steps=1),
            curve_radii=(0, 0.03, 0.2),
            journal=journal,
            crew=crew,
        )

    def share(crew):
        return with_journal(places[crew.rank], partial(work, crew), crew=crew)

    assert [untimed(record) for record in together(2, share)] == [whole] * 2
    assert sum(model.count for model in models) == sum(n for piece, n in passed.items() if piece not in kept)
    assert not [path for place in places for path in journals(place.parent)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_abort_by_an_error_is_everyones_and_resumes(size):
    """One of the sample falls, so that the audit's second round is shared too."""
    images, labels = numbered(40, wrong=(3,))
    early = Planted(name="early", victims=frozenset({5, 6, 7}))
    slow = Planted(name="slow", victims=frozenset(range(10, 20)))
    kept = [Rows() for _ in range(size)]

    class Abort(Planted):
        def __call__(self, *arguments, **more):
            if len(self.given) >= 15:
                raise ValueError("planted")
            return super().__call__(*arguments, **more)

    def work(late):
        def one(crew):
            audit = Audit(attacks=(slow, late), least=10, share=0.1)
            old = [entry for rows in kept for entry in rows.entries()]
            journal = SimpleNamespace(entries=lambda: old, append=kept[crew.rank].append)
            return judged(Switch(), images, labels, [early], audit=audit, batch_size=3, journal=journal, crew=crew)

        return one

    calm = Audit(attacks=(slow, Planted(name="late")), least=10, share=0.1)
    whole = untimed(judged(Switch(), images, labels, [early], audit=calm, batch_size=3))
    found = together(size, work(Abort(name="late")))
    assert {str(error) for error in found} == {"planted"}
    slow.given.clear()
    found = together(size, work(Planted(name="late")))
    assert [untimed(record) for record in found] == [whole] * size
    assert whole["audit"]["complete"]
    done = {entry["piece"] for rows in kept for entry in rows.entries()}
    assert len(slow.given) < 36
    assert any(piece.startswith("attack/2/rest") for piece in done)


def test_failures_travel_as_they_are_where_they_can():
    error = InputError("eps", 8, "at most 1")
    assert ledger.carried(error) is error
    odd = ledger.carried(two_judges.Odd(1, "text"))
    assert (type(odd), str(odd)) == (RuntimeError, "Odd: text")

    class Local(Exception):
        pass

    assert str(ledger.carried(Local("here"))) == "Local: here"
