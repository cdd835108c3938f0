"""The style branch: parity with the released predictor, its state, and what moves it."""

from __future__ import annotations

import copy
import io
import logging

import numpy as np
import pytest
import torch

from causal_steps import marginalised
from deconfound.errors import InputError
from deconfound.functional.losses import soft_cross_entropy
from deconfound.functional.style import deflated_basis, left_out, unit
from deconfound.models.style_branch import StyleBranch, bounded_form

AUTHORS = {"pred.0": "inner", "pred.1": "norm", "pred.3": "outer", "fc.0": "head"}


def golden(shared, name):
    with np.load(shared / "golden" / f"causaladv_{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def recorded_branch(recorded):
    """A branch with the weights of the released predictor."""
    branch = StyleBranch(8, 4, form="full")
    state = {
        f"{AUTHORS[key.removeprefix('g.').rsplit('.', 1)[0]]}.{key.rsplit('.', 1)[1]}": value
        for key, value in recorded.items()
        if key.startswith("g.")
    }
    branch.load_state_dict(branch.state_dict() | state)
    return branch


def used(seed=0, **settings):
    """A branch in the middle of training, a basis for some weight, features and labels."""
    branch = StyleBranch(12, 3, seed=seed, **settings)
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(30) % 3
    features = torch.randn(30, 12, generator=g) + labels[:, None]
    weight = torch.randn(3, 12, generator=g)
    for _ in range(3):
        branch.observe(features)
        basis = branch.basis(weight)
        branch.learn(branch.style(features, basis.matrix), labels, 0.5)
    return branch, basis, features, labels, weight


class TestParity:
    def test_deflated_basis_and_style(self, shared):
        recorded = golden(shared, "style")
        branch = StyleBranch(8, 4, basis="deflation")
        branch.start.copy_(recorded["anchors"])
        branch.observe(recorded["features"])
        close(branch.content.covariance[0], recorded["global_covariance"])
        basis = branch.basis(recorded["weight"])
        close(basis.matrix, recorded["basis"])
        close(branch.style(recorded["features"], basis.matrix), recorded["style"])
        assert basis.leakage > 0.05
        assert left_out(recorded["weight"] @ recorded["global_covariance"], basis.matrix) == 1

    def test_predictor_in_training(self, shared):
        recorded = golden(shared, "style_predictor")
        branch = recorded_branch(recorded)
        # The recorded state is the one after the pass: running statistics do not enter it.
        found = branch.learn(recorded["style"], recorded["labels"], 0.3)
        close(found, recorded["logits_train_ratio03"], 1e-4)
        close(branch.own.covariance, recorded["covariance_after"], 1e-4)
        again = branch.learn(recorded["style"], recorded["labels"], 0.3, update=False)
        assert torch.equal(again, found)

    def test_predictor_in_evaluation(self, shared):
        recorded = golden(shared, "style_predictor")
        branch = recorded_branch(recorded)
        branch.learn(recorded["style"], recorded["labels"], 0.3)
        branch.load_state_dict(recorded_branch(recorded).state_dict() | branch.own.state_dict(prefix="own."))
        natural, adversarial = (
            marginalised(branch, recorded[name], recorded["labels"], 0.7) for name in ("style", "style_adv")
        )
        close(natural, recorded["logits_eval_ratio07"])
        close(adversarial, recorded["logits_adv_eval_ratio07"])
        loss = soft_cross_entropy(adversarial, natural).mean()
        assert float(loss.detach()) == pytest.approx(float(recorded["style_loss"]), rel=1e-5)


class TestState:
    def test_a_loaded_branch_is_the_same_function(self):
        branch, _, features, labels, weight = used()
        file = io.BytesIO()
        torch.save(branch.state_dict(), file)
        file.seek(0)
        other = StyleBranch(12, 3, seed=9)
        matrix = branch.basis(weight).matrix
        before = marginalised(other, other.style(features, other.basis(weight).matrix), labels, 1.0)
        other.load_state_dict(torch.load(file, weights_only=True))
        found = marginalised(other, other.style(features, other.basis(weight).matrix), labels, 1.0)
        expected = marginalised(branch, branch.style(features, matrix), labels, 1.0)
        assert torch.equal(found, expected)
        assert float((before - expected).abs().max().detach()) > 0.1

    def test_seeds_decide_anchors_and_weights_and_nothing_else_is_drawn(self):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first, again, other = StyleBranch(6, 2, seed=1), StyleBranch(6, 2, seed=1), StyleBranch(6, 2, seed=2)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first.start, again.start)
        assert torch.equal(first.inner.weight, again.inner.weight)
        assert not torch.equal(first.start, other.start)
        assert not torch.equal(first.inner.weight, other.inner.weight)

    @pytest.mark.parametrize("training", [True, False])
    def test_evaluation_moves_nothing_whatever_the_mode(self, training):
        branch, basis, features, labels, _ = used()
        state = copy.deepcopy(branch.state_dict())
        branch.train(training)
        style = branch.style(features, basis.matrix)
        found = marginalised(branch, style, labels, 1.0)
        torch.testing.assert_close(marginalised(branch, style[:1], labels[:1], 1.0), found[:1])  # no batch in it
        assert all(torch.equal(value, state[name]) for name, value in branch.state_dict().items())

    def test_learning_again_gives_the_same_and_moves_nothing(self):
        branch, basis, features, labels, _ = used()
        style = branch.style(features, basis.matrix)
        first = branch.learn(style, labels, 0.5)
        state = copy.deepcopy(branch.state_dict())
        assert torch.equal(branch.learn(style, labels, 0.5, update=False), first)
        assert all(torch.equal(value, state[name]) for name, value in branch.state_dict().items())

    def test_what_learning_moves(self):
        branch, basis, features, labels, _ = used()
        state = copy.deepcopy(branch.state_dict())
        branch.learn(branch.style(features, basis.matrix), labels, 0.5)
        moved = {name for name, value in branch.state_dict().items() if not torch.equal(value, state[name])}
        running = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
        assert moved >= running | {"own.count"}
        assert moved <= running | {"own.count", "own.mean", "own.covariance"}


