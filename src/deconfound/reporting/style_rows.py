"""A content/style analysis as rows: who reads the images, and what each basis lets through."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from deconfound.records import Correlations, Reader, StyleBasis, StyleRecord
from deconfound.reporting.text import NOT_KNOWN, clean, count, percent, share_text, threat_text, value_text

CONTENT = "content z"

_BASIS_COLUMNS = (
    "left_out",
    "canonical_largest",
    "canonical_mean_square",
    "correlation_largest",
    "correlation_mean",
    "held_out_canonical_largest",
    "held_out_canonical_mean_square",
    "held_out_largest",
    "held_out_mean",
    "chance_canonical_largest",
    "chance_canonical_mean_square",
    "chance_largest",
    "chance_mean",
    "recovered",
    "largest_cosine",
    "same_class",
)
_MEASURES = {
    "canonical_largest": "canonical, largest",
    "canonical_mean_square": "canonical, mean square",
    "largest": "one by one, largest",
    "mean": "one by one, mean",
}


@dataclass(frozen=True)
class ReaderRow:
    """One classifier: the network itself, or the style predictor on one basis."""

    name: str
    reader: Reader

    @property
    def accuracies(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Natural and adversarial, each a share and its interval."""
        return share_text(self.reader.natural), share_text(self.reader.adversarial)

    @property
    def numbers(self) -> tuple[str, str, str]:
        """Entropy, mean soft cross entropy and their difference, in nats."""
        return nats(self.reader.entropy), nats(self.reader.shift), nats(self.reader.divergence)


def reader_rows(record: StyleRecord) -> list[ReaderRow]:
    """Content first, then the style predictor on each basis."""
    style = [ReaderRow(f"style g, {basis_name(basis)}", basis.predictor) for basis in record.bases]
    return [ReaderRow(CONTENT, record.content), *style]


def basis_name(basis: StyleBasis) -> str:
    """The basis, and whether the run was trained on it."""
    return f"{clean(basis.name)} basis{' (trained)' if basis.trained else ''}"


def nats(value: float) -> str:
    """A number of nats with three decimals.

    >>> nats(0.12345), nats(float("nan"))
    ('0.123', 'nan')
    """
    return f"{value:.3f}"


def small(value: float | None) -> str:
    """A correlation or a cosine: two decimals, or its power of ten where it is as good as none.

    >>> small(0.1234), small(3.2e-7), small(0.0), small(None)
    ('0.12', '3e-07', '0', 'n/a')
    """
    if value is None:
        return NOT_KNOWN
    return f"{value:.2f}" if not abs(value) < 0.005 else f"{value:.0e}" if value else "0"


def beside_chance(found: Correlations, chance: Correlations | None, name: str) -> str:
    """One of the correlations over some images, and what chance would leave.

    >>> beside_chance(Correlations(largest=0.3, mean=0.1), Correlations(largest=0.34, mean=0.08), "largest")
    '0.30 (0.34)'
    """
    return small(getattr(found, name)) + (f" ({small(getattr(chance, name))})" if chance is not None else "")


def basis_cells(basis: StyleBasis) -> dict[str, str]:
    """What a basis lets through, by name."""
    stored = {f"under Σ: {name}": small(getattr(basis.stored, key)) for key, name in _MEASURES.items()}
    here = {
        f"here: {name} (chance)": beside_chance(basis.held_out, basis.chance, key) for key, name in _MEASURES.items()
    }
    read = {"here: content recovered (R²)": small(basis.recovered)}
    return {
        "directions of content left out": str(basis.removed),
        **stored,
        **read,
        **here,
        "largest |cos| of W Σ and B": small(basis.leakage),
        "nearest neighbour of the same class": percent(basis.same_class),
    }


def setting(record: StyleRecord) -> str:
    """What must be known to read the figures, on one line."""
    classes = count(len(record.class_names), "class", "classes")
    return (
        f"{clean(record.data)} ({classes}), {threat_text(record.threat)}, {clean(record.attack.name)},"
        f" n = {record.n}, seed {record.seed}"
    )


def style_csv(record: StyleRecord) -> str:
    """The table of an analysis as CSV: one line for content and one for each basis, full precision.

    A cell is empty where the figure does not exist for the line.
    """
    lines = [_line(record, "content", "", record.content, None)]
    lines += [_line(record, "style", basis.name, basis.predictor, basis) for basis in record.bases]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _line(record: StyleRecord, what: str, name: str, reader: Reader, basis: StyleBasis | None) -> dict[str, Any]:
    cells: dict[str, Any] = {"reader": what, "basis": name, "trained": "" if basis is None else int(basis.trained)}
    for version in ("natural", "adversarial"):
        accuracy = getattr(reader, version)
        cells |= {f"{version}_accuracy": accuracy.share}
        cells |= dict(zip((f"{version}_low", f"{version}_high"), accuracy.interval, strict=True))
    cells |= {"entropy": reader.entropy, "shift": reader.shift, "divergence": reader.divergence}
    cells |= _basis_numbers(basis)
    threat, steps = record.threat, value_text(record.attack.settings.get("steps"))
    about: dict[str, Any] = {"model": record.model, "defence": record.defence, "data": record.data, "norm": threat.norm}
    about |= {"eps": threat.eps, "attack": record.attack.name, "steps": steps, "n": record.n, "seed": record.seed}
    return cells | {key: plain(value) if isinstance(value, str) else value for key, value in about.items()}


def _basis_numbers(basis: StyleBasis | None) -> dict[str, Any]:
    if basis is None:
        return dict.fromkeys(_BASIS_COLUMNS, "")
    correlations = (
        getattr(found, key, None) for found in (basis.stored, basis.held_out, basis.chance) for key in _MEASURES
    )
    values = (basis.removed, *correlations, basis.recovered, basis.leakage, basis.same_class)
    return {key: "" if value is None else value for key, value in zip(_BASIS_COLUMNS, values, strict=True)}


def plain(text: str) -> str:
    """A word that no spreadsheet takes for a formula.

    >>> plain("=1+1"), plain("digits[test]")
    ("'=1+1", 'digits[test]')
    """
    text = clean(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


__all__ = [
    "CONTENT",
    "ReaderRow",
    "basis_cells",
    "basis_name",
    "beside_chance",
    "nats",
    "reader_rows",
    "setting",
    "small",
    "style_csv",
]
