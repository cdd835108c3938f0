"""What an evaluation's number means: what its suite ran, what its audit left open, who judged and how often."""

from __future__ import annotations

import math
import re

from deconfound.records import AttackResult, AuditResult, EvaluationRecord, Spread
from deconfound.reporting.text import clean, count, interval, listing, percent, settings_text, value_text, verdict_text

UPPER_BOUND = "the robust accuracy is an upper bound, which a stronger suite may lower"

_TITLES = {
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "apgd-t-margin": "APGD-T on the margin",
    "fab": "FAB",
    "fab-t": "FAB-T",
    "pgd": "PGD",
    "spsa": "SPSA",
    "square": "Square",
}

# AutoAttack's standard version by the names that carry its budgets; where classes are few, the margin is climbed.
_AUTOATTACK = (r"apgd-ce-100(x5)?", r"apgd-t-(margin-)?100x[59]", r"fab-t-100x9", r"square-5000")

# Suites whose attacks are scaled by the budget on random models, or where a defence declares its own.
_SCALED = ("adaptive", "rand", "unseen")


def attack_title(name: str) -> str:
    """An attack as the field writes it, without its budget; a name that is not known stays as it is.

    >>> attack_title("fab-t-100x9"), attack_title("square-5000"), attack_title("mine-20")
    ('FAB-T', 'Square', 'mine-20')
    """
    return _TITLES.get(re.sub(r"-\d+(x\d+)?(-eot\d+)?$", "", name), clean(name))


def strength(record: EvaluationRecord) -> str:
    """What the suite ran, in words that promise no more than that."""
    if not record.attacks and not record.columns:
        return "no attack was run: the robust accuracy is only the clean one"
    if record.suite in ("standard", "fast") and all_of_autoattack(record):
        return _autoattack(record)
    if record.audit is not None and not record.audit.complete:
        ran = listing([attack_title(attack.name) for attack in record.attacks if not on_sample(record, attack)])
        return f"not AutoAttack: {ran} on all images, {_audited(record)} on a sample of the survivors only"
    return _words(record)


def all_of_autoattack(record: EvaluationRecord) -> bool:
    """Whether AutoAttack's four attacks, with its budgets and in its order, have all seen every survivor."""
    names = [one.name for one in record.attacks or [column for column in record.columns if column.group == "alone"]]
    complete = record.audit is None or record.audit.complete
    fit = len(names) == len(_AUTOATTACK) and all(map(re.fullmatch, _AUTOATTACK, names))
    return fit and complete and not any(on_sample(record, attack) for attack in record.attacks)


def on_sample(record: EvaluationRecord, attack: AttackResult) -> bool:
    """Whether an attack saw some of the survivors only: by its audit, or because more are left than it was given."""
    audit = record.audit
    skipped = audit is not None and not audit.complete and attack.name in audit.attacks
    return skipped or attack.survivors > attack.attacked


def audit_text(record: EvaluationRecord) -> str:
    """What the audit saw, what fell, and what it may have missed; an unreliable verdict is said with it.

    Returns:
        One line without a final stop, empty where there was no audit.
    """
    audit = record.audit
    if audit is None:
        return ""
    who, seen = _audited(record), _seen(audit)
    if audit.survivors == 0:
        text = f"{who} had no survivor left to try"
    elif audit.sampled + audit.nearest >= audit.survivors:
        text = f"{who} on {_all(audit.survivors)}, {_fell(audit.fell + audit.nearest_fell)}"
    elif audit.complete:
        in_all = audit.survivors - record.attacks[-1].survivors if record.attacks else audit.fell
        text = f"{who} on {seen}; then on all of them, {in_all} fell"
    else:
        text = (
            f"{who} on {seen}; with 95 % confidence they could have broken at most {_points(audit.bound)} points more"
        )
    return text if record.verdict.reliable else f"{text} ({verdict_text(record.verdict)})"


def audit_brief(record: EvaluationRecord) -> str:
    """The audit in a narrow cell; empty where nothing was left open."""
    audit = record.audit
    if audit is None or audit.complete:
        return ""
    seen = f"{audit.nearest} + {audit.sampled}" if audit.nearest else f"{audit.sampled}"
    return f"sample audit, {seen} of {audit.survivors}: at most {_points(audit.bound)} points less (95 %)"


def cautions(record: EvaluationRecord) -> list[tuple[str, str]]:
    """What the suite leaves open: what stands before the name of the evaluation, and what stands after it."""
    suite, found = clean(record.suite), []
    if not record.attacks and not record.columns:
        return [("No attack was run on", "the robust accuracy is only the clean one")]
    if record.audit is not None and not record.audit.complete:
        found.append((f"Suite {suite} on", f"{audit_text(record)}; this is not AutoAttack's number"))
    elif suite in ("quick", "unseen") or suite.endswith("-paper"):
        found.append((f"Suite {suite} on", f"{_words(record).split(':')[0]}; {UPPER_BOUND}"))
    elif len(record.attacks) == 1:
        found.append(("A single attack was run on", UPPER_BOUND))
    elif suite in ("standard", "fast") and not all_of_autoattack(record):
        found.append((f"Suite {suite} on", f"not AutoAttack's attacks and budgets; {UPPER_BOUND}"))
    if record.budget == "demo" and suite in _SCALED:
        scaled = "few steps, draws and queries for random models and declared attacks"
        found.append((f"Budget demo, suite {suite} on", f"{scaled}; {UPPER_BOUND}"))
    return found