class TestForms:
    def test_a_bound_on_the_state_decides(self):
        assert bounded_form(512, 512) == "full"  # 512 MiB exactly
        assert bounded_form(513, 512) == "low-rank"
        assert bounded_form(1000, 512) == "low-rank"
        assert bounded_form(10**6, 512) == "diagonal"

    def test_a_fallback_is_told_and_takes_little(self, caplog, monkeypatch):
        monkeypatch.setattr("deconfound.models.style_branch.STATE_BYTES", 4 * 20 * 64 * 64 - 1)
        with caplog.at_level(logging.WARNING, "deconfound"):
            branch = StyleBranch(64, 20)
            assert (branch.form, branch.own.covariance.shape) == ("low-rank", (20, 32, 64))
            (told,) = caplog.messages
            assert "low-rank" in told
            caplog.clear()
            assert StyleBranch(64, 19).form == "full"
            assert StyleBranch(64, 20, form="full").form == "full"
            assert not caplog.messages
            assert StyleBranch(64, 20, form="diagonal").own.covariance.shape == (20, 64)

    def test_a_low_rank_that_keeps_all_is_the_full_form(self):
        full, basis, features, labels, _ = used(form="full")
        low, *_ = used(form="low-rank")
        style = full.style(features, basis.matrix)
        torch.testing.assert_close(marginalised(low, style, labels, 1.0), marginalised(full, style, labels, 1.0))

    def test_the_diagonal_form_is_the_diagonal(self):
        full, *_ = used(form="full")
        diagonal, *_ = used(form="diagonal")
        torch.testing.assert_close(diagonal.own.covariance, full.own.covariance.diagonal(dim1=1, dim2=2))

    def test_content_that_cannot_be_removed_is_told_once_and_measured(self, caplog):
        with caplog.at_level(logging.WARNING, "deconfound"):
            branch = StyleBranch(12, 9)
            features = torch.randn(200, 12) + 1
            branch.observe(features)
            for _ in range(3):
                weight = torch.randn(9, 12)
                basis = branch.basis(weight)
        assert len(caplog.messages) == 1
        assert "style keeps some content" in caplog.messages[0]
        assert left_out(weight @ branch.content.covariance[0], basis.matrix) == 6
        assert 0.01 < basis.leakage < 1


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "settings", "line"),
        [
            ((12, 1), {}, "classes: got 1; expected a whole number of at least 2"),
            ((1, 4), {}, "dimension: got 1; expected a whole number of at least 2"),
            (
                (12, 4),
                {"basis": "exakt"},
                r"basis: got 'exakt'; expected one of deflation, exact \(did you mean 'exact'",
            ),
            ((12, 4), {"form": "half"}, "covariance: got 'half'; expected one of auto, diagonal, full, low-rank"),
            ((12, 4), {"momentum": 2.0}, "momentum: got 2.0"),
        ],
    )
    def test_settings(self, arguments, settings, line):
        with pytest.raises(InputError, match=f"^{line}"):
            StyleBranch(*arguments, **settings)

    def test_a_weight_of_another_shape(self):
        with pytest.raises(InputError, match=r"^weight: got \(4, 8\); expected shape \(3, 12\)"):
            StyleBranch(12, 3).basis(torch.zeros(4, 8))

    def test_one_class_one_example_and_zero_features_work(self):
        branch, basis, features, labels, _ = used()
        for count in (1, 5):
            found = branch.learn(branch.style(features[:count], basis.matrix), labels[:1].expand(count), 1.0)
            assert torch.isfinite(found).all()
        branch.observe(torch.zeros(4, 12))
        style = branch.style(torch.zeros(4, 12), basis.matrix)
        assert torch.isfinite(branch.learn(style, labels[:4], 1.0)).all()
        assert all(torch.isfinite(value).all() for value in branch.state_dict().values())

    def test_weights_that_diverged_are_left_to_the_loop(self):
        branch, *_ = used()
        assert torch.isfinite(branch.basis(torch.full((3, 12), torch.nan)).matrix).all()


