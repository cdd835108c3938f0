"""Run folders: where a run may start, and what is removed for a new one."""

from __future__ import annotations

import pytest

from deconfound.errors import InputError
from deconfound.store import RunFolder
from deconfound.store.run import FILES


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    for name in FILES:
        (folder.path / name).write_text("x")
    folder.tensorboard.mkdir()
    (folder.tensorboard / "events").write_text("x")
    (folder.path / "evaluate-quick-linf-0.1.json").write_text("x")
    (folder.path / "evaluate-quick-linf-0.1.json.journal").write_text("x")
    (folder.path / "notes.txt").write_text("mine")
    return folder


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_a_new_or_empty_folder_is_free(tmp_path):
    for folder in (RunFolder(tmp_path / "a" / "b"), RunFolder(tmp_path)):
        folder.check()
        folder.check(resume=True)
        folder.check(overwrite=True)
        assert not folder.exists()
        assert not folder.has_checkpoint()
    (tmp_path / ".hidden").write_text("x")
    RunFolder(tmp_path).check()
    assert not (tmp_path / "a").exists()


def test_a_run_asks_whether_to_resume_or_replace(run):
    before = names(run)
    with pytest.raises(InputError, match="--resume continues it, --overwrite replaces it"):
        run.check()
    with pytest.raises(InputError, match="not both"):
        run.check(resume=True, overwrite=True)
    run.check(resume=True)
    run.check(overwrite=True)
    assert names(run) == before


def test_foreign_files_and_folders_are_left_alone(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="a file of this name exists"):
        RunFolder(tmp_path / "file").check(overwrite=True)
    for choice in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match="files that are not a run"):
            RunFolder(tmp_path).check(**choice)
    with pytest.raises(InputError, match="a file lies where a folder is needed"):
        RunFolder(tmp_path / "file" / "below").prepare()


def test_overwriting_removes_the_run_and_its_evaluations_and_nothing_else(run):
    run.prepare(overwrite=True)
    assert names(run) == ["notes.txt"]


def test_the_recipe_goes_last(run, monkeypatch):
    """Killed on the way, the folder must still be recognised as a run."""
    removed = []
    monkeypatch.setattr(type(run.path), "unlink", lambda path, missing_ok=False: removed.append(path.name))
    run.prepare(overwrite=True)
    assert [name for name in removed if name in FILES][-1] == "recipe.yaml"


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt"])
def test_either_checkpoint_counts(tmp_path, name):
    (tmp_path / name).write_text("x")
    assert RunFolder(tmp_path).has_checkpoint()