def judge_text(spread: Spread) -> str:
    """Who judged, and how often.

    >>> shares = {"clean": (0.9,) * 5, "robust": (0.5,) * 5, "clean_deviation": 0.0, "robust_deviation": 0.0}
    >>> judge_text(Spread(judge={"kind": "majority", "draws": 9, "abstain": None}, **shares))
    'majority of 9 draws, 5 seeds'
    """
    settings = {name: value for name, value in spread.judge.items() if value is not None}
    kind, draws = value_text(settings.pop("kind", "judge")), settings.pop("draws", None)
    text = kind if draws is None else f"{kind} of {value_text(draws)} draws"
    if settings.pop("abstain", None) is not None:
        text += ", abstentions count as errors"
    return f"{text}{f' ({settings_text(settings)})' if settings else ''}, {count(len(spread.robust), 'seed')}"


def deviation_text(deviation: float) -> str:
    """A standard deviation over seeds, in points, to stand behind an accuracy.

    >>> deviation_text(0.0042), deviation_text(float("nan"))
    ('± 0.4', '± n/a')
    """
    return f"± {100 * deviation:.1f}" if math.isfinite(deviation) else "± n/a"


def accuracy_text(record: EvaluationRecord, *, robust: bool, gap: str = "  ") -> str:
    """Accuracy, its standard deviation over the seeds of a random judge, and its interval."""
    share = record.robust_accuracy if robust else record.clean_accuracy
    ends = record.robust_interval if robust else record.clean_interval
    deviation = ""
    if record.spread is not None:
        spread = record.spread
        deviation = f" {deviation_text(spread.robust_deviation if robust else spread.clean_deviation)}"
    return f"{percent(share)}{deviation}{gap}{interval(*ends)}"


def seeds_text(shares: tuple[float, ...]) -> str:
    """The accuracy under each seed, in per cent."""
    return ", ".join(percent(share).removesuffix(" %") for share in shares) + " %"


def _words(record: EvaluationRecord) -> str:
    suite = record.suite
    if suite == "quick":
        return "a first look, not AutoAttack: the robust accuracy is an upper bound"
    if suite == "plus":
        return "AutoAttack's plus version: more restarts and APGD-DLR besides the standard attacks"
    if suite == "rand":
        return f"for random models: attacks on expectations over draws, budget {clean(record.budget)}"
    if suite == "adaptive":
        return "standard (rand for a random model) and the attacks that the defence declares against itself"
    if suite == "unseen":
        return "APGD alone under the seen threat model: an upper bound; every other attacker by itself on all images"
    if suite.endswith("-paper"):
        return "the columns of a paper's table, for comparison with it: not a verdict"
    if len(record.attacks) == 1:
        return f"a single attack: {UPPER_BOUND}"
    return UPPER_BOUND


def _autoattack(record: EvaluationRecord) -> str:
    few = ", with the margin in place of the targeted DLR loss, which needs 4 classes"
    margin = few if any("-margin" in attack.name for attack in record.attacks) else ""
    audit = "" if record.audit is None else "; the audit saw every survivor"
    return f"AutoAttack's attacks and budgets{margin}{audit}"


def _audited(record: EvaluationRecord) -> str:
    names = () if record.audit is None else record.audit.attacks
    return listing([attack_title(name) for name in names]) or "the slow attacks"


def _seen(audit: AuditResult) -> str:
    """On how many the slow attacks were let loose, and how many of them fell."""
    sample = f"{audit.sampled} of {audit.survivors} survivors, {_fell(audit.fell)}"
    if not audit.nearest:
        return sample
    return (
        f"the {audit.nearest} of {audit.survivors} survivors that were nearest to falling, {_fell(audit.nearest_fell)},"
        f" and on {audit.sampled} of the rest at random, {_fell(audit.fell)}"
    )


def _fell(number: int) -> str:
    return f"{number} fell" if number else "none fell"


def _all(survivors: int) -> str:
    return "the only survivor" if survivors == 1 else f"all {survivors} survivors"


def _points(share: float) -> str:
    """A bound in points, rounded up: what is written must still be one."""
    return f"{math.ceil(1000 * share - 1e-9) / 10:.1f}" if math.isfinite(share) else "n/a"


__all__ = [
    "UPPER_BOUND",
    "accuracy_text",
    "all_of_autoattack",
    "attack_title",
    "audit_brief",
    "audit_text",
    "cautions",
    "deviation_text",
    "judge_text",
    "on_sample",
    "seeds_text",
    "strength",
]
