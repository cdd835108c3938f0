"""Tables of studies from records that were made by hand: means, tests, families, the same images only."""

from __future__ import annotations

import shutil
import statistics

import pytest

from deconfound.functional.statistics import holm, mcnemar, paired_interval, wilson_interval
from deconfound.recipes import study_file, study_plan
from deconfound.recipes.study_table import collected
from deconfound.records import (
    AttackResult,
    ColumnResult,
    EvaluationRecord,
    Machine,
    Outcome,
    StudyRecord,
    Threat,
    TrainingRecord,
    Verdict,
)
from deconfound.records.examples import packed_bits
from deconfound.store import RunFolder
from small_study import DEFINITION

MACHINE = Machine(device="cpu", processor="x", threads=1, versions={})


def planted(folder, name, states, n=None, data="d", **changes):
    """A judged run whose examples are r (robust), b (broken by the suite), o (by its own attack) or c (wrong)."""
    folder.mkdir(parents=True, exist_ok=True)
    by = {"r": None, "b": "pgd", "o": "own", "c": "clean"}
    outcomes = tuple(
        Outcome(index=i, label=0, prediction=int(s == "c"), broken_by=by[s], distance=None)
        for i, s in enumerate(states)
    )
    count, right, stands = len(states), len(states) - states.count("c"), states.count("r")
    attacks = [
        AttackResult(name="pgd", settings={}, attacked=right, survivors=stands + states.count("o"), seconds=1.0,
                     forwards=1, backwards=1),
        AttackResult(name="own", settings={"declared": True}, attacked=stands + states.count("o"), survivors=stands,
                     seconds=1.0, forwards=1, backwards=1),
    ]  # fmt: skip
    record = EvaluationRecord(
        model=folder.name, model_digest="m", defence=name, data="toy[test]", data_digest=data, class_names=("a", "b"),
        threat=Threat(norm="linf", eps=0.1), suite="adaptive", n=count, seed=0, clean_accuracy=right / count,
        clean_interval=wilson_interval(right, count), robust_accuracy=stands / count,
        robust_interval=wilson_interval(stands, count), verdict=Verdict(reliable=True),
        attacks=tuple(attacks[: 2 if "o" in states else 1]), outcomes=outcomes, forwards=1, backwards=1, seconds=1.0,
        cpu_seconds=1.0, machine=MACHINE,
    )  # fmt: skip
    training = TrainingRecord(
        recipe={"recipe": name, "data": "/somewhere"}, recipe_digest="r", data="toy[train]", data_digest="t",
        class_names=("a", "b"), seed=0, epochs_run=1, selected_epoch=None, selection="last", parameters=1, seconds=1.0,
        images_per_second=1.0, machine=MACHINE,
    )  # fmt: skip
    RunFolder(folder).record.write_text(training.to_json())
    (folder / "adaptive.json").write_text(record.to_json())


STATES = {
    "standard-0": "rrrrrbbbbc",
    "standard-1": "rrbbbbbbcc",
    "pgd-at-0": "rrrrrrrrrc",
    "pgd-at-1": "rrrroorrbc",
}


@pytest.fixture
def by_hand(tmp_path):
    for name, states in STATES.items():
        planted(tmp_path / name, name[:-2], states)
    definition = study_file.read(DEFINITION | {"judge": {"all": [{"suite": "adaptive"}]}})
    return definition, study_plan.planned(definition, tmp_path)


def tables(definition, runs):
    return collected(definition, runs, [study_plan.status(run) for run in runs], []).record


