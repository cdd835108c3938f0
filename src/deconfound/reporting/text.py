"""How figures, names and verdicts are written; every table, figure and page says them in these words."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from deconfound.records import (
    AnalysisRecord,
    AttackedRecord,
    CardEvaluation,
    Check,
    EvaluationRecord,
    Machine,
    Threat,
    TrainingRecord,
    Verdict,
    show_radius,
)

NOT_KNOWN = "n/a"


def percent(share: float | None) -> str:
    """A share in [0, 1] in per cent with one decimal; missing and non-finite ones are said to be so.

    >>> percent(0.7139), percent(None), percent(float("nan"))
    ('71.4 %', 'n/a', 'n/a')
    """
    return NOT_KNOWN if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """An interval of shares in per cent, without the unit, which stands at the accuracy beside it.

    >>> interval(0.6651, 0.7582)
    '[66.5, 75.8]'
    """
    ends = [NOT_KNOWN if end is None or not math.isfinite(end) else f"{100 * end:.1f}" for end in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"


class Proportion(Protocol):
    """A share in [0, 1] with its interval, of which records have several kinds."""

    @property
    def share(self) -> float:
        """In [0, 1]."""

    @property
    def interval(self) -> tuple[float, float]:
        """Its ends."""


def share_text(found: Proportion | None) -> tuple[str, str]:
    """A share in per cent and its interval.

    >>> from deconfound.records import Accuracy
    >>> share_text(Accuracy(share=0.7139, interval=(0.6651, 0.7582))), share_text(None)
    (('71.4 %', '[66.5, 75.8]'), ('n/a', ''))
    """
    return (NOT_KNOWN, "") if found is None else (percent(found.share), interval(*found.interval))


def threat_text(threat: Threat) -> str:
    """Norm and radius, and the pixel range where it is not [0, 1].

    >>> threat_text(Threat(norm="linf", eps=8 / 255))
    'linf 8/255'
    """
    box = "" if threat.box == (0.0, 1.0) else f" in [{threat.box[0]:g}, {threat.box[1]:g}]"
    return f"{clean(threat.norm)} {show_radius(threat.eps)}{box}"


def suite_text(record: EvaluationRecord | CardEvaluation) -> str:
    """The suite, and its budget where that is not the normal one."""
    return clean(record.suite if record.budget == "normal" else f"{record.suite} ({record.budget} budget)")


def verdict_text(verdict: Verdict) -> str:
    """``reliable``, or ``UNRELIABLE`` with the reasons, on one line.

    >>> verdict_text(Verdict(reliable=False, reasons=("loss is masked",)))
    'UNRELIABLE: loss is masked'
    """
    if verdict.reliable:
        return "reliable"
    return "UNRELIABLE: " + ("; ".join(clean(reason) for reason in verdict.reasons) or "no reason was recorded")


def check_state(check: Check) -> str:
    """``passed``, ``FAILED`` or ``not run``."""
    return "not run" if check.passed is None else "passed" if check.passed else "FAILED"


def value_text(value: Any) -> str:
    """Any recorded value on one line: short numbers, words as they are, the rest as JSON.

    >>> value_text(0.123456), value_text(None), value_text({"steps": 20})
    ('0.1235', 'n/a', '{"steps": 20}')
    """
    if value is None:
        return NOT_KNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple, dict)):
        return clean(json.dumps(value, default=str, ensure_ascii=False))
    return clean(str(value))


def settings_text(settings: dict[str, Any]) -> str:
    """``name=value`` pairs on one line."""
    return ", ".join(f"{clean(name)}={value_text(value)}" for name, value in settings.items())


def clean(text: str) -> str:
    r"""One line without control characters, which a terminal would obey and XML forbids.

    >>> clean("a\x1b[31mb\nc") == "a\ufffd[31mb c"
    True
    """
    joined = " ".join(text.split())
    return "".join(letter if letter == " " or letter.isprintable() else "\ufffd" for letter in joined)


def short(text: str, width: int) -> str:
    """At most ``width`` letters; the middle gives way, because names differ at their ends.

    >>> short("wide_resnet_70_16_extra", 12)
    'wide_r…extra'
    """
    text = clean(text)
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def shortened(names: Sequence[str], width: int) -> list[str]:
    """Names of about ``width`` letters; where shortening makes two equal, they are numbered.

    >>> shortened(["a_long_name_a", "a_lost_name_a", "b"], 7)
    ['a_l…e_a #1', 'a_l…e_a #2', 'b']
    """
    return _numbered([short(name, width) for name in names])


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "model"), count(2, "class", "classes")
    ('1 model', '2 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listing(parts: Sequence[str]) -> str:
    """Parts joined as in a sentence.

    >>> listing(["a", "b", "c"])
    'a, b and c'
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def unbroken(sentence: str) -> str:
    r"""The sentence with no-break spaces inside its figures, so that no line ends between a number and its unit.

    >>> unbroken("71.4 % [66.5, 75.8] at n = 360") == "71.4\xa0% [66.5,\xa075.8] at n\xa0=\xa0360"
    True
    """
    inner = re.compile(r"(?<=\d) (?=%)|(?<=\d,) (?=[\d.]+\])|(?<=\bn) (?== \d)|(?<=\bn =) (?=\d)")
    return inner.sub("\xa0", sentence)


