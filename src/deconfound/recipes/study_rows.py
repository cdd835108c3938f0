"""What earlier records of a study have of one run: of some weights, and whether it is what the study asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from deconfound.errors import require
from deconfound.recipes.schema import Recipe
from deconfound.recipes.study_judgements import Judgement
from deconfound.recipes.study_shelf import Facts
from deconfound.records import EvaluationRecord, StudyResult, StudyRun
from deconfound.store import read_weights
from deconfound.store.weights import digest_tensors


def of_weights(rows: Sequence[StudyRun], digest: str | None = None) -> StudyRun | None:
    """One row of several of a run: all that they have about some weights, what stands first where two have it.

    Args:
        rows: of one run.
        digest: of the weights; None takes those that the first result is about.
    """
    if not rows:
        return None
    digest = digest or next((one for row in rows for one in _digests(row)), "")
    first, rows = rows[0], [row for row in rows if digest in _digests(row)]
    results = {one.judgement: one for row in rows[::-1] for one in row.results if one.digests["model"] == digest}
    analyses = {one.analysis: one for row in rows[::-1] for one in row.analyses if one.digests["model"] == digest}
    return (rows[0] if rows else first).model_copy(
        update={"results": tuple(results.values()), "analyses": tuple(analyses.values())}
    )


def _digests(row: StudyRun) -> list[str]:
    return [*(one.digests["model"] for one in row.results), *(one.digests["model"] for one in row.analyses)]


def digest_of(file: Path) -> str:
    """The digest of a run's weights, which are read again only where the file has changed."""
    facts = file.stat() if file.is_file() else None
    return _digest(file, facts and (facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=1024)
def _digest(file: Path, state: tuple[int, int] | None) -> str:
    return digest_tensors(read_weights(file, "run")[0])


def check_asked(
    found: EvaluationRecord | StudyResult,
    judgement: Judgement,
    recipe: Recipe,
    where: str,
    *,
    facts: Facts | None,
    stochastic: bool,
) -> None:
    """A result answers what a study asks.

    Args:
        found: the result.
        judgement: what is asked.
        recipe: of the run.
        where: the result lies.
        facts: of the run's data; None compares no data.
        stochastic: whether the network predicts at random; where a judgement says no n, others see all test images.

    Raises:
        InputError: it answers something else.
    """
    data = found.data_digest if isinstance(found, EvaluationRecord) else found.digests["data"]
    norm = judgement.norm or recipe.norm
    asked: dict[str, tuple[Any, Any]] = {
        "suite": (found.suite, judgement.suite),
        "budget": (found.budget, judgement.budget),
        "seed": (found.seed, judgement.seed),
        "norm": (found.threat.norm, norm),
    }
    if judgement.eps is not None or norm == recipe.norm:
        asked["eps"] = (found.threat.eps, recipe.eps if judgement.eps is None else judgement.eps)
    if judgement.n is not None:
        asked["n"] = (found.n, judgement.n)
    elif facts is not None and not stochastic:
        asked["n"] = (found.n, facts.tests)
    if facts is not None:
        asked["data_digest"] = (data, facts.test)
    check_equal(asked, where)


def check_equal(asked: Mapping[str, tuple[Any, Any]], where: str) -> None:
    """What is found, by key, is what is wanted.

    Raises:
        InputError: it is not.
    """
    for key, (found, wanted) in asked.items():
        require(found == wanted, f"{where}: {key}", found, f"{wanted}, as the study asks of this run")


def names_in(row: StudyRun | None) -> set[str]:
    """The judgements and analyses that a row has."""
    return set() if row is None else {*(one.judgement for one in row.results), *(one.analysis for one in row.analyses)}


def rows_of(name: str, seed: int, rows: Iterable[StudyRun]) -> tuple[StudyRun, ...]:
    """Those of one run."""
    return tuple(row for row in rows if (row.name, row.seed) == (name, seed))
