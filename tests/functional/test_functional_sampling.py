"""CiiV's sampler: the released code's numbers, closed forms, and what the noise does on average."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from deconfound.errors import InputError
from deconfound.functional import sampling
from deconfound.functional.consistency import consistency, pooled

VIEW_TOLERANCE = 1e-3  # r / (r + 1e-5) amplifies the rounding of r


@pytest.fixture
def golden(shared):
    def read(name):
        with np.load(shared / "golden" / f"{name}.npz") as data:
            return {key: torch.from_numpy(np.asarray(data[key])) for key in data.files}

    return read


def loops_second(noise, loops):
    """(L M, B, ...) in the order of loops -> (B, L, M, ...)."""
    return noise.unflatten(0, (loops, -1)).movedim(2, 0)


class TestGolden:
    def test_second_version(self, golden):
        g = golden("ciiv_sampler")
        assert sampling.grid_lines(32) == tuple(g["centres"].tolist())
        q = sampling.acceptance(sampling.distances(sampling.grid_centres(32, 32), 32, 32))
        masks = sampling.kept(q[None, :, None], g["mask_noise"].unflatten(0, (9, 3))[None])
        noise = loops_second(g["pixel_noise"], 9)
        views = sampling.sampled(g["images_normalised"], noise, masks, 0.9).view
        exposure = sampling.exposure_of(masks).expand(2, -1)
        torch.testing.assert_close(views.transpose(0, 1), g["views"], atol=VIEW_TOLERANCE, rtol=0)
        torch.testing.assert_close(exposure.T, g["exposure"], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(pooled(g["logits"], exposure.T), g["prediction"], atol=1e-6, rtol=1e-5)

    def test_first_version(self, golden):
        g = golden("ciiv_sampler_v1")
        centres = torch.stack([g["centre_row"], g["centre_column"]], dim=1)
        q = sampling.acceptance(sampling.distances(centres, 32, 32))
        masks = sampling.kept(q[None, :, None], g["mask_noise"].unflatten(0, (4, 3))[None])
        images, a = g["images"], float(g["aug_weight"])
        on = sampling.sampled(images, loops_second(g["noise_on"], 4), masks, a).view
        off = sampling.sampled(1 - images, loops_second(g["noise_off"], 4), masks, a).view
        views = sampling.centred(torch.cat([on, off], dim=2))
        torch.testing.assert_close(views.transpose(0, 1), g["views"], atol=VIEW_TOLERANCE, rtol=0)

    @pytest.mark.parametrize("name", ["ciiv_sampler", "ciiv_regulariser"])
    def test_regulariser(self, golden, name):
        g = golden(name)
        for distance in ("smooth_l1", "l2"):
            found = consistency(g["features"], g["exposure"], distance).mean(dim=1)
            torch.testing.assert_close(found, g[f"reg_{distance}"], rtol=1e-5, atol=1e-6)


class TestCentres:
    @pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 45), (4, 64), (96, 224)])
    def test_they_lie_on_the_image_on_both_axes(self, height, width):
        centres = sampling.grid_centres(height, width)
        assert len({tuple(c) for c in centres.tolist()}) == 9
        assert (centres >= 0).all()
        assert (centres < torch.tensor([height, width])).all()

    def test_order_column_first(self):
        rows, columns = sampling.grid_lines(48), sampling.grid_lines(32)
        assert sampling.grid_centres(48, 32)[5].tolist() == [rows[2], columns[1]]

    def test_distance_and_policies_by_hand(self):
        d = sampling.distances(torch.tensor([1, 0]), 3, 2)
        root2 = math.sqrt(2)
        expected = torch.tensor([[1.0, root2], [0.0, 1.0], [1.0, root2]])
        torch.testing.assert_close(d, expected)
        q = sampling.acceptance(d)
        assert float(q.max()) == 1
        torch.testing.assert_close(q[0, 1], torch.tensor((10 / (10 + root2)) ** 0.3))
        torch.testing.assert_close(sampling.acceptance(d, "linear"), 1 - expected / 120)
        assert sampling.acceptance(d, "root")[1, 0] == torch.inf
        keep = sampling.keep_probability(sampling.acceptance(d, "root"))
        assert keep[1, 0] == 1
        assert sampling.keep_probability(torch.tensor([-0.2, 0.3, 0.95])).tolist() == pytest.approx([0, 0.4, 1])

    @pytest.mark.parametrize(
        ("size", "points", "line"),
        [
            ((3, 32), None, "height: got 3; expected at least 4 pixels, for the 3 x 3 grid of centres"),
            ((32, 2), None, "width: got 2; expected at least 4 pixels"),
            ((32, 64), (20, 32, 44), "height: got 32; expected more than 44 pixels"),
            ((64, 64), (1, 1, 2), r"points: got \(1, 1, 2\); expected three different pixels"),
            ((64, 64), (1, 2), r"points: got \(1, 2\)"),
            ((64, 64), (-1, 2, 3), "points: got"),
        ],
    )
    def test_bad_input_is_one_line(self, size, points, line):
        with pytest.raises(InputError, match=f"^{line}"):
            sampling.grid_centres(*size, points)


class TestFiring:
    DRAWS, LEVELS, RATE = 40_000, 41, 1e-6

    def test_the_share_that_fires_and_its_slope(self):
        """Exact binomial tests, error rate 1e-6 in all: P(fire), and by how much it grows between two levels."""
        a = 0.9
        x = torch.linspace(-1.4, 1.4, self.LEVELS, dtype=torch.float64)
        noise = torch.rand(self.DRAWS, self.LEVELS, dtype=torch.float64) * 2 - 1
        b = sampling.fired(x, noise, a)
        p, fires = sampling.firing_probability(x, a), b > 0
        level = self.RATE / (2 * self.LEVELS)
        for count, chance in zip(fires.sum(dim=0).tolist(), p.tolist(), strict=True):
            assert stats.binomtest(count, self.DRAWS, chance).pvalue > level
        torch.testing.assert_close(b.mean(dim=0), fires.double().mean(dim=0), atol=2e-4, rtol=0)  # the guard's share
        h = 0.05
        grown = ((sampling.fired(x + h, noise, a) > 0) & ~(sampling.fired(x - h, noise, a) > 0)).sum(dim=0)
        flat = (x.abs() - a).abs() > h  # elsewhere the slope changes between the two levels
        chance = 2 * h * sampling.expected_slope(x, a)
        for count, share in zip(grown[flat].tolist(), chance[flat].tolist(), strict=True):
            assert stats.binomtest(count, self.DRAWS, share).pvalue > level

    def test_the_mean_of_the_gradient_and_its_spread(self):
        """One draw in each of n strata: the mean is off by the total variation 2e5 over n at most, whatever is drawn.

        With plain draws the spread of 136 would need 1e8 of them.
        """
        a, count = 0.8, 4_000_000
        u = 2 * (torch.arange(count) + torch.rand(count, dtype=torch.float64)) / count - 1
        for x in (-0.7, 0.0, 0.5):
            slope = sampling.raw_slope(torch.tensor(x, dtype=torch.float64), u, a)
            expected = float(sampling.expected_slope(torch.tensor(x), a))
            assert abs(float(slope.mean()) - expected) < 2e5 / count + 1e-4
            assert float(slope.std()) == pytest.approx(math.sqrt(1 / (6 * a * sampling.GUARD)), rel=0.1)
            assert float((slope < 1e-3).double().mean()) > 0.9
        assert sampling.expected_slope(torch.tensor([-0.81, 0.81]), a).tolist() == [0, 0]

    def test_the_raw_slope_is_the_derivative(self):
        x = torch.linspace(-1, 1, 50, dtype=torch.float64, requires_grad=True)
        noise = torch.rand(50, dtype=torch.float64) * 2 - 1
        (expected,) = torch.autograd.grad(sampling.fired(x, noise, 0.9).sum(), x)
        torch.testing.assert_close(sampling.raw_slope(x.detach(), noise, 0.9), expected, rtol=1e-6, atol=1e-9)

    def test_masks_keep_as_often_as_they_should(self):
        q = sampling.acceptance(sampling.distances(sampling.grid_centres(16, 16)[:1], 16, 16))[0]
        draws = 20_000
        counts = sum(sampling.kept(q, torch.rand(500, 16, 16)).sum(dim=0) for _ in range(draws // 500))
        keep = sampling.keep_probability(q).double()
        pvalues = [
            stats.binomtest(int(c), draws, min(p, 1.0)).pvalue
            for c, p in zip(counts.flatten()[::7].tolist(), keep.flatten()[::7].tolist(), strict=True)
        ]
        assert min(pvalues) > 1e-6 / len(pvalues)  # error rate 1e-6


@pytest.mark.parametrize("slope", ["expected", "raw"])
def test_a_slope_changes_no_view_and_is_its_gradient(slope):
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    noise, masks = torch.rand(2, 4, 2, 3, 5, 5) * 2 - 1, torch.rand(2, 4, 2, 5, 5) > 0.3
    plain = sampling.sampled(x, noise, masks, 0.9)
    found = sampling.sampled(x, noise, masks, 0.9, slope)
    view = sampling.attached(found, x)
    assert torch.equal(view, plain.view)
    seen = masks[:, :, :, None].float()
    inside = x[:, None, None]
    each = sampling.raw_slope(inside, noise, 0.9) if slope == "raw" else sampling.expected_slope(inside, 0.9)
    expected = (each * seen).mean(dim=2).sum(dim=1)
    torch.testing.assert_close(torch.autograd.grad(view.sum(), x)[0], expected)
    (other,) = torch.autograd.grad(sampling.attached(found, x, sign=-1).sum(), x)
    torch.testing.assert_close(other, -expected)


class TestConsistency:
    def test_features_in_proportion_to_exposure_cost_nothing(self):
        z = torch.rand(5, 3) + 0.5
        f = z[..., None] * torch.randn(1, 3, 7)
        for distance in ("smooth_l1", "l2"):
            for against in ("others", "all"):
                assert consistency(f, z, distance, against).abs().max() < 1e-6
                assert consistency(f + torch.randn(5, 3, 7), z, distance, against).min() > 0

    def test_by_hand(self):
        f, z = torch.tensor([[[3.0]], [[0.0]], [[1.0]]]), torch.ones(3, 1)
        assert consistency(f, z, "l2").flatten().tolist() == pytest.approx([6.25, 4.0, 0.25])
        assert consistency(f, z).flatten().tolist() == pytest.approx([2.0, 1.5, 0.125])
        assert consistency(f, z, "l2", "all").flatten().tolist() == pytest.approx([25 / 9, 16 / 9, 1 / 9])

    def test_half_precision_is_summed_in_full(self):
        f = torch.randn(3, 2, 4).bfloat16()
        assert consistency(f, torch.ones(3, 2)).dtype == torch.float32

    @pytest.mark.parametrize(
        ("count", "distance", "line"), [(1, "l2", "loops: got 1"), (2, "l1", "distance: got 'l1'")]
    )
    def test_bad_input(self, count, distance, line):
        with pytest.raises(InputError, match=f"^{line}"):
            consistency(torch.ones(count, 2, 3), torch.ones(count, 2), distance)
