"""Instrument diagnostics: textbook numbers, agreement with the library's own path, planted weak and invalid ones.

Statistical tests have fixed seeds, so they cannot flicker; each fails by chance once in a million (``MILLIONTH``).
"""

from __future__ import annotations

import builtins
import sys

import numpy as np
import pytest
import torch
from linearmodels.datasets import card, mroz
from linearmodels.iv import IV2SLS, IVGMM
from scipy import stats

from deconfound.analysis.components import principal_components
from deconfound.analysis.iv import diagnose
from deconfound.errors import InputError

MILLIONTH = 1e-6
DRAWS = 10
BETA = np.array([1.0, -0.5])


def planted(seed=0, count=300, strength=1.0, confounding=1.0, invalid=0.0, instruments=5):
    """y = T beta + confounding U + invalid Z_1 + noise; T = strength Z pi + U + noise, two treatments."""
    draw = np.random.default_rng(seed).normal
    z = draw(size=(count, instruments))
    pi = np.array([[1.0, 0.2], [0.3, 1.0], [0.5, -0.5], [0.2, 0.4], [0.1, 0.1]])[:instruments]
    u = draw(size=(count, 1))
    t = strength * z @ pi + u + draw(size=(count, 2))
    y = t @ BETA + 2 * confounding * u[:, 0] + invalid * z[:, 0] + draw(size=count)
    return y, t, z


@pytest.fixture(scope="module")
def found():
    """Women's wages and education instrumented by the parents' (Wooldridge 2010, example 5.3 and its sequels)."""
    data = mroz.load().dropna(subset=["lwage"])

    def pick(*names):
        return data[list(names)].to_numpy(float)

    return diagnose(pick("lwage")[:, 0], pick("educ"), pick("fatheduc", "motheduc"), pick("exper", "expersq"), ["educ"])


@pytest.fixture(scope="module")
def drawn():
    """The diagnoses of some draws with strong, valid instruments and a confounder."""
    return [diagnose(*planted(seed)) for seed in range(DRAWS)]


class TestTextbook:
    def test_relevance(self, found):
        (stage,) = found.first_stages
        assert (stage.name, stage.weak, found.weak) == ("educ", False, False)
        assert stage.f == pytest.approx(55.40, abs=0.005)
        assert found.joint_f == pytest.approx(stage.f)  # one treatment

    def test_estimates(self, found):
        (effect,) = found.effects
        assert effect.ols.value == pytest.approx(0.1075, abs=5e-5)
        assert effect.tsls.value == pytest.approx(0.0614, abs=5e-5)
        assert effect.ols.interval[0] < effect.ols.value < effect.ols.interval[1]

    def test_endogeneity_and_over_identification(self, found):
        assert found.wu_hausman.p_value == pytest.approx(0.095, abs=5e-4)
        assert found.sargan.statistic == pytest.approx(0.378, abs=5e-4)
        assert found.sargan.p_value == pytest.approx(0.5386, abs=5e-4)
        assert not found.sargan.rejects
        assert not found.hansen.rejects


def test_agrees_with_the_library_by_formula_and_with_a_hand_made_first_stage():
    data = card.load().dropna(subset=["lwage", "KWW", "IQ"]).astype(float)
    right = "1 + exper + expersq + black"
    formula = f"lwage ~ {right} + [educ ~ nearc2 + nearc4]"
    controls = data[["exper", "expersq", "black"]].to_numpy()
    z, t, y = data[["nearc2", "nearc4"]].to_numpy(), data[["educ"]].to_numpy(), data["lwage"].to_numpy()
    found = diagnose(y, t, z, controls)
    theirs = IV2SLS.from_formula(formula, data).fit(cov_type="robust", debiased=True)
    plain = IV2SLS.from_formula(formula, data).fit(cov_type="unadjusted", debiased=True)
    gmm = IVGMM.from_formula(formula, data).fit(cov_type="robust", debiased=True)
    (effect,) = found.effects
    assert effect.tsls.value == pytest.approx(theirs.params["educ"], rel=1e-9)
    assert effect.tsls.interval == pytest.approx(tuple(theirs.conf_int().loc["educ"]), rel=1e-8)
    assert effect.gmm.value == pytest.approx(gmm.params["educ"], rel=1e-9)
    assert found.hansen.p_value == pytest.approx(gmm.j_stat.pval, rel=1e-8)
    assert found.sargan.statistic == pytest.approx(plain.sargan.stat, rel=1e-8)
    assert found.wu_hausman.p_value == pytest.approx(plain.wu_hausman().pval, rel=1e-8)
    known = np.hstack([np.ones((len(y), 1)), controls])

    def left(design):
        return float(np.sum((t - design @ np.linalg.lstsq(design, t, rcond=None)[0]) ** 2))

    without, with_z = left(known), left(np.hstack([known, z]))
    f = (without - with_z) / 2 / (with_z / (len(y) - known.shape[1] - 2))
    (stage,) = found.first_stages
    assert stage.f == pytest.approx(f, rel=1e-8)
    assert stage.partial_r2 == pytest.approx(1 - with_z / without, rel=1e-8)


