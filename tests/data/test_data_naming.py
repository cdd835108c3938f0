"""The grammar of data names, and what is said to those that do not follow it."""

from __future__ import annotations

import pytest
import torch

from deconfound.data.families import family_of
from deconfound.data.naming import as_file_name, base_of, moved, parts_of, settings_of, whole, without_place
from deconfound.data.sources import load
from deconfound.errors import InputError

MARKED = ("digits:train=20+patch:rho=0.5", "digits+patch:rho=0.5")


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
        ("a/b:train=5", ("a/b", None, None, "train=5")),
        ("mine.tools:load:train=5,test=3+tint:rho=1", ("mine.tools:load", "tint", "rho=1", "train=5,test=3")),
        ("shapes:train=5", ("shapes", None, "train=5")),
    ],
)
def test_parts(name, parts):
    assert tuple(parts_of(name)) == (*parts, *[None] * (4 - len(parts)))


def test_the_first_images_of_a_split():
    whole, some = load("digits"), load("digits:train=20")
    assert (len(some.train), len(some.test), some.family) == (20, len(whole.test), "digits")
    assert some.train.digest() == whole.train.subset(range(20)).digest() != whole.train.digest()
    assert len(load("digits:train=20,test=7").test) == 7
    few, every = (next(load(name).train.batches([torch.arange(20)])).images for name in MARKED)
    assert torch.equal(few, every)
    assert family_of("data/cifar10:train=5", (3, 17, 19), 10) == "cifar"


def test_limits_in_names_of_records_and_files(tmp_path):
    assert without_place(f"{tmp_path}:train=5+tint:rho=1") == ":train=5+tint:rho=1"
    assert as_file_name("data/cifar10:train=5,test=3") == "cifar10-train=5,test=3"
    strange = tmp_path / "x:train=5"
    strange.mkdir()
    assert parts_of(str(strange)).limits is None
    assert moved("mnist", "a/b") == "a/b"
    assert moved("shapes:rho=1", "shapes") == "shapes:rho=1"


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
        ("digits:train=0", r"data: digits: train: got 0; expected 1 to the split's 1437 images"),
        ("digits:test=361", r"data: digits: test: got 361; expected 1 to the split's 360 images"),
        ("digits:train=few", r"data: digits: train: got 'few'; expected a whole number"),
        ("digits:train=3,seed=1", r"data: digits: setting: got 'seed'; expected one of test, train"),
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
