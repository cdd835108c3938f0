"""The grammar of data names, and what is said to those that do not follow it."""

from __future__ import annotations

import pytest

from deconfound.data.families import family_of
from deconfound.data.naming import as_file_name, base_of, parts_of, settings_of, whole, without_place
from deconfound.data.sources import load
from deconfound.errors import InputError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("digits", ("digits", None, None)),
        ("shapes", ("shapes", None, None)),
        ("shapes:", ("shapes", None, "")),
        ("shapes:rho=1/3,seed=2", ("shapes", None, "rho=1/3,seed=2")),
        ("digits+patch", ("digits", "patch", None)),
        ("a/b+tint:rho=1/10", ("a/b", "tint", "rho=1/10")),
        ("mine.tools:load+patch:rho=0.5", ("mine.tools:load", "patch", "rho=0.5")),
        ("shapes:rho=0.5+patch", ("shapes", "patch", None)),
        ("a+b/mnist", ("a+b/mnist", None, None)),
        ("owner/shapes:rho", ("owner/shapes:rho", None, None)),
    ],
)
def test_parts(name, parts):
    assert tuple(parts_of(name)) == parts


def test_a_folder_that_exists_is_a_folder_whatever_its_name(tmp_path, make_folder):
    made = make_folder({"train": {"a": [1], "b": [2]}}, name="pets+patch")
    assert parts_of(str(made)).overlay is None
    assert load(str(made)).train.name == "pets+patch[train]"
    marked = load(f"{make_folder({'train': {'a': [1], 'b': [2]}}, name='x')}+tint:rho=1,seed=3")
    assert marked.train.name == "x+tint:rho=1,seed=3[train]"  # where it lies is not in its name
    assert marked.test is None


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("shapes:rho=1/3,train=10", "shapes"),
        ("digits+patch:rho=1/10", "digits"),
        ("../data/cifar10+tint:rho=1/10", "cifar"),
        ("mnist+patch", "mnist"),
    ],
)
def test_settings_and_confounders_do_not_change_the_family(name, family):
    assert family_of(name, (3, 17, 19), 10) == family


def test_names_for_records_and_files(tmp_path):
    assert base_of(f"{tmp_path}+patch:rho=1/2") == str(tmp_path)
    assert without_place(f"{tmp_path}+patch:rho=1/2") == "+patch:rho=1/2"
    assert without_place(str(tmp_path)) == ""
    assert without_place("shapes:rho=0.5") == "shapes:rho=0.5"
    assert as_file_name(f"{tmp_path}/+patch:rho=1/2") == f"{tmp_path.name}+patch-rho=1-2"
    assert as_file_name("shapes:rho=0.5,seed=1") == "shapes-rho=0.5,seed=1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shapes:", r"data: shapes: got ''; expected key=value joined by commas, keys rho, train, test, seed"),
        ("shapes:rho", r"data: shapes: got 'rho'; expected key=value"),
        ("shapes:rho=", r"data: shapes: got 'rho='; expected key=value"),
        ("shapes:rh=1", r"data: shapes: setting: got 'rh'; expected one of .*did you mean 'rho'"),
        ("shapes:rho=1,rho=1", r"data: shapes: rho: got '1'; expected rho once, not twice"),
        ("shapes:rho=1.1", r"data: shapes: rho: got '1.1'; expected a probability in \[0, 1\], such as 0.9 or 1/3"),
        ("shapes:rho=-1", r"data: shapes: rho: got '-1'; expected a probability"),
        ("shapes:rho=1/0", r"data: shapes: rho: got '1/0'; expected a probability"),
        ("shapes:rho=nan", r"data: shapes: rho: got 'nan'; expected a probability"),
        ("shapes:train=0", r"data: shapes: train: got 0; expected 1 to 10000000 images"),
        ("shapes:test=1e3", r"data: shapes: test: got '1e3'; expected a whole number of at least 0"),
        ("shapes:train=99999999", r"data: shapes: train: got 99999999; expected 1 to 10000000"),
        ("shapes:seed=-1", r"data: shapes: seed: got '-1'; expected a whole number of at least 0"),
        ("shapes+patch", r"data: confounder: got 'shapes\+patch'; expected another data set"),
        ("shapes:rho=1+tint", r"data: confounder: got 'shapes\+tint'; expected another data set"),
        ("digits+pach:rho=1", r"data: confounder: got 'pach'; expected one of patch, tint \(did you mean 'patch'\?\)"),
        ("digits+patch+tint", r"data: confounder: got 'digits\+patch'; expected one confounder, not two"),
        ("digits+patch:train=3", r"data: patch: setting: got 'train'; expected one of rho, seed"),
        ("digits+tint:rho=2", r"data: tint: rho: got '2'; expected a probability"),
        ("nowhere/at/all+tint:rho=1", r"data: got 'nowhere/at/all'; expected a folder that exists"),
        ("shape", r"data: got 'shape'; .*did you mean 'shapes'"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(InputError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_forms_that_shapes_do_not_have():
    assert load("shapes", size=64, channels=3).shape == (3, 64, 64)
    with pytest.raises(InputError, match="size: got 32; expected 64"):
        load("shapes", size=32)
    with pytest.raises(InputError, match="channels: got 1; expected 3"):
        load("shapes", channels=1)


def test_digits_of_other_scripts_are_no_numbers():
    with pytest.raises(InputError, match="a whole number"):
        settings_of("seed=\u0663", {"seed": whole}, "x")