class TestPlanted:
    def test_the_effect_is_found_where_least_squares_does_not_find_it(self, drawn):
        """95 % intervals cover the truth as often as that; those of OLS, off by ten standard errors, never."""
        for estimator in ("tsls", "gmm"):
            for place, beta in enumerate(BETA):
                ends = [getattr(found.effects[place], estimator).interval for found in drawn]
                covered = sum(low <= beta <= high for low, high in ends)
                assert stats.binomtest(covered, DRAWS, 0.95).pvalue > MILLIONTH
        assert not any(low <= BETA[0] <= high for low, high in (found.effects[0].ols.interval for found in drawn))

    def test_endogeneity_is_seen_and_its_absence_too(self, drawn):
        assert max(found.wu_hausman.p_value for found in drawn) < MILLIONTH
        alarms = sum(diagnose(*planted(seed, confounding=0)).wu_hausman.rejects for seed in range(5))
        assert stats.binomtest(alarms, 5, 0.05, alternative="greater").pvalue > MILLIONTH

    @pytest.mark.parametrize("seed", range(2))
    def test_a_weak_instrument_is_named(self, seed):
        """Without any effect of Z, P(F(5, 294) > 10) is 1e-8."""
        found = diagnose(*planted(seed, strength=0.0))
        assert found.weak
        assert all(stage.weak and stage.f < 10 for stage in found.first_stages)

    def test_a_strong_one_is_not(self, drawn):
        assert not any(found.weak for found in drawn)
        assert min(stage.f for found in drawn for stage in found.first_stages) > 10

    def test_instruments_that_are_strong_one_by_one_and_weak_together_are_named(self):
        """Both treatments move with the same instrument only: each F is large, the joint one is not."""
        y, t, z = planted(2)
        t = 3 * z[:, :1] + np.random.default_rng(0).normal(size=t.shape)
        found = diagnose(y, t, z)
        assert not any(stage.weak for stage in found.first_stages)
        assert found.joint_f < 10
        assert found.weak

    @pytest.mark.parametrize("seed", range(2))
    def test_an_invalid_instrument_is_flagged(self, seed):
        found = diagnose(*planted(seed, invalid=2.0))
        assert found.sargan.p_value < MILLIONTH
        assert found.hansen.p_value < 1e-4

    def test_valid_ones_are_rejected_once_in_twenty(self, drawn):
        for name in ("sargan", "hansen"):
            alarms = sum(getattr(found, name).rejects for found in drawn)
            assert stats.binomtest(alarms, DRAWS, 0.05, alternative="greater").pvalue > MILLIONTH


class TestBadInput:
    def test_as_many_instruments_as_treatments(self):
        y, t, z = planted()
        with pytest.raises(InputError, match=r"^instruments: got 2; expected more than the 2 treatments"):
            diagnose(y, t, z[:, :2])

    def test_too_few_images(self):
        with pytest.raises(InputError, match=r"^n: got 27; expected at least 28 images"):
            diagnose(*planted(count=27))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, bad):
        y, t, z = planted()
        y[3] = bad
        with pytest.raises(InputError, match="finite"):
            diagnose(y, t, z)

    def test_collinear_instruments(self):
        y, t, z = planted()
        with pytest.raises(InputError, match="collinear"):
            diagnose(y, t, np.hstack([z, z[:, :1]]))

    def test_without_the_library(self, monkeypatch):
        for name in [name for name in sys.modules if name.startswith("linearmodels")]:
            monkeypatch.delitem(sys.modules, name)
        imported = builtins.__import__

        def missing(name, *rest):
            if name.startswith("linearmodels"):
                raise ModuleNotFoundError(name)
            return imported(name, *rest)

        monkeypatch.setattr(builtins, "__import__", missing)
        with pytest.raises(
            InputError, match=r"^linearmodels: got 'ModuleNotFoundError'; .*'deconfound\[instruments\]'"
        ):
            diagnose(*planted())


class TestComponents:
    @pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
    def test_they_are_those_of_the_singular_value_decomposition(self, shape):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = principal_components(values, 3, "treatments")
        centred = values - values.mean(0)
        u, s, _ = torch.linalg.svd(centred, full_matrices=False)
        expected = u[:, :3] * shape[0] ** 0.5
        assert torch.allclose(found.scores.abs(), expected.abs(), atol=1e-8)
        assert found.share == pytest.approx(float(s[:3].square().sum() / s.square().sum()))
        assert torch.allclose(found.scores.T @ found.scores / shape[0], torch.eye(3, dtype=torch.float64), atol=1e-8)
        assert torch.allclose(found.scores, principal_components(values + 5, 3, "treatments").scores, atol=1e-8)

    def test_fewer_directions_than_asked_for(self):
        line = torch.arange(5.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
        with pytest.raises(InputError, match=r"^instruments: got 2; expected at most 1, the independent directions"):
            principal_components(line, 2, "instruments")
        with pytest.raises(InputError, match="at most 0"):
            principal_components(torch.zeros(5, 3), 1, "instruments")

    def test_not_finite(self):
        with pytest.raises(InputError, match=r"^features: "):
            principal_components(torch.full((4, 2), float("nan")), 1, "treatments")
