"""Covariances, style bases and the marginalisation against closed forms."""

from __future__ import annotations

import pytest
import torch

from deconfound.errors import InputError
from deconfound.functional.covariance import batch_weight, class_rows, increments, merge_full_, merged_low_rank
from deconfound.functional.marginalisation import correction_table
from deconfound.functional.style import anchors, deflated_basis, exact_basis, leakage, left_out, unit


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def correlated(classes, dimension, seed=0):
    """Rows W S of correlated weights and a correlated covariance, as training makes them."""
    g = generator(seed)
    mix = torch.randn(dimension, dimension, generator=g) * torch.linspace(1, 0.01, dimension)
    features = unit(torch.relu(torch.randn(2000, dimension, generator=g) @ mix / 10 + 1))
    weight = torch.randn(classes, dimension, generator=g) + 2 * torch.randn(1, dimension, generator=g)
    return weight @ torch.cov(features.T, correction=0)


class TestCovariance:
    def test_rows_of_classes_are_their_moments(self):
        features, labels = torch.randn(40, 5, dtype=torch.float64), torch.randint(0, 6, (40,)) * 3
        rows = class_rows(features, labels)
        for place, label in enumerate(rows.present.tolist()):
            own = features[labels == label]
            torch.testing.assert_close(rows.mean[place], own.mean(0))
            torch.testing.assert_close(rows.covariance[place], torch.cov(own.T, correction=0))
            assert rows.counts[place] == len(own)
        assert torch.equal(rows.present, labels.unique())

    def test_merging_two_batches_is_the_moment_of_both(self):
        first, second = torch.randn(30, 4, dtype=torch.float64), 2 + torch.randn(20, 4, dtype=torch.float64)
        rows = class_rows(second, torch.zeros(20, dtype=torch.int64))
        weight = batch_weight(torch.tensor([30.0], dtype=torch.float64), torch.tensor([20.0], dtype=torch.float64))
        added = increments(rows, first.mean(0, keepdim=True), weight)
        merged = torch.stack([torch.zeros(4, 4, dtype=torch.float64), torch.cov(first.T, correction=0)])
        merge_full_(merged, torch.tensor([1]), added, weight)
        assert not merged[0].any()
        torch.testing.assert_close(merged[1], torch.cov(torch.cat([first, second]).T, correction=0))

    def test_low_rank_is_exact_within_the_rank_and_the_best_beyond(self):
        g = generator()
        low = torch.randn(50, 3, generator=g, dtype=torch.float64) @ torch.randn(
            3, 10, generator=g, dtype=torch.float64
        )
        one = torch.ones(1, dtype=torch.float64)
        for data, rank in ((low, 4), (torch.randn(50, 10, generator=g, dtype=torch.float64), 4)):
            rows = class_rows(data, torch.zeros(50, dtype=torch.int64))
            added = increments(rows, torch.zeros(1, 10, dtype=torch.float64), one)
            factors = merged_low_rank(torch.zeros(1, rank, 10, dtype=torch.float64), added, one)[0]
            true = torch.cov(data.T, correction=0)
            values, vectors = torch.linalg.eigh(true)
            best = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
            torch.testing.assert_close(factors.T @ factors, best)

    def test_momentum_forgets(self):
        assert batch_weight(torch.tensor([990.0]), torch.tensor([10.0])).item() == pytest.approx(0.01)
        assert batch_weight(torch.tensor([990.0]), torch.tensor([10.0]), 0.1).item() == pytest.approx(0.1)
        assert batch_weight(torch.tensor([0.0]), torch.tensor([10.0]), 0.1).item() == 1


