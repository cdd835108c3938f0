"""Canonical correlations and what a linear reader recovers, against closed forms and planted leaks."""

from __future__ import annotations

import pytest
import torch

from deconfound.analysis.correlations import measured_correlations, recovered, stored_correlations
from deconfound.analysis.style import bases_of
from deconfound.functional.style import anchors

CLASSES = 10


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def orthonormal(images, columns, seed=0):
    """Centred columns of length 1, orthogonal to each other."""
    drawn = torch.randn(images, columns, generator=generator(seed), dtype=torch.float64)
    return torch.linalg.qr(drawn - drawn.mean(dim=0)).Q


def mixed(columns, seed):
    """The same space, other coordinates."""
    size = columns.shape[1]
    return columns @ (torch.randn(size, size, generator=generator(seed), dtype=torch.float64) + 2 * torch.eye(size)) + 3


def trained(dimension, images):
    """A last layer and a covariance far from white, the bases of both, and features drawn with that covariance."""
    g = generator()
    root = torch.randn(dimension, dimension, generator=g) * torch.linspace(1, 0.05, dimension)
    covariance = root @ root.T / dimension
    weight = torch.randn(CLASSES, dimension, generator=g)
    drawn = torch.randn(images, dimension, generator=g) @ root.T / dimension**0.5
    return weight, covariance, bases_of(weight, covariance, anchors(dimension, g)), drawn


class TestCanonical:
    def test_closed_form(self):
        q = orthonormal(40, 6)
        first, second = 0.9, 0.3
        content = mixed(q[:, :2], 1)
        style = torch.stack(
            [first * q[:, 0] + (1 - first**2) ** 0.5 * q[:, 2], second * q[:, 1] + (1 - second**2) ** 0.5 * q[:, 3]], 1
        )
        found = measured_correlations(content, mixed(style, 2))
        assert found.canonical_largest == pytest.approx(first)
        assert found.canonical_mean_square == pytest.approx((first**2 + second**2) / 2)
        more = measured_correlations(content, mixed(torch.cat([style, q[:, 4:]], dim=1), 3))  # nothing to read in these
        assert more.canonical_mean_square == pytest.approx(found.canonical_mean_square)

    def test_under_a_covariance_they_are_those_of_a_sample_with_that_covariance(self):
        weight, covariance, bases, _ = trained(32, 0)
        points = orthonormal(400, 32) @ torch.linalg.cholesky(covariance.double()).T
        for basis in bases.values():
            stored = stored_correlations(weight, covariance, basis.matrix)
            measured = measured_correlations(points @ weight.double().T, points @ basis.matrix.double().T)
            assert measured.model_dump() == pytest.approx(stored.model_dump(), abs=1e-3)

    @pytest.mark.parametrize("dimension", [64, 128])
    def test_a_basis_whose_coordinates_hide_what_they_leak_together(self, dimension):
        weight, covariance, bases, drawn = trained(dimension, 1000)
        matrix = bases["deflation"].matrix
        stored = stored_correlations(weight, covariance, matrix)
        assert stored.largest < 0.5
        assert stored.mean < 0.1
        assert bases["deflation"].leakage < 0.25
        assert stored.canonical_largest == pytest.approx(1, abs=1e-6)
        assert stored.canonical_mean_square == pytest.approx(0.9, abs=1e-3)  # all directions but the last removed
        content, style = drawn @ weight.T, drawn @ matrix.T
        measured = measured_correlations(content, style)
        assert measured.canonical_largest == pytest.approx(1, abs=1e-3)
        assert measured.canonical_mean_square > 0.9
        assert 0.8 < recovered(weight, covariance, matrix, content, style) < 0.95

    @pytest.mark.parametrize("dimension", [64, 128])
    def test_the_exact_basis_leaks_nothing(self, dimension):
        weight, covariance, bases, drawn = trained(dimension, 100)
        matrix = bases["exact"].matrix
        stored = stored_correlations(weight, covariance, matrix)
        assert stored.canonical_largest < 2e-3  # float32 rounding over the smallest deviation that is read
        assert stored.canonical_mean_square < 1e-6
        assert recovered(weight, covariance, matrix, drawn @ weight.T, drawn @ matrix.T) == pytest.approx(0, abs=1e-3)

    def test_what_is_rounding_is_not_read(self):
        q = orthonormal(60, 4)
        content = q[:, :1]
        for amplitude, read in ((1e-3, 1.0), (1e-7, 0.0)):
            style = torch.cat([q[:, 1:], amplitude * content], dim=1)
            assert measured_correlations(content, style).canonical_largest == pytest.approx(read, abs=1e-6)

    def test_no_more_images_than_directions_say_nothing(self):
        found = measured_correlations(
            torch.randn(20, 3, generator=generator()), torch.randn(20, 30, generator=generator(1))
        )
        assert found.canonical_mean_square == pytest.approx(1)

    def test_the_mean_square_of_independent_sides_is_directions_over_images(self):
        """E = q / (n - 1); the mean of 200 draws lies within 4 standard errors but for 1 seed in 16 000."""
        images, directions, g = 50, 12, generator()
        squares = torch.tensor([
            measured_correlations(torch.randn(images, 3, generator=g), torch.randn(images, directions, generator=g))
            .canonical_mean_square
            for _ in range(200)
        ])  # fmt: skip
        error = float(squares.std()) / len(squares) ** 0.5
        assert float(squares.mean()) == pytest.approx(directions / (images - 1), abs=4 * error)

    def test_nothing_varies(self):
        found = measured_correlations(torch.zeros(5, 3), torch.zeros(5, 2))
        assert (found.largest, found.canonical_largest, found.canonical_mean_square) == (0, 0, 0)


class TestRecovered:
    def test_closed_forms(self):
        """Content and style are two coordinates of a feature with correlation r: R^2 is r^2 where Sigma holds."""
        r, q = 0.8, orthonormal(200, 2)
        weight, basis = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
        covariance = torch.tensor([[1.0, r], [r, 1.0]])
        style = torch.stack([q[:, 0], torch.zeros(200)], dim=1)
        for sign, expected in ((1, r**2), (-1, 1 - 1 - 3 * r**2)):  # with the sign turned every reading is wrong
            content = (sign * r * q[:, 0] + (1 - r**2) ** 0.5 * q[:, 1])[:, None]
            assert recovered(weight, covariance, basis, content + 5, style - 2) == pytest.approx(expected)

    def test_content_that_does_not_vary(self):
        weight, covariance, bases, drawn = trained(16, 8)
        style = drawn @ bases["exact"].matrix.T
        assert recovered(weight, covariance, bases["exact"].matrix, torch.zeros(8, CLASSES), style) is None