def test_gradients_of_the_style_loss_in_double_precision():
    branch, basis, features, labels, _ = used()
    branch.double()
    matrix, natural = basis.matrix.double(), features[:5].double().requires_grad_()
    moved = (natural.detach() + 0.1 * torch.randn(5, 12, dtype=torch.float64)).requires_grad_()

    def loss(f, g):
        target, logits = (marginalised(branch, branch.style(x, matrix), labels[:5], 0.6) for x in (f, g))
        return soft_cross_entropy(logits, target).mean()

    assert torch.autograd.gradcheck(loss, (natural, moved))


def test_gradients_of_learning_in_double_precision():
    branch, basis, features, labels, _ = used()
    branch.double()
    style = branch.style(features.double(), basis.matrix.double())
    names = [name for name, _ in branch.named_parameters()]

    def loss(*values):
        for name, value in zip(names, values, strict=True):
            owner, _, leaf = name.rpartition(".")
            module = branch.get_submodule(owner)
            module._parameters.pop(leaf, None)
            setattr(module, leaf, value)
        return branch.learn(style, labels, 0.6, update=False).logsumexp(1).mean()

    values = tuple(p.detach().clone().requires_grad_() for p in branch.parameters())
    assert torch.autograd.gradcheck(loss, values)


def test_half_precision_stays_outside():
    branch, basis, features, labels, _ = used()
    with torch.autocast("cpu", torch.bfloat16):
        inside = marginalised(branch, branch.style(features, basis.matrix), labels, 1.0)
    assert torch.equal(inside, marginalised(branch, branch.style(features, basis.matrix), labels, 1.0))
    assert unit(features).dtype == deflated_basis(basis.matrix, basis.matrix).dtype == torch.float32