def duration(seconds: float) -> str:
    """A time span in the unit that suits it.

    >>> duration(0.42), duration(75.0), duration(7320.0)
    ('0.42 s', '1 min 15 s', '2 h 2 min')
    """
    if not math.isfinite(seconds):
        return NOT_KNOWN
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class, or its number where it has none."""
    return clean(names[label]) if 0 <= label < len(names) and names[label].strip() else f"class {label}"


def machine_text(machine: Machine) -> str:
    """Device, processor and threads."""
    return clean(f"{machine.device}, {machine.processor}, {count(machine.threads, 'thread')}")


def labels(records: Sequence[EvaluationRecord]) -> list[str]:
    """One name per record, unique: model and defence, then whatever tells equal ones apart, then a number."""
    names = [_title(record) for record in records]
    for distinguish in (
        lambda r: clean(r.data),
        lambda r: threat_text(r.threat),
        suite_text,
        lambda r: f"seed {r.seed}",
    ):
        names = _distinguished(names, [distinguish(record) for record in records])
    return _numbered(names)


def training_labels(trainings: Sequence[TrainingRecord]) -> list[str]:
    """One name per training, unique: the recipe's name, or its digest where it has none."""
    names = []
    for training in trainings:
        named = [training.recipe.get(key) for key in ("name", "recipe", "method", "objective")]
        found = next((name for name in named if isinstance(name, str) and name.strip()), None)
        names.append(clean(found or f"recipe {training.recipe_digest[:12]}"))
    again = Counter(names)
    seeded = [f"{n}, seed {t.seed}" if again[n] > 1 else n for n, t in zip(names, trainings, strict=True)]
    return _numbered(seeded)


def analysis_labels(records: Sequence[AnalysisRecord]) -> list[str]:
    """One name per analysis, unique: model and defence, then what tells equal ones apart, then a number."""
    names = [_title(record) for record in records]
    for distinguish in (
        lambda r: clean(r.data),
        lambda r: threat_text(r.threat) if isinstance(r, AttackedRecord) else "",
        lambda r: f"n = {r.n}",
        lambda r: f"seed {r.seed}",
    ):
        names = _distinguished(names, [distinguish(record) for record in records])
    return _numbered(names)


def _distinguished(names: list[str], parts: Sequence[str]) -> list[str]:
    """The names, equal ones with their parts behind them where these differ."""
    told: dict[str, set[str]] = {}
    for name, part in zip(names, parts, strict=True):
        told.setdefault(name, set()).add(part)
    return [f"{n}, {part}" if len(told[n]) > 1 else n for n, part in zip(names, parts, strict=True)]


def _title(record: EvaluationRecord | AnalysisRecord) -> str:
    model, defence = clean(record.model) or "unnamed model", clean(record.defence)
    return f"{model} ({defence})" if defence and defence.lower() not in model.lower() else model


def _numbered(names: list[str]) -> list[str]:
    while len(set(names)) < len(names):
        again, seen = Counter(names), Counter[str]()
        for i, name in enumerate(names):
            seen[name] += 1
            if again[name] > 1:
                names[i] = f"{name} #{seen[name]}"
    return names
