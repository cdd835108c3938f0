"""Which runs of a study are tested against their controls: none that stand on other weights of a shared run."""

from __future__ import annotations

from pathlib import Path

import pytest

import study_records as made
from deconfound.recipes.study_judgements import Judgement
from deconfound.recipes.study_plan import Planned
from deconfound.recipes.study_tests import against_controls, differences
from deconfound.records import StageUse, StudyExamples


@pytest.mark.parametrize(
    ("base", "one", "two", "apart"),
    [("b", "b", "b", []), ("b", "x", "x", ["one"]), ("b", "b", "x", ["two"]), ("b", None, "x", [])],
    ids=["shared", "another base than the control", "another base than the control's", "unknown"],
)
def test_a_control_on_other_weights_of_a_shared_run_is_no_control(base, one, two, apart):
    """The same recipe with the same seed gives other weights on another processor."""
    runs, rows = [], []
    for name, control, digest in (("pgd-at", None, None), ("one", "pgd-at", one), ("two", "one", two)):
        changes = {} if control is None else {"stages": {"base": "/somewhere/pgd-at-0"}}
        judgements = (Judgement(suite="adaptive"),)
        runs.append(
            Planned(name=name, method=name, recipe=name, seed=0, data="d", changes=changes, control=control,
                    judgements=judgements, path=Path(f"/somewhere/{name}-0"), stochastic=False)
        )  # fmt: skip
        mine = {"model": base if control is None else name, "data": "d", "attacks": "a"}
        examples = StudyExamples.packed({0: (True, True), 1: (True, control is None)})
        found = made.result(0.5, n=2, judgement="adaptive", digests=mine, examples=examples)
        use = StageUse(run="pgd-at-0", recipe="p", recipe_digest="r", model_digest=digest or "", epochs=1, seed=0)
        rows.append(
            made.run(name, 0, found, control=control).model_copy(update={"stages": {"base": use} if digest else {}})
        )
    tests = against_controls(runs, rows, ())
    assert [test.method for test in tests if test.test.not_compared] == apart
    assert [test.method for test in differences(tests)] == [name for name in ("one", "two") if name not in apart]
    for test in tests:
        assert "other weights of pgd-at-0" in test.test.not_compared or not test.test.not_compared


def test_what_attackers_beyond_the_threat_model_leave_is_tested_only_where_it_is_recorded():
    """Older outcomes are of the attacks inside it alone, while the row shows what all of them leave."""
    runs, rows = [], []
    for name, control in (("old", None), ("new", "old")):
        runs.append(
            Planned(name=name, method=name, recipe=name, seed=0, data="d", changes={}, control=control,
                    judgements=(Judgement(suite="unseen"),), path=Path(f"/somewhere/{name}-0"), stochastic=False)
        )  # fmt: skip
        columns = (made.column("l2", 0.0, "norm"), made.column("all of them", 0.0, "union"))
        digests = {"model": name, "data": "d", "attacks": "a"}
        examples = StudyExamples.packed({0: (True, True), 1: (True, False)})
        found = made.result(0.5, n=2, judgement="unseen", digests=digests, examples=examples, columns=columns)
        rows.append(made.run(name, 0, found, control=control))
    (test,) = against_controls(runs, rows, ())
    assert "beyond the threat model" in test.test.not_compared
    none = StudyExamples.packed({0: (True, False), 1: (True, False)})
    told = [one.model_copy(update={"results": (one.results[0].model_copy(update={"examples": none}),)}) for one in rows]
    assert "beyond the threat model" in against_controls(runs, [rows[0], told[1]], ())[0].test.not_compared
    (test,) = against_controls(runs, told, ())
    assert test.test.robust is not None
    assert test.test.n == 2
    alone = (made.column("all of them", 0.5, "union"),)
    within = [
        one.model_copy(update={"results": (one.results[0].model_copy(update={"columns": alone}),)}) for one in rows
    ]
    (test,) = against_controls(runs, within, ())
    assert not test.test.not_compared