def test_the_arithmetic_of_a_table(by_hand):
    record = tables(*by_hand)
    shares = {name: states.count("r") / 10 for name, states in STATES.items()}
    found = {run.folder: run.results[0] for run in record.runs}
    assert {name: one.robust_accuracy for name, one in found.items()} == shares
    assert found["pgd-at-1"].undeclared.share == 0.8
    assert found["pgd-at-1"].undeclared.interval == wilson_interval(8, 10)
    assert found["pgd-at-1"].survivors == {"pgd": 8, "own": 6}
    assert found["pgd-at-0"].undeclared is None
    mean = next(mean for mean in record.means if mean.name == "standard")
    assert (mean.seeds, mean.robust, mean.robust_mean) == ((0, 1), (0.5, 0.2), 0.35)
    assert mean.robust_deviation == pytest.approx(statistics.stdev([0.5, 0.2]))
    assert (mean.clean, mean.clean_mean) == ((0.9, 0.8), pytest.approx(0.85))
    p_values = []
    for seed, test in enumerate(record.tests):
        a, b = ([state == "r" for state in STATES[f"{name}-{seed}"]] for name in ("pgd-at", "standard"))
        ahead, behind = sum(x > y for x, y in zip(a, b, strict=True)), sum(x < y for x, y in zip(a, b, strict=True))
        assert (test.seed, test.test.n, test.test.first) == (seed, 10, f"pgd-at-{seed}")
        assert test.test.robust.difference == pytest.approx((ahead - behind) / 10)
        assert test.test.robust.interval == paired_interval(ahead, behind, 10)
        assert test.test.robust.p_value == mcnemar(a, b)
        p_values.append(mcnemar(a, b))
    assert [test.test.robust.adjusted_p_value for test in record.tests] == holm(p_values) != p_values
    assert [test.same_attacks for test in record.tests] == [True, False]
    (over,) = record.differences
    assert over.differences == pytest.approx((0.4, 0.4))
    assert (over.mean, over.deviation) == (pytest.approx(0.4), pytest.approx(0.0))


def test_what_attackers_beyond_the_threat_model_break_counts_in_the_tests(tmp_path, by_hand):
    interval = (0.0, 1.0)
    for name, left in (("standard-0", "1110000000"), ("pgd-at-0", "1011111110")):
        file = tmp_path / name / "adaptive.json"
        record = EvaluationRecord.read(file)
        share, stands = left.count("1") / 10, packed_bits([bit == "1" for bit in left])
        columns = [
            ColumnResult(name=title, group=group, threat=threat, n=10, accuracy=share, interval=interval, stands=stands)
            for title, group, threat in (("l2", "norm", "l2 2"), ("all of them", "union", ""))
        ]
        file.write_text(record.model_copy(update={"columns": tuple(columns)}).to_json())
    record = tables(*by_hand)
    (first, _) = record.tests
    ahead, behind = 6, 1  # of the bits above, not of the outcomes
    assert (first.seed, first.test.n, first.test.not_compared) == (0, 10, "")
    assert first.test.robust.difference == (ahead - behind) / 10
    assert first.test.robust.interval == paired_interval(ahead, behind, 10)
    kept = next(run.results[0] for run in record.runs if run.folder == "pgd-at-0")
    assert [column.stands for column in kept.columns] == [packed_bits([bit == "1" for bit in left]), ""]
    assert kept.robust_accuracy == 0.9  # inside the threat model


def _beyond(file, **left):
    """An evaluation in falling order of its examples, attacked by columns that left these."""
    record = EvaluationRecord.read(file)
    columns = []
    for name, bits in left.items():
        kind, _, severity = name.partition("_")
        settings = {"corruption": kind, "severity": int(severity)} if severity else {"norm": name}
        group = "beyond" if severity else "alone" if name == "inside" else "norm"
        shown = {"threat": "l2 2", "n": 10, "accuracy": bits.count("1") / 10, "interval": (0.0, 1.0)}
        stands = packed_bits([bit == "1" for bit in reversed(bits)])
        columns.append(ColumnResult(name=name, group=group, settings=settings, stands=stands, **shown))
    changes = {"columns": tuple(columns), "outcomes": record.outcomes[::-1]}
    file.write_text(record.model_copy(update=changes).to_json())


def test_attackers_beyond_the_threat_model_are_tested_one_by_one(tmp_path, by_hand):
    standard = {"l2": "1110000000", "blur_1": "1111111111", "blur_2": "0101010101", "inside": "1" * 10}
    robust = {"l2": "1011111110", "blur_1": "0011111111", "blur_2": "1111111100", "inside": "0" * 10}
    _beyond(tmp_path / "standard-0" / "adaptive.json", **standard)
    _beyond(tmp_path / "pgd-at-0" / "adaptive.json", **robust)
    record = tables(*by_hand)
    first, second = record.by_attacker
    assert (first.attacker, second.attacker) == ("l2", "corruptions")
    both = {"l2": (robust["l2"], standard["l2"]), "corruptions": ("0011111100", "0101010101")}
    p_values = []
    for test in record.by_attacker:
        mine, theirs = ([bit == "1" for bit in bits] for bits in both[test.attacker])
        ahead, behind = (
            sum(x and not y for x, y in zip(one, other, strict=True)) for one, other in ((mine, theirs), (theirs, mine))
        )
        assert (test.method, test.control, test.seed, test.test.n) == ("pgd-at", "standard", 0, 10)
        assert (test.test.robust.only_first, test.test.robust.only_second) == (ahead, behind)
        assert test.test.clean is None  # that is the same for every attacker
        p_values.append(mcnemar(mine, theirs))
    assert [test.test.robust.adjusted_p_value for test in record.by_attacker] == holm(p_values)
    kept = {one.name: one for run in record.runs if run.folder == "pgd-at-0" for one in run.results[0].columns}
    assert list(kept) == ["l2", "blur_1", "blur_2", "inside", "corruptions"]
    assert (kept["corruptions"].accuracy, kept["corruptions"].interval) == (0.6, wilson_interval(6, 10))
    assert all(kept[name].stands == "" and kept[name].settings == {} for name in ("blur_1", "blur_2", "inside"))


