"""Instrumental variables by ``linearmodels``: relevance, endogeneity, over-identification, three estimators.

Shapes: N observations, P treatments, Q instruments, X controls; all float64 arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconfound.errors import InputError, reason, require
from deconfound.records import Effect, Estimate, FirstStage, Statistic
from deconfound.records.instruments import WEAK_BELOW

Array = NDArray[np.float64]

SPARE = 20
"""Observations beyond the number of coefficients, below which intervals mean little."""

# Share of the variance that rounding leaves of an exact fit in float64.
_EXACT = 1e-20


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose`` found; see ``records.InstrumentsRecord``."""

    first_stages: tuple[FirstStage, ...]
    joint_f: float
    weak: bool
    wu_hausman: Statistic
    wooldridge: Statistic
    sargan: Statistic
    hansen: Statistic
    effects: tuple[Effect, ...]


def load_library() -> Any:
    """``linearmodels.iv``, loaded when it is needed: it takes seconds.

    Raises:
        InputError: it is not installed.
    """
    try:
        from linearmodels import iv
    except Exception as error:  # a broken installation raises more than ImportError
        rule = "a library that loads: pip install linearmodels"
        raise InputError("linearmodels", type(error).__name__, rule) from error
    return iv


def diagnose(
    outcome: Array,
    treatments: Array,
    instruments: Array,
    controls: Array | None = None,
    names: Sequence[str] | None = None,
) -> Diagnosis:
    """Linear instrumental-variable diagnostics of y = T b + X c + u with instruments Z, E[Z u] = 0; X has a constant.

    First-stage F and partial R^2 are homoskedastic with the small-sample correction, as the rule of 10 wants them, and
    so are Wu and Hausman's and Sargan's tests; Wooldridge's score test of exogeneity, Hansen's J and the intervals of
    all three estimators allow for heteroskedasticity.

    Args:
        outcome: y, (N,).
        treatments: T, (N, P).
        instruments: Z, (N, Q), Q > P.
        controls: X besides the constant, (N, X); none by default.
        names: of the treatments.

    Raises:
        InputError: arrays or names that do not fit together, too few observations or instruments, values that are not
            finite or collinear, an outcome without a residual, no ``linearmodels``.

    Source: Wooldridge 2010, chapters 5 and 6; Cragg and Donald 1993; the estimators are those of ``linearmodels``.
    """
    library = load_library()
    columns = {"treatments": treatments, "instruments": instruments}
    columns |= {} if controls is None else {"controls": controls}
    _check_shapes(outcome, columns)
    count, wanted = treatments.shape
    called = [f"T{place}" for place in range(1, wanted + 1)] if names is None else list(names)
    require(len(called) == wanted, "names", called, f"one for each of the {wanted} treatments")
    rule = f"more than the {wanted} treatments, so that over-identification can be tested"
    require(instruments.shape[1] > wanted, "instruments", instruments.shape[1], rule)
    constant = np.ones((count, 1))
    known = constant if controls is None else np.hstack([constant, controls])
    least = instruments.shape[1] + wanted + known.shape[1] + SPARE
    require(count >= least, "n", count, f"at least {least} images for so many components")
    _check_independent(known, columns)
    _check_residual(outcome, np.hstack([known, treatments]))
    try:
        return _diagnosis(library, outcome, treatments, instruments, known, called)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        rule = f"figures that linearmodels can work on ({reason(error)})"
        raise InputError("outcome", f"{count} values", rule) from None


def _check_shapes(outcome: Array, columns: Mapping[str, Array]) -> None:
    require(outcome.ndim == 1 and len(outcome) > 0, "outcome", outcome.shape, "one value for each image, (N,)")
    for field, values in columns.items():
        fits = values.ndim == 2 and len(values) == len(outcome)
        require(fits, field, values.shape, f"columns for the outcome's {len(outcome)} images, ({len(outcome)}, ...)")
    for field, values in {"outcome": outcome, **columns}.items():
        require(bool(np.isfinite(values).all()), field, "NaN or infinity", "finite logits and features")


def _check_independent(known: Array, columns: Mapping[str, Array]) -> None:
    """Controls among themselves, treatments and instruments beside them."""
    for field in ("controls", "treatments", "instruments"):
        design = known if field == "controls" else np.hstack([known, columns[field]])
        rank, width = int(np.linalg.matrix_rank(design)), design.shape[1]
        rule = "components that are not constant and not collinear"
        require(rank == width, field, f"{width} columns of rank {rank}, constant and controls included", rule)


def _check_residual(outcome: Array, design: Array) -> None:
    """Without a residual there is no variance to test with."""
    centred = outcome - outcome.mean()
    require(bool(centred.any()), "outcome", f"{outcome[0]:g} for every image", "values that differ")
    fitted = design @ np.linalg.lstsq(design, outcome, rcond=None)[0]
    left = float(np.sum((outcome - fitted) ** 2) / np.sum(centred**2))
    rule = "one that the treatments do not determine: without a residual nothing can be tested"
    require(left > _EXACT, "outcome", "a linear function of the treatments", rule)


def _diagnosis(library: Any, y: Array, t: Array, z: Array, x: Array, names: Sequence[str]) -> Diagnosis:
    plain = library.IV2SLS(y, x, t, z).fit(cov_type="unadjusted", debiased=True)
    first, joint = plain.first_stage.diagnostics, float(plain.first_stage.cragg_donald_f)
    stages = tuple(_first_stage(name, first.iloc[place]) for place, name in enumerate(names))
    ols = library.IV2SLS(y, np.hstack([x, t]), None, None).fit(cov_type="robust", debiased=True)
    tsls = library.IV2SLS(y, x, t, z).fit(cov_type="robust", debiased=True)
    gmm = library.IVGMM(y, x, t, z).fit(cov_type="robust", debiased=True)
    found = [_estimates(result, x.shape[1]) for result in (ols, tsls, gmm)]
    effects = tuple(
        Effect(name=name, ols=one, tsls=two, gmm=three) for name, one, two, three in zip(names, *found, strict=True)
    )
    return Diagnosis(
        first_stages=stages,
        joint_f=joint,
        weak=not joint >= WEAK_BELOW or any(stage.weak for stage in stages),
        wu_hausman=_statistic(plain.wu_hausman()),
        wooldridge=_statistic(tsls.wooldridge_score),
        sargan=_statistic(plain.sargan),
        hansen=_statistic(gmm.j_stat),
        effects=effects,
    )


def _first_stage(name: str, row: Any) -> FirstStage:
    f = float(row["f.stat"])
    partial = float(row["partial.rsquared"])
    return FirstStage(name=name, f=f, p_value=float(row["f.pval"]), partial_r2=partial, weak=not f >= WEAK_BELOW)


def _estimates(result: Any, skip: int) -> list[Estimate]:
    """The treatments' coefficients, which stand behind the controls'."""
    values, ends = result.params.to_numpy()[skip:], result.conf_int().to_numpy()[skip:]
    return [
        Estimate(value=float(value), interval=(float(low), float(high)))
        for value, (low, high) in zip(values, ends, strict=True)
    ]


def _statistic(test: Any) -> Statistic:
    return Statistic(statistic=float(test.stat), p_value=float(test.pval), distribution=str(test.dist_name))


__all__ = ["Diagnosis", "diagnose", "load_library"]
