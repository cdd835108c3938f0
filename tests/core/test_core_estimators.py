"""Running moments against the moments of all data, and against the released estimator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconfound.core.estimators import RunningMoments
from deconfound.errors import InputError


def golden(shared, name):
    with np.load(shared / "golden" / f"causaladv_{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def batches(count=5, classes=6, dimension=7):
    g = torch.Generator().manual_seed(0)
    for number in range(count):
        labels = torch.randint(0, classes - (number == 1), (20,), generator=g)
        yield torch.randn(20, dimension, generator=g, dtype=torch.float64) + labels[:, None], labels


def test_it_follows_the_released_estimator(shared):
    recorded, moments = golden(shared, "covariance"), RunningMoments(8, 4)
    for t in range(3):
        moments.update(recorded[f"features_{t}"], recorded[f"labels_{t}"])
        close(moments.mean, recorded[f"mean_{t}"])
        close(moments.covariance, recorded[f"covariance_{t}"])
        assert torch.equal(moments.count, recorded[f"count_{t}"].long())


@pytest.mark.parametrize("form", ["full", "low-rank", "diagonal"])
def test_all_batches_together_weigh_alike(form):
    moments = RunningMoments(7, 6, form).double()
    seen = list(batches())
    for features, labels in seen:
        moments.update(features, labels)
    features, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    for label in range(6):
        own = features[labels == label]
        torch.testing.assert_close(moments.mean[label], own.mean(0))
        assert moments.count[label] == len(own)
        true, found = torch.cov(own.T, correction=0), moments.covariance[label]
        if form == "diagonal":
            torch.testing.assert_close(found, true.diagonal())
        else:  # rank 7 of 7 features loses nothing
            torch.testing.assert_close(found if form == "full" else found.T @ found, true)


def test_a_rank_too_small_never_invents_variance():
    moments, full = (RunningMoments(7, 6, form, rank=2).double() for form in ("low-rank", "full"))
    for features, labels in batches():
        moments.update(features, labels)
        full.update(features, labels)
    for factors, true in zip(moments.covariance, full.covariance, strict=True):
        lost = true - factors.T @ factors
        assert torch.linalg.eigvalsh(lost).min() > -1e-10
        assert lost.trace() < 0.75 * true.trace()


def test_absent_classes_stay_and_new_ones_begin():
    moments = RunningMoments(3, 3)
    moments.update(torch.randn(4, 3), torch.tensor([0, 0, 2, 2]))
    before = {name: value.clone() for name, value in moments.state_dict().items()}
    assert not before["covariance"][1].any()
    moments.update(torch.randn(2, 3), torch.tensor([1, 1]))
    for name, value in moments.state_dict().items():
        assert torch.equal(value[[0, 2]], before[name][[0, 2]])
        assert value[1].any()


def test_momentum_forgets_the_start():
    moments = RunningMoments(2, momentum=0.5)
    for _ in range(40):
        moments.update(torch.randn(8, 2) + 50)
    for _ in range(40):
        moments.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    torch.testing.assert_close(moments.mean, torch.zeros(1, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(moments.covariance[0], torch.tensor([[1.0, 0.0], [0.0, 0.0]]), rtol=0, atol=1e-5)


def test_the_state_continues_it():
    first, second = RunningMoments(7, 6).double(), RunningMoments(7, 6).double()
    seen = list(batches())
    for features, labels in seen[:3]:
        first.update(features, labels)
    second.load_state_dict(first.state_dict())
    for moments in (first, second):
        for features, labels in seen[3:]:
            moments.update(features, labels)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_half_precision_features_are_taken_in_full():
    features = torch.randn(64, 3).bfloat16()
    inside, outside = RunningMoments(3), RunningMoments(3)
    with torch.autocast("cpu", torch.bfloat16):
        inside.update(features)
    outside.update(features.float())
    assert torch.equal(inside.covariance, outside.covariance)
    assert inside.covariance.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"momentum": 0.0}, r"momentum: got 0.0; expected a number in \(0, 1\], or none"),
        ({"momentum": float("nan")}, "momentum: got nan"),
        ({"form": "half"}, "covariance: got 'half'; expected one of"),
    ],
)
def test_bad_settings_are_one_line(settings, line):
    with pytest.raises(InputError, match=f"^{line}"):
        RunningMoments(3, **settings)


def test_features_of_another_width_are_refused():
    with pytest.raises(InputError, match=r"^features: got \(2, 4\); expected shape \(B, 3\)"):
        RunningMoments(3).update(torch.zeros(2, 4))