class TestBasis:
    @pytest.mark.parametrize("classes", [10, 100])
    def test_exact_style_is_uncorrelated_with_content_and_deflation_is_not(self, classes):
        crossed, start = correlated(classes, 512), anchors(512, generator())
        basis = exact_basis(crossed, start)
        assert left_out(crossed, basis) == classes
        assert float(leakage(crossed, basis)) < 1e-5
        assert float(leakage(crossed, deflated_basis(crossed, start))) > 0.05
        torch.testing.assert_close(basis.norm(dim=1), torch.ones(512))
        assert int((torch.linalg.svdvals(basis) > 1e-4).sum()) == 512 - classes

    @pytest.mark.parametrize("dimension", [2, 7, 64])
    def test_anchors_are_orthonormal_and_drawn(self, dimension):
        start = anchors(dimension, generator())
        torch.testing.assert_close(start @ start.T, torch.eye(dimension), rtol=0, atol=1e-5)
        assert torch.equal(start, anchors(dimension, generator()))
        assert not torch.equal(start, anchors(dimension, generator(1)))

    def test_anchors_come_from_the_most_orthogonal_directions(self):
        g = generator(5)
        drawn = torch.nn.functional.normalize(torch.randn(16, 4, generator=g), dim=1)
        chosen = (drawn @ drawn.T).abs().sum(1).argsort()[:4]
        first = drawn[chosen[0]]
        kept = anchors(4, generator(5))[0]
        assert abs(float(first @ kept)) == pytest.approx(1, abs=1e-5)  # QR keeps the direction of its first vector

    def test_many_classes_lose_the_leading_half(self):
        crossed, start = correlated(60, 64), anchors(64, generator())
        basis = exact_basis(crossed, start)
        assert left_out(crossed, basis) == 32
        leading = torch.linalg.svd(crossed, full_matrices=False)[2][:32]
        assert float((leading @ basis.T).abs().max()) < 1e-5
        assert 0 < float(leakage(crossed, basis)) < float(leakage(crossed, start))

    def test_a_dependent_row_takes_no_direction_of_its_own(self):
        crossed = correlated(3, 32)
        crossed = torch.cat([crossed, crossed.sum(0, keepdim=True), torch.zeros(1, 32)])
        basis = exact_basis(crossed, anchors(32, generator()))
        assert left_out(crossed, basis) == 3
        assert float(leakage(crossed, basis)) < 1e-5

    def test_nothing_seen_leaves_the_anchors(self):
        start = anchors(8, generator())
        basis = exact_basis(torch.zeros(3, 8), start)
        assert left_out(torch.zeros(3, 8), basis) == 0
        torch.testing.assert_close(basis, start)
        torch.testing.assert_close(deflated_basis(torch.zeros(3, 8), start), start)

    def test_only_the_last_removal_of_a_deflation_holds(self):
        crossed, start = correlated(5, 32), anchors(32, generator())
        basis = deflated_basis(crossed, start)
        assert float(leakage(crossed[-1:], basis)) < 1e-5
        assert float(leakage(crossed[:1], basis)) > 1e-3

    @pytest.mark.parametrize(("classes", "dimension"), [(2, 8), (10, 64), (10, 512)])
    def test_a_deflation_leaves_out_one_direction(self, classes, dimension):
        crossed, start = correlated(classes, dimension), anchors(dimension, generator())
        assert left_out(crossed, deflated_basis(crossed, start)) == 1
        assert left_out(crossed, start) == 0

    def test_a_deflation_of_orthogonal_rows_leaves_out_all(self):
        crossed = 3 * torch.linalg.qr(torch.randn(16, 5, generator=generator())).Q.T
        assert left_out(crossed, deflated_basis(crossed, anchors(16, generator()))) == 5

    def test_a_feature_of_zero_norm_is_finite_and_so_is_its_gradient(self):
        features = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
        found = unit(features)
        found.square().sum().backward()
        torch.testing.assert_close(found.detach(), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
        assert torch.isfinite(features.grad).all()


def cases(form, classes=5, dimension=6, rank=3):
    """A head, covariances in a form, and the same in full."""
    g = generator(2)
    head = torch.randn(classes, dimension, generator=g, dtype=torch.float64)
    factors = torch.randn(classes, rank, dimension, generator=g, dtype=torch.float64)
    if form == "diagonal":
        variances = factors.square().sum(1)
        return head, variances, torch.diag_embed(variances)
    full = factors.mT @ factors
    return head, (factors if form == "low-rank" else full), full


@pytest.mark.parametrize("form", ["full", "low-rank", "diagonal"])
class TestMarginalisation:
    def test_the_table_by_label_is_the_form_per_example(self, form):
        head, covariance, full = cases(form)
        labels = torch.tensor([3, 0, 3, 3, 1, 0])
        present, places = labels.unique(return_inverse=True)
        table = correction_table(head, covariance, present, 0.7, form)[places]
        for row, label in zip(table, labels.tolist(), strict=True):
            differences = head - head[label]
            expected = 0.35 * (differences @ full[label] * differences).sum(1)
            torch.testing.assert_close(row, expected)
        assert not table.gather(1, labels[:, None]).abs().gt(1e-12).any()

    def test_its_gradient_is_that_of_differences(self, form):
        head, covariance, _ = cases(form)
        head.requires_grad_()
        present = torch.tensor([0, 2, 4])
        weights = torch.randn(3, 5, dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda v: (correction_table(v, covariance, present, 0.7, form) * weights).sum(), (head,)
        )

    def test_ratio_scales_it(self, form):
        head, covariance, _ = cases(form)
        present = torch.arange(5)
        one = correction_table(head, covariance, present, 1.0, form)
        torch.testing.assert_close(correction_table(head, covariance, present, 0.25, form), 0.25 * one)
        assert not correction_table(head, covariance, present, 0.0, form).any()


def test_the_correction_is_the_log_of_an_expectation():
    """E exp(v^T u) over u ~ N(m, S) is exp(v^T m + v^T S v / 2)."""
    g = generator(4)
    head, factor = 0.5 * torch.randn(3, 2, generator=g), torch.randn(2, 2, generator=g)
    draws = torch.randn(400_000, 2, generator=g) @ factor
    table = correction_table(head, (factor.T @ factor).expand(3, 2, 2), torch.tensor([1]), 1.0)[0]
    for j in range(3):
        drawn = (draws @ (head[j] - head[1])).exp().mean().log()
        assert float(drawn) == pytest.approx(float(table[j]), abs=0.03)


def test_an_unknown_form_is_refused():
    head, covariance, _ = cases("full")
    with pytest.raises(InputError, match=r"^form: got 'half'"):
        correction_table(head, covariance, torch.tensor([0]), 1.0, "half")
