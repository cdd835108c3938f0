"""Put the leaderboard of the study on MNIST into README.md, and draw its picture: ``python docs/front.py``.

Both come from ``benchmarks/results/mnist.json``; a test asks whether the README has what the record says.
"""

from __future__ import annotations

import re
from pathlib import Path

from deconfound.records import StudyRecord
from deconfound.reporting import leaderboard_grid, study_figure, svg

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "results" / "mnist.json"
PICTURE = ROOT / "docs" / "pictures" / "leaderboard.svg"
BLOCK = re.compile(r"(?<=<!-- leaderboard -->\n).*?(?=<!-- /leaderboard -->)", re.DOTALL)


def with_leaderboard(readme: str, record: StudyRecord) -> str:
    """The README with the record's leaderboard between its marks."""
    return BLOCK.sub(lambda _: f"\n{leaderboard_grid(record).markdown()}\n\n", readme)


def main() -> None:
    """Write both from the record."""
    record = StudyRecord.read(RECORD)
    readme = ROOT / "README.md"
    readme.write_text(with_leaderboard(readme.read_text(), record))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(svg(study_figure(record), "leaderboard", "What each method withstands", record.about))


if __name__ == "__main__":
    main()
