"""A study as one table of numbers: a row for each run and judgement, and for each attacker that ran by itself."""

from __future__ import annotations

import csv
import io
from typing import Any

from deconfound.records import ColumnResult, StudyRecord, StudyResult, StudyRun, StudyTest, show_radius

HEADINGS = (
    "study", "method", "recipe", "seed", "data", "judgement", "suite", "budget", "norm", "eps", "n", "attack_seed",
    "column", "clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high", "undeclared", "reliable",
    "reasons", "control", "paired_n", "difference", "difference_low", "difference_high", "p_value", "p_holm",
    "epochs", "training_seconds", "evaluation_seconds", "recipe_digest", "model_digest", "data_digest",
)  # fmt: skip


def csv_table(record: StudyRecord) -> str:
    """Comma-separated values with one line of headings; accuracies are shares, ``column`` is empty for a suite."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADINGS, restval="", lineterminator="\n")
    writer.writeheader()
    every = (*record.tests, *record.by_attacker)
    tests = {(test.method, test.seed, test.question, test.attacker): test for test in every}
    for run in record.runs:
        for one in run.results:
            facts, asked = _facts(record, run, one), (run.name, run.seed, one.question)
            writer.writerow(facts | _whole(one) | _against(tests.get((*asked, ""))))
            for column in one.columns:
                writer.writerow(facts | _column(column) | _against(tests.get((*asked, column.name))))
    return text.getvalue()


def _facts(record: StudyRecord, run: StudyRun, one: StudyResult) -> dict[str, Any]:
    return {
        "study": record.study,
        "method": run.name,
        "recipe": run.recipe,
        "seed": run.seed,
        "data": run.data,
        "judgement": one.judgement,
        "suite": one.suite,
        "budget": one.budget,
        "norm": one.threat.norm,
        "eps": show_radius(one.threat.eps),
        "n": one.n,
        "attack_seed": one.seed,
        "control": run.control or "",
        "reliable": "yes" if one.verdict.reliable else "no",
        "reasons": "; ".join(one.verdict.reasons),
        "epochs": run.epochs_run,
        "training_seconds": f"{run.seconds:.1f}",
        "evaluation_seconds": f"{one.seconds:.1f}",
        "recipe_digest": run.recipe_digest,
        "model_digest": one.digests["model"],
        "data_digest": one.digests["data"],
    }


def _whole(one: StudyResult) -> dict[str, Any]:
    return {
        "clean": one.clean_accuracy,
        "clean_low": one.clean_interval[0],
        "clean_high": one.clean_interval[1],
        "robust": one.robust_accuracy,
        "robust_low": one.robust_interval[0],
        "robust_high": one.robust_interval[1],
        "undeclared": "" if one.undeclared is None else one.undeclared.share,
    }


def _column(column: ColumnResult) -> dict[str, Any]:
    low, high = column.interval
    return {"column": column.name, "robust": column.accuracy, "robust_low": low, "robust_high": high}


def _against(test: StudyTest | None) -> dict[str, Any]:
    if test is None or test.test.robust is None:
        return {}
    found = test.test.robust
    return {
        "paired_n": test.test.n,
        "difference": found.difference,
        "difference_low": found.interval[0],
        "difference_high": found.interval[1],
        "p_value": found.p_value,
        "p_holm": found.adjusted_p_value,
    }
