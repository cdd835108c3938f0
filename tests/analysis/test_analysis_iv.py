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

from analysis_records import make_instruments
from deconfound.analysis.components import predicted_share, principal_components
from deconfound.analysis.iv import diagnose
from deconfound.errors import InputError
from deconfound.reporting.instruments import findings

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
        assert not found.wooldridge.rejects
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
    assert found.wooldridge.p_value == pytest.approx(theirs.wooldridge_score.pval, rel=1e-8)
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
        for test in ("wu_hausman", "wooldridge"):
            assert max(getattr(found, test).p_value for found in drawn) < MILLIONTH
        clean = [diagnose(*planted(seed, confounding=0)) for seed in range(5)]
        for test in ("wu_hausman", "wooldridge"):
            alarms = sum(getattr(found, test).rejects for found in clean)
            assert stats.binomtest(alarms, 5, 0.05, alternative="greater").pvalue > MILLIONTH

    def test_errors_of_unequal_variance_are_not_taken_for_endogeneity(self):
        """The treatment is exogenous: where it has an error of its own, one image in ten, y has one too, of any sign.

        Var(sum v e) is ten times what equal variances say, so that Wu-Hausman rejects about every second time.
        """
        draws, plain, robust = 8, 0, 0
        for seed in range(draws):
            draw = np.random.default_rng(seed).normal
            z, own = draw(size=(400, 2)), np.arange(400) % 10 == 0
            t = z.sum(1) + 3 * own * draw(size=400)
            found = diagnose(t + own * draw(size=400), t[:, None], z)
            plain, robust = plain + found.wu_hausman.rejects, robust + found.wooldridge.rejects
            said = findings(make_instruments(**vars(found)))[1]
            assert said[1] == found.wooldridge.rejects
        assert stats.binomtest(plain, draws, 0.05, alternative="greater").pvalue < 0.01
        assert stats.binomtest(robust, draws, 0.05, alternative="greater").pvalue > MILLIONTH

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


def truncated(seed, dimension, treatments, features=None, instruments=8, count=600):
    """A perfect instrument and no confounder: T = F + Z, y = T w + noise, all independent; cut to components.

    ``features``: how many coordinates T has, all of Z's by default.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    sizes = torch.linspace(1, 0.2, dimension, dtype=torch.float64)
    rotation = torch.linalg.qr(draw(dimension, dimension)).Q
    z = (draw(count, dimension) * sizes) @ rotation
    t = (draw(count, dimension) * sizes + z)[:, :features]
    y = t @ draw(t.shape[1]) + 0.5 * draw(count)
    kept, moved = principal_components(t, treatments, "t"), principal_components(z, instruments, "z")
    found = diagnose(y.numpy(), kept.scores.numpy(), moved.scores.numpy())
    shares = {"components_r2": predicted_share(kept.scores, y), "features_r2": predicted_share(t, y)}
    return make_instruments(**vars(found), **shares, treatment_share=kept.share)


class TestTruncation:
    @pytest.mark.parametrize(("dimension", "treatments"), [(16, 4), (64, 4)])
    def test_a_perfect_instrument_is_rejected_and_the_report_does_not_call_it_invalid(self, dimension, treatments):
        records = [truncated(seed, dimension, treatments) for seed in range(3)]
        assert sum(record.hansen.rejects and record.sargan.rejects for record in records) >= 2
        for record in records:
            said = " ".join(text for text, _ in findings(record))
            assert "The treatment is endogenous" not in said
            assert ": not all instruments are valid" not in said
            assert "may reject a perfect instrument" in said
            assert record.features_r2 > 0.8
            assert record.features_r2 - record.components_r2 > 0.2

    def test_without_truncation_nothing_is_rejected_and_nothing_explained_away(self):
        records = [truncated(seed, 9, 6, 6) for seed in range(2)]
        alarms = sum(record.hansen.p_value < 0.01 for record in records)
        assert stats.binomtest(alarms, 2, 0.01, alternative="greater").pvalue > MILLIONTH
        assert not any(record.truncated for record in records)
        assert len(findings(records[0])) == 3


class TestPredictedShare:
    @pytest.mark.parametrize("dimension", [5, 40, 200])
    def test_it_is_that_of_refitting_without_each_image(self, dimension):
        generator = torch.Generator().manual_seed(dimension)
        x = torch.randn(30, dimension, generator=generator, dtype=torch.float64)
        y = x[:, 0] + 0.3 * torch.randn(30, generator=generator, dtype=torch.float64)
        centred = x - x.mean(0)
        largest = float(torch.linalg.eigvalsh(centred.T @ centred).max())
        left = []
        for power in range(-9, 2):
            errors = []
            for one in range(30):
                rest = [place for place in range(30) if place != one]
                mean, level = x[rest].mean(0), y[rest].mean()
                inner = x[rest] - mean
                gram = inner @ inner.T + 10.0**power * largest * torch.eye(29, dtype=torch.float64)
                errors.append(y[one] - level - (x[one] - mean) @ inner.T @ torch.linalg.solve(gram, y[rest] - level))
            left.append(float(torch.stack(errors).square().sum()))
        constant = sum(float(y[one] - (y.sum() - y[one]) / 29) ** 2 for one in range(30))
        assert predicted_share(x, y) == pytest.approx(1 - min(left) / constant, abs=1e-5)

    def test_noise_predicts_nothing_however_many_directions_there_are(self):
        found = []
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            x, y = torch.randn(60, 300, generator=generator), torch.randn(60, generator=generator)
            found.append(predicted_share(x, y))
        assert abs(float(np.median(found))) < 0.1


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda y, t, z: (y[:-1], t, z), r"^treatments: got \(300, 2\); expected columns for the outcome's 299"),
            (lambda y, t, z: (y, t[:, 0], z), r"^treatments: got \(300,\); expected columns"),
            (lambda y, t, z: (y, t, z[:, 0]), r"^instruments: got \(300,\); expected columns"),
            (lambda y, t, z: (y[:, None], t, z), r"^outcome: got \(300, 1\); expected one value"),
            (lambda y, t, z: (y, t, z, None, ["a"]), r"^names: got \['a'\]; expected one for each of the 2"),
            (lambda y, t, z: (y, t, z, None, []), r"^names: got \[\]; expected one"),
            (lambda y, t, z: (y, t, z, z[:-1]), r"^controls: got \(299, 5\)"),
            (lambda y, t, z: (0 * y, t, z), r"^outcome: got '0 for every image'; expected values that differ"),
            (lambda y, t, z: (t @ BETA, t, z), r"^outcome: got 'a linear function of the treatments'"),
            (lambda y, t, z: (y, t[:, [0, 0]], z), r"^treatments: got '3 columns of rank 2"),
            (lambda y, t, z: (y, t, z * [1, 1, 1, 1, 0]), r"^instruments: got '6 columns of rank 5"),
            (lambda y, t, z: (y, t, z, np.ones((300, 1))), r"^controls: got '2 columns of rank 1"),
        ],
    )
    def test_what_does_not_fit_together_is_named(self, change, match):
        with pytest.raises(InputError, match=match):
            diagnose(*change(*planted()))

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
        with pytest.raises(InputError, match=r"^linearmodels: got 'ModuleNotFoundError'; .*pip install linearmodels"):
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
