"""Correlations, readers and neighbours against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from deconfound.analysis.correlations import measured_correlations, stored_correlations
from deconfound.analysis.neighbours import nearest, queries, same_class
from deconfound.analysis.readers import accuracy, reader
from deconfound.analysis.style import bases_of
from deconfound.errors import InputError
from deconfound.functional.statistics import wilson_interval
from deconfound.functional.style import left_out


def known(d=32, classes=6, seed=0):
    """Weights and a covariance that is far from white, and orthonormal anchors."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, d, generator=generator)
    weight += 2 * torch.randn(1, d, generator=generator)  # rows that lean the same way
    root = torch.randn(d, d, generator=generator) / d**0.5
    anchors = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    return weight, root @ root.T, anchors


class TestBases:
    def test_exact_is_uncorrelated_and_deflation_is_not(self):
        weight, covariance, anchors = known()
        bases = bases_of(weight, covariance, anchors)
        exact, deflated = (stored_correlations(weight, covariance, bases[n].matrix) for n in ("exact", "deflation"))
        assert exact.largest < 1e-5
        assert deflated.largest > 0.2
        assert deflated.mean > 0.05
        assert bases["exact"].leakage < 1e-5
        assert bases["deflation"].leakage > 0.05
        assert [left_out(weight @ covariance, bases[name].matrix) for name in ("exact", "deflation")] == [6, 1]

    def test_of_one_row_both_are_exact(self):
        weight, covariance, anchors = known(classes=1)
        for basis in bases_of(weight, covariance, anchors).values():
            assert stored_correlations(weight, covariance, basis.matrix).largest < 1e-5

    def test_correlations_under_a_covariance_are_those_of_a_sample_with_that_covariance(self):
        weight, covariance, anchors = known()
        matrix = bases_of(weight, covariance, anchors)["deflation"].matrix
        generator = torch.Generator().manual_seed(1)
        white = torch.randn(400, 32, generator=generator, dtype=torch.float64)
        white -= white.mean(dim=0)
        white = torch.linalg.qr(white).Q  # covariance exactly proportional to the identity
        points = white @ torch.linalg.cholesky(covariance.double()).T
        stored = stored_correlations(weight, covariance, matrix)
        measured = measured_correlations(points @ weight.double().T, points @ matrix.double().T)
        assert measured.largest == pytest.approx(stored.largest, abs=1e-6)
        assert measured.mean == pytest.approx(stored.mean, abs=1e-6)


class TestCorrelations:
    def test_known_values(self):
        content = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
        style = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        found = measured_correlations(content, style)
        assert (found.largest, found.mean) == (pytest.approx(1), pytest.approx(0.5))

    def test_scale_and_place_do_not_matter(self):
        torch.manual_seed(0)
        content, style = torch.randn(50, 3), torch.randn(50, 4)
        found = measured_correlations(content, style)
        moved = measured_correlations(1e3 * content + 7, 1e-3 * style - 5)
        assert moved.largest == pytest.approx(found.largest, rel=1e-3)
        assert moved.mean == pytest.approx(found.mean, rel=1e-3)

    def test_what_is_constant_correlates_with_nothing(self):
        content = torch.arange(6.0)[:, None]
        constant = torch.cat([torch.full((6, 1), 0.3), content], dim=1)
        found = measured_correlations(content, constant)
        assert (found.largest, found.mean) == (pytest.approx(1), pytest.approx(0.5))
        assert measured_correlations(content, torch.zeros(6, 2)).largest == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
