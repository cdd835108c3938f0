"""Input checks and the exception: one line that names the field, the value and the rule."""

from __future__ import annotations

import pickle

import pytest
import torch

from deconfound.core.checks import check_images, check_labels, check_logits
from deconfound.errors import InputError, require, unknown_name

IMAGES = torch.rand(2, 3, 4, 4)
RULE = "a float tensor of shape (B, C, H, W) with values in [0, 1]"
ADVICE = "raw pixels in [0, 1]; divide by 255, and leave normalisation to the model"


def spoiled(value):
    images = IMAGES.clone()
    images[1, 0, 2, 2] = value
    return images


@pytest.mark.parametrize(
    ("images", "value", "rule"),
    [
        ([[0.5]], "'list'", RULE),
        (IMAGES.numpy(), "'ndarray'", RULE),
        ((IMAGES * 255).to(torch.uint8), "'dtype uint8'", f"{RULE}; of bytes: images.float() / 255"),
        (IMAGES[0], "(3, 4, 4)", RULE),
        (IMAGES[:0], "(0, 3, 4, 4)", "at least one image"),
        (spoiled(float("nan")), "'NaN or infinite pixels in image 1'", "finite values"),
        (spoiled(float("inf")), "'NaN or infinite pixels in image 1'", "finite values"),
        (spoiled(-float("inf")), "'NaN or infinite pixels in image 1'", "finite values"),
        (spoiled(1.25), "'values from 0 to 1.25'", ADVICE),
        (spoiled(-0.5), "'values from -0.5 to 1'", ADVICE),
        (IMAGES[:, :1].expand(2, 5, 4, 4), "'5 channels'", "3 channels"),
    ],
)
def test_bad_images(images, value, rule):
    if isinstance(images, torch.Tensor) and "values from" in value:
        images[0, 0, 0, 0], images[0, 0, 0, 1] = 0.0, 1.0
    with pytest.raises(InputError) as caught:
        check_images(images, 3)
    assert str(caught.value) == f"images: got {value}; expected {rule}"
    with pytest.raises(InputError, match=r"^x: got "):
        check_images(images, 3, field="x")


@pytest.mark.parametrize("value", [-2.98e-8, 1 + 1.2e-7])
def test_rounding_is_told_from_normalised_images(value):
    with pytest.raises(InputError, match=r"off by rounding: images\.clamp\(0, 1\)"):
        check_images(spoiled(value))
    check_images(spoiled(value).clamp(0, 1))


def test_good_images():
    check_images(IMAGES)
    check_images(IMAGES.double(), 3)
    check_images(torch.tensor([[[[0.0, 1.0]]]]))


@pytest.mark.parametrize(
    ("labels", "value", "rule"),
    [
        ([0, 1], "'list'", "an int64 tensor of shape (B,)"),
        (torch.tensor([0.0, 1.0]), "'dtype float32'", "dtype int64"),
        (torch.tensor([0, 1], dtype=torch.int32), "'dtype int32'", "dtype int64"),
        (torch.tensor([[0], [1]]), "(2, 1)", "shape (B,)"),
        (torch.tensor([0, 1, 2]), "'3 labels'", "one label for each of the 2 images"),
        (torch.tensor([0, 10]), "10", "labels within 0..9 for 10 classes"),
        (torch.tensor([-1, 3]), "-1", "labels within 0..9 for 10 classes"),
    ],
)
def test_bad_labels(labels, value, rule):
    with pytest.raises(InputError) as caught:
        check_labels(labels, 10, count=2)
    assert str(caught.value) == f"labels: got {value}; expected {rule}"


def test_good_labels():
    check_labels(torch.tensor([0, 9]), 10, count=2)
    check_labels(torch.tensor([], dtype=torch.int64), 10)


@pytest.mark.parametrize(
    ("logits", "value"),
    [
        (None, "'output NoneType'"),
        ((IMAGES,), "'output tuple'"),
        (torch.rand(2), "'output (2,)'"),
        (torch.rand(2, 1), "'output (2, 1)'"),
        (torch.rand(3, 5), "'output (3, 5)'"),
        (torch.rand(2, 5, 1), "'output (2, 5, 1)'"),
    ],
)
def test_bad_logits(logits, value):
    with pytest.raises(InputError) as caught:
        check_logits(logits, 2)
    assert str(caught.value) == f"model: got {value}; expected logits of shape (2, K) with K of at least 2"


def test_good_logits():
    assert check_logits(torch.rand(2, 7), 2) == 7


def test_an_input_error_is_one_bounded_line_and_survives_pickling():
    error = InputError("field", "a\nb  c" + "x" * 1000, "a\n  rule")
    assert "\n" not in str(error)
    assert len(str(error)) < 240
    assert str(error).endswith("...; expected a rule")
    again = pickle.loads(pickle.dumps(error))
    assert (again.field, again.value, again.rule) == (error.field, error.value, error.rule)
    assert str(again) == str(error)
    assert isinstance(error, ValueError)


def test_unknown_names_come_with_the_nearest_known_one():
    known = ["trades", "pgd-at", "standard"]
    error = unknown_name("objective", "tradse", known)
    assert str(error) == ("objective: got 'tradse'; expected one of pgd-at, standard, trades (did you mean 'trades'?)")
    assert "did you mean" not in str(unknown_name("objective", "zzz", known))


def test_require_raises_only_when_the_condition_fails():
    require(True, "a", 1, "anything")
    with pytest.raises(InputError, match=r"^a: got 1; expected 2$"):
        require(False, "a", 1, "2")
