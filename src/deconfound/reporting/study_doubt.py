"""What of a study cannot be relied on, and what a question left, said alike in each of its tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from deconfound.records import StudyRecord, StudyResult
from deconfound.reporting.text import clean, listing, verdict_text

MARK = " UNRELIABLE"
DAGGER = "†"
DIFFERENT = f"{DAGGER} the two met different attacks, such as those that each declares against itself"
PAIRS = "UNRELIABLE: so is the robust accuracy of one of the two, or of both; the table of accuracies says why"
MAJORITY = "of a random judge, examples count by the majority over its seeds; its accuracies are means over the seeds"


def answers(
    record: StudyRecord, name: str, question: str, seeds: Collection[int] | None = None
) -> list[tuple[int, StudyResult]]:
    """A method's answers to a question, each with its seed.

    Args:
        record: of the study.
        name: of the method.
        question: that was asked.
        seeds: only these; None for all.
    """
    runs = [run for run in record.runs if run.name == name and (seeds is None or run.seed in seeds)]
    return [(run.seed, one) for run in runs for one in run.results if one.question == question]


def mark(record: StudyRecord, names: Collection[str], question: str, seeds: Collection[int] | None = None) -> str:
    """`` UNRELIABLE`` where an answer of any of these methods is, nothing otherwise.

    Args:
        record: of the study.
        names: of methods.
        question: that was asked.
        seeds: only these; None for all.
    """
    found = [one for name in names for _, one in answers(record, name, question, seeds)]
    return "" if all(one.verdict.reliable for one in found) else MARK


def doubts(record: StudyRecord, names: Collection[str] | None = None) -> list[str]:
    """Why results cannot be relied on, one line for each reason, with all runs that it is of.

    Args:
        record: of the study.
        names: of methods, only these; None for all.
    """
    by_run: dict[tuple[str, int, str], list[str]] = {}
    for run in record.runs:
        for one in run.results if names is None or run.name in names else ():
            if not one.verdict.reliable:
                key = (clean(run.name), run.seed, verdict_text(one.verdict))
                by_run.setdefault(key, []).append(clean(one.question))
    found: dict[tuple[str, tuple[str, ...]], dict[str, list[int]]] = {}
    for (name, seed, text), questions in by_run.items():
        found.setdefault((text, tuple(questions)), {}).setdefault(name, []).append(seed)
    return [f"{_runs(seeds)}: {listing(questions)} {text}" for (text, questions), seeds in found.items()]


def _runs(seeds: Mapping[str, Sequence[int]]) -> str:
    """Methods with their seeds.

    >>> _runs({"ciiv": [0, 1, 2], "ciiv+pgd-at": [0]})
    'ciiv, seeds 0, 1, 2; ciiv+pgd-at, seed 0'
    """
    parts = [(name, "seed" if len(of) == 1 else "seeds", ", ".join(map(str, of))) for name, of in seeds.items()]
    return "; ".join(f"{name}, {word} {of}" for name, word, of in parts)


def random_judges(record: StudyRecord) -> bool:
    """Whether any answer is that of a random judge."""
    return any(one.deviation is not None for run in record.runs for one in run.results)