class TestWhatIsNotFinite:
    """One value is enough, and it must not pass for uncorrelated."""

    def planted(self, bad, *shape):
        matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        matrix[1, 2] = bad
        return matrix

    @pytest.mark.parametrize("field", ["content", "style"])
    def test_on_images(self, bad, field):
        sides = {"content": torch.randn(20, 4), "style": torch.randn(20, 5)}
        sides[field] = self.planted(bad, *sides[field].shape)
        with pytest.raises(InputError, match=rf"^{field}: got '1 of \d+ not finite'; expected finite numbers$"):
            measured_correlations(**sides)

    @pytest.mark.parametrize("field", ["weight", "covariance", "basis"])
    def test_under_a_covariance(self, bad, field):
        weight, covariance, anchors = known()
        parts = {"weight": weight, "covariance": covariance, "basis": anchors}
        parts[field] = self.planted(bad, *parts[field].shape)
        with pytest.raises(InputError, match=rf"^{field}: got '1 of \d+ not finite'"):
            stored_correlations(**parts)

    @pytest.mark.parametrize("field", ["weight", "covariance"])
    def test_bases(self, bad, field):
        weight, covariance, anchors = known()
        parts = {"weight": weight, "covariance": covariance}
        parts[field] = self.planted(bad, *parts[field].shape)
        with pytest.raises(InputError, match=rf"^{field}: got '1 of \d+ not finite'"):
            bases_of(**parts, anchors=anchors)


class TestReader:
    def test_shift_and_entropy_have_their_closed_forms(self):
        p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.2, 0.7])
        found = reader(p.log()[None] + 3, q.log()[None] - 1, torch.tensor([0]))
        entropy, shift = -(p * p.log()).sum(), -(p * q.log()).sum()
        assert found.entropy == pytest.approx(float(entropy), rel=1e-6)
        assert found.shift == pytest.approx(float(shift), rel=1e-6)
        assert found.divergence == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
        assert (found.natural.share, found.adversarial.share) == (1, 0)

    def test_nothing_moved_is_no_divergence(self):
        logits = torch.randn(20, 4)
        assert reader(logits, logits, torch.zeros(20, dtype=torch.int64)).divergence == pytest.approx(0, abs=1e-12)

    def test_accuracies_have_wilson_intervals_and_nan_is_wrong(self):
        logits = torch.eye(4).repeat(5, 1)
        labels = torch.arange(4).repeat(5)
        labels[:3] = (labels[:3] + 1) % 4
        logits[19] = math.nan
        found = accuracy(logits, labels)
        assert found.share == 16 / 20
        assert found.interval == wilson_interval(16, 20)


class TestNeighbours:
    def test_planted_duplicates_are_found_first(self):
        torch.manual_seed(0)
        points = torch.randn(300, 40)
        copies = {5: 17, 80: 299, 255: 256, 256: 255, 0: 100}  # across the blocks of rows
        for place, other in copies.items():
            points[place] = points[other]
        places = torch.tensor(sorted(copies))
        found, distances = nearest(points, places, 3)
        assert found[:, 0].tolist() == [copies[int(place)] for place in places]
        assert (distances[:, 0] == 0).all()
        assert (distances[:, 1] > 0).all()
        assert (found != places[:, None]).all()

    def test_order_agrees_with_all_distances(self):
        torch.manual_seed(1)
        points = torch.randn(30, 5, dtype=torch.float64)
        found, distances = nearest(points, torch.arange(30), 4)
        for place in range(30):
            away = (points - points[place]).square().sum(dim=1).sqrt()
            away[place] = math.inf
            assert found[place].tolist() == away.argsort()[:4].tolist()
            assert torch.allclose(distances[place], away.sort().values[:4])

    def test_the_earlier_place_wins_a_tie(self):
        points = torch.zeros(5, 2)
        for count in (1, 3):
            assert nearest(points, torch.tensor([0, 3]), count)[0].tolist() == [[1, 2, 3][:count], [0, 1, 2][:count]]

    def test_no_more_than_there_are(self):
        assert nearest(torch.eye(3), torch.tensor([1]), 9)[0].tolist() == [[0, 2]]

    def test_same_class(self):
        points = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]])
        assert same_class(points, torch.tensor([0, 0, 1, 2, 2])) == pytest.approx(3 / 5)
        assert same_class(points[:1], torch.tensor([0])) == 0

    def test_queries_are_first_of_evenly_spaced_classes(self):
        labels = torch.tensor([7, 7, 3, 5, 3, 9, 1])
        assert queries(labels, 3).tolist() == [6, 3, 5]
        assert queries(labels, 99).tolist() == [6, 2, 3, 0, 5]
