"""Slips in a study's file that would cost hours if a training came first, or a search if the line named another key."""

from __future__ import annotations

import pytest

from deconfound.errors import InputError
from deconfound.recipes import study_plan
from deconfound.recipes.studying import study

ONE = {
    "study": "slips",
    "data": "digits",
    "set": {"epochs": 1},
    "judge": {"all": [{"suite": "pgd-1", "n": 1000}]},
    "runs": [{"recipe": "standard"}],
}


@pytest.mark.parametrize("how", [{"dry_run": True}, {}, {"part": "train"}])
def test_more_images_than_there_are_is_refused_before_training(tmp_path, how):
    with pytest.raises(
        InputError, match=r"standard-0: pgd-1: n: got 1000; expected at most the 360 test images of dig"
    ):
        study(ONE, out=tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


def test_as_many_as_there_are_is_fine(tmp_path):
    fits = ONE | {"judge": {"all": [{"suite": "pgd-1", "n": 360}]}}
    assert len(study(fits, out=tmp_path / "out", dry_run=True).status) == 1


def test_a_dry_run_downloads_nothing(tmp_path, monkeypatch):
    def reached(*args, **kwargs):
        raise AssertionError("data were read")

    monkeypatch.setattr(study_plan.Shelf, "tests", reached)
    assert study(ONE | {"data": "ylecun/mnist"}, out=tmp_path / "out", dry_run=True).status
    with pytest.raises(AssertionError, match="data were read"):
        study(ONE | {"data": "ylecun/mnist"}, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"runz": ONE["runs"], "runs": None}, r"^study key: got 'runz'; .*did you mean 'runs'"),
        ({"study": None}, r"^study: study: got None; expected a value; this key is required"),
        ({"runs": [{"recipe": "standard", "seeds": 0}]}, r"seeds: got 0; expected a list in square brackets$"),
        (
            {"runs": [{"recipe": "standard"}, {"recipe": "pgd-at", "control": "trades"}]},
            r"control: got 'trades'; expected the name of another run .* \(standard\); add - {recipe: trades}",
        ),
        (
            {"runs": [{"recipe": "standard", "control": "pgd"}, {"recipe": "pgd-at"}]},
            r"control: got 'pgd'; .* \(pgd-at\) \(did you mean 'pgd-at'\?\)$",
        ),
    ],
)
def test_the_line_names_the_slip(tmp_path, plain, message):
    changed = {key: value for key, value in (ONE | plain).items() if value is not None}
    with pytest.raises(InputError, match=message):
        study(changed, out=tmp_path / "out")