@pytest.mark.parametrize("fault", ["other images", "no stands", "other attackers", "fewer images"])
def test_attackers_that_cannot_be_paired_are_not_tested(tmp_path, by_hand, fault):
    files = [tmp_path / name / "adaptive.json" for name in ("standard-0", "pgd-at-0")]
    for file in files:
        _beyond(file, **{"l1" if fault == "other attackers" and file == files[0] else "l2": "1110000000"})
    changed = EvaluationRecord.read(files[0])
    columns = tuple(column.model_copy(update={"stands": ""}) for column in changed.columns)
    fewer = tuple(column.model_copy(update={"n": 3, "stands": "e"}) for column in changed.columns)
    faults = {
        "other images": {"data_digest": "e"},
        "no stands": {"columns": columns},
        "fewer images": {"columns": fewer},
        "other attackers": {},
    }
    files[0].write_text(changed.model_copy(update=faults[fault]).to_json())
    record = tables(*by_hand)
    assert record.by_attacker == ()
    assert [column.name for column in record.runs[0].results[0].columns] == [
        "l1" if fault == "other attackers" else "l2"
    ]


def test_families_are_questions(tmp_path, by_hand):
    """A test of another question does not make this one harder."""
    one = tables(*by_hand)
    for name in STATES:
        shutil.copy(tmp_path / name / "adaptive.json", tmp_path / name / "quick.json")
    both = study_file.read(DEFINITION | {"judge": {"all": [{"suite": "adaptive"}, {"suite": "quick"}]}})
    two = tables(both, study_plan.planned(both, tmp_path))
    assert [test for test in two.tests if test.question == "adaptive"] == list(one.tests)
    assert len(two.tests) == 4


def test_the_same_question_asked_with_other_loops_and_draws(tmp_path, by_hand):
    """The first is tested against the control; the other stands beside it, in no mean and no test of the first."""
    one = tables(*by_hand)
    for name in STATES:
        shutil.copy(tmp_path / name / "adaptive.json", tmp_path / name / "adaptive-loops1-draws1.json")
    asked = [{"suite": "adaptive"}, {"suite": "adaptive", "loops": 1, "draws": 1}]
    both = study_file.read(DEFINITION | {"judge": {"all": asked}})
    two = tables(both, study_plan.planned(both, tmp_path))
    assert two.tests == one.tests
    assert two.differences == one.differences
    assert [m for m in two.means if m.question == "adaptive"] == list(one.means)
    answers = [(result.question, result.judgement) for result in two.runs[0].results]
    assert answers == [("adaptive", "adaptive"), ("adaptive-loops1-draws1", "adaptive-loops1-draws1")]


def test_the_same_images_only(tmp_path, by_hand):
    planted(tmp_path / "pgd-at-0", "pgd-at", "rrrr")
    planted(tmp_path / "pgd-at-1", "pgd-at", STATES["pgd-at-1"], data="of another size")
    record = tables(*by_hand)
    assert record.tests[0].test.n == 4
    assert record.tests[0].test.robust.difference == 0
    assert record.tests[1].test.not_compared == "other images, such as of another size"
    assert record.differences[0].seeds == (0,)
    assert record.differences[0].deviation is None
    apart = [mean.n for mean in record.means if mean.name == "pgd-at"]
    assert apart == [4, 10]  # other questions are not averaged


def test_nothing_of_a_machine_or_an_example_is_in_the_record(by_hand):
    text = tables(*by_hand).to_json()
    assert "/somewhere" not in text
    assert "outcomes" not in text
    assert StudyRecord.from_json(text).to_json() == text
