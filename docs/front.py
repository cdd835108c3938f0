"""Put the leaderboard of the study on MNIST into README.md, and draw its picture: ``python docs/front.py``.

Both come from ``benchmarks/results/mnist.json``, what is said of other data from the records of their studies; a test
asks whether the README has what they say.
"""

from __future__ import annotations

import re
from pathlib import Path

from deconfound.records import StudyRecord
from deconfound.reporting import leaderboard_grid, study_figure, svg
from deconfound.reporting.text import listing

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RECORD = RESULTS / "mnist.json"
STUDIES = {"MNIST": "mnist", "Fashion-MNIST": "fashion", "CIFAR-10": "cifar10_small"}
PICTURE = ROOT / "docs" / "pictures" / "leaderboard.svg"
QUESTION, LEVEL, CAUSAL = "adaptive", 0.05, ("causaladv-", "ciiv", "cafe/")
BLOCK = re.compile(r"(?<=<!-- leaderboard -->\n).*?(?=<!-- /leaderboard -->)", re.DOTALL)


def with_leaderboard(readme: str, record: StudyRecord) -> str:
    """The README with the record's leaderboard between its marks."""
    found = "; ".join(finding(where, StudyRecord.read(RESULTS / f"{name}.json")) for where, name in STUDIES.items())
    found = f"Causal methods against their controls under `{QUESTION}`, p-values adjusted: {found}."
    order = "Rows whose intervals overlap are in no order that could be relied on."
    return BLOCK.sub(lambda _: f"\n{found} {order}\n\n{leaderboard_grid(record).markdown()}\n\n", readme)


def finding(where: str, record: StudyRecord) -> str:
    """Which causal methods stand above or below their controls under the strongest attack."""
    asked = [test for test in record.tests if test.question == QUESTION and test.method.startswith(CAUSAL)]
    tested = [(test, test.test.robust) for test in asked if test.test.robust is not None]
    held = [(test, one) for test, one in tested if one.adjusted_p_value is not None and one.adjusted_p_value < LEVEL]
    above, below = (
        [f"{test.method} (seed {test.seed})" for test, one in held if sign * one.difference > 0] for sign in (1, -1)
    )
    methods = len({test.method for test, _ in tested})
    return (
        f"on {where}, of {methods} methods in {len(tested)} trainings, {listing(above) or 'none'} above and"
        f" {listing(below) or 'none'} below"
    )


def main() -> None:
    """Write both from the record."""
    record = StudyRecord.read(RECORD)
    readme = ROOT / "README.md"
    readme.write_text(with_leaderboard(readme.read_text(), record))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(svg(study_figure(record), "leaderboard", "What each method withstands", record.about))


if __name__ == "__main__":
    main()
