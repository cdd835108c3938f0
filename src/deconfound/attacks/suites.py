"""Suites: named sequences of attacks, each of which runs on what the earlier ones left standing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from deconfound.attacks.apgd import APGD
from deconfound.attacks.budgets import Budget, budget
from deconfound.attacks.fab import FAB
from deconfound.attacks.gradient import PGD
from deconfound.attacks.losses import DLR_CLASSES, TARGETED_DLR_CLASSES, dlr, margin, targeted_margin
from deconfound.attacks.registry import make as attack_of
from deconfound.attacks.spsa import SPSA
from deconfound.attacks.square import Square
from deconfound.core.imported import is_spec
from deconfound.core.protocols import Attack
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Audit
from deconfound.errors import InputError, unknown_name

# How a suite of one attack is spelt by those who expect no dash, and what AutoAttack's is called elsewhere.
_SPELT = re.compile(r"(a?pgd)[-_ ]?([1-9]\d{0,5})", re.ASCII)
_AUTOATTACK = ("aa", "autoattack", "auto-attack")
_SINGLE = re.compile(r"(?P<attack>a?pgd)-(?P<steps>[1-9]\d{0,5})", re.ASCII)
TARGETS, L1_TARGETS, L1_RESTARTS, PLUS_RESTARTS = 9, 5, 5, 5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """For whom a suite is made.

    Attributes:
        threat: the threat model.
        classes: K of the model.
        stochastic: the judge is random.
        budget: for stochastic judges and declared attacks.
        rows: pairs of point and target that are climbed together.
        radii: of every norm, for data of this kind; what ``unseen`` needs.
        declared: the defence's own attacks, made from the same budget.
        least, share: of the audit of ``fast``.
    """

    threat: ThreatModel
    classes: int = 10
    stochastic: bool = False
    budget: Budget = field(default_factory=lambda: budget("normal"))
    rows: int = 256
    radii: Mapping[str, float] = field(default_factory=dict)
    declared: Sequence[Attack] = ()
    least: int = 100
    share: float = 0.1


class Columns(NamedTuple):
    """An attack that runs by itself on everything, as one column of a table, and the group it stands in."""

    group: str
    attack: Attack


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What runs.

    Attributes:
        name: of the suite.
        attacks: in order, each on what the earlier ones left standing.
        audit: slow attacks on a sample of the survivors, or on all of them.
        columns: attacks that run by themselves, whatever threat model they are in.
        notes: what the reader of the record should know.
    """

    name: str
    attacks: tuple[Attack, ...] = ()
    audit: Audit | None = None
    columns: tuple[Columns, ...] = ()
    notes: tuple[str, ...] = ()


Maker = Callable[[Setting], Suite]


def untargeted_dlr(setting: Setting, steps: int = 100, restarts: int = 1, draws: int = 1) -> APGD:
    """APGD-DLR, or APGD on the margin where there are fewer than 3 classes."""
    loss = dlr if setting.classes >= DLR_CLASSES else margin
    return APGD(setting.threat, steps=steps, restarts=restarts, draws=draws, loss=loss)


def cross_entropy_apgd(setting: Setting) -> APGD:
    """AutoAttack's APGD-CE; in L1 with five restarts and the large-eps schedule."""
    if setting.threat.norm == "l1":
        return APGD(setting.threat, restarts=L1_RESTARTS, schedule="large-eps")
    return APGD(setting.threat)


def targeted_apgd(setting: Setting) -> APGD:
    """AutoAttack's APGD-T, on the margin where there are fewer than 4 classes; in L1 5 targets, large-eps schedule."""
    l1 = setting.threat.norm == "l1"
    return APGD(
        setting.threat,
        targets=L1_TARGETS if l1 else TARGETS,
        loss=targeted_margin if setting.classes < TARGETED_DLR_CLASSES else None,
        schedule="large-eps" if l1 else "flat",
        rows=setting.rows,
    )


def targeted_fab(setting: Setting) -> FAB:
    """AutoAttack's FAB-T."""
    return FAB(setting.threat, targets=TARGETS, rows=setting.rows)


def quick(setting: Setting) -> Suite:
    """PGD-20 and APGD-CE-20: a first look, not a verdict."""
    return Suite(name="quick", attacks=(PGD(setting.threat, steps=20), APGD(setting.threat, steps=20)))


def fast(setting: Setting) -> Suite:
    """APGD-CE and APGD-T on everything; FAB-T and Square on a sample of the survivors, on all of them if one falls.

    Beside the sample, the survivors that PGD-20 on the margin brings nearest to falling are audited.
    """
    slow = (targeted_fab(setting), Square(setting.threat))
    nearest = PGD(setting.threat, steps=20, loss=margin, keep="last", name="nearest")
    return Suite(
        name="fast",
        attacks=(cross_entropy_apgd(setting), targeted_apgd(setting)),
        audit=Audit(attacks=slow, least=setting.least, share=setting.share, ranking=nearest),
    )


def standard(setting: Setting) -> Suite:
    """AutoAttack's standard suite: APGD-CE, APGD-T, FAB-T and Square with 5000 queries, each on the survivors."""
    attacks = (cross_entropy_apgd(setting), targeted_apgd(setting), targeted_fab(setting), Square(setting.threat))
    return Suite(name="standard", attacks=attacks)


def plus(setting: Setting) -> Suite:
    """AutoAttack's plus suite: APGD-CE, APGD-DLR and FAB with five restarts, Square, APGD-T, FAB-T."""
    threat = setting.threat
    attacks = (
        replace(cross_entropy_apgd(setting), restarts=PLUS_RESTARTS, name=""),
        untargeted_dlr(setting, restarts=PLUS_RESTARTS),
        FAB(threat, restarts=PLUS_RESTARTS, rows=setting.rows),
        Square(threat),
        targeted_apgd(setting),
        targeted_fab(setting),
    )
    return Suite(name="plus", attacks=attacks)


def rand(setting: Setting) -> Suite:
    """For stochastic judges: APGD-CE and APGD-DLR on expected gradients, Square and SPSA on expected losses."""
    threat, spent = setting.threat, setting.budget
    attacks = (
        APGD(threat, steps=spent.steps, draws=spent.draws),
        untargeted_dlr(setting, steps=spent.steps, draws=spent.draws),
        Square(threat, queries=spent.queries, draws=spent.query_draws),
        SPSA(threat, steps=spent.spsa_steps, pairs=spent.spsa_pairs, draws=spent.query_draws),
    )
    return Suite(name="rand", attacks=attacks)


def adaptive(setting: Setting) -> Suite:
    """Standard (rand on a stochastic judge) and everything that the defence declares against itself."""
    common = (rand if setting.stochastic else standard)(setting)
    notes = () if setting.declared else ("the defence declares no attack of its own",)
    return Suite(name="adaptive", attacks=(*common.attacks, *setting.declared), notes=notes)


def _single(name: str) -> Maker | None:
    """The suite of a single attack, by steps or by the name of another library's or one's own.

    ``pgd-STEPS`` and ``apgd-STEPS`` climb expectations on a random judge.
    """
    if is_spec(name):
        return lambda setting: Suite(name=name, attacks=(attack_of(name, setting.threat),))
    found = _SINGLE.fullmatch(name)
    if found is None:
        return None
    make, steps = {"pgd": PGD, "apgd": APGD}[found["attack"]], int(found["steps"])

    def made(setting: Setting) -> Suite:
        draws = setting.budget.draws if setting.stochastic else 1
        return Suite(name=name, attacks=(make(setting.threat, steps=steps, draws=draws),))

    return made


def apart(made: Suite, transferred: Sequence[Attack] = ()) -> Suite:
    """Every attack of a suite by itself on everything that is right when clean, as a column of a table.

    The robust accuracy stays what all of them leave together. No column is below it, but for rounding over the seeds of
    a random judge, whose majority a column counts.

    Args:
        made: the suite.
        transferred: attacks that climb other classifiers, as columns behind those of the suite.

    Raises:
        InputError: the suite ``fast``, which audits what its first attacks leave.
    """
    if made.audit is not None:
        rule = "none with this suite, which audits survivors; standard has the same attacks"
        raise InputError("separate", made.name, rule)
    alone = (Columns("alone", attack) for attack in made.attacks)
    others = (Columns("transfer", attack) for attack in transferred)
    return replace(made, attacks=(), columns=(*alone, *others, *made.columns))


def _makers() -> Mapping[str, Maker]:
    from deconfound.attacks.paper_suites import cafe_paper, causaladv_paper, ciiv_paper
    from deconfound.attacks.unseen import unseen

    made: dict[str, Maker] = {
        "quick": quick,
        "fast": fast,
        "standard": standard,
        "plus": plus,
        "rand": rand,
        "adaptive": adaptive,
        "unseen": unseen,
        "cafe-paper": cafe_paper,
        "causaladv-paper": causaladv_paper,
        "ciiv-paper": ciiv_paper,
    }
    return MappingProxyType(made)


DETERMINISTIC = ("standard", "fast", "plus", "quick")
"""Suites whose attacks climb single draws, so that they overestimate a stochastic model."""


def names() -> tuple[str, ...]:
    """The suites there are."""
    return tuple(_makers())


SINGLE_ATTACKS: Mapping[str, str] = MappingProxyType(
    {
        "pgd-STEPS": "that attack alone with so many steps: a first look, an upper bound",
        "apgd-STEPS": "that attack alone with so many steps: a first look, an upper bound",
        "LIBRARY:ATTACK": "that attack of torchattacks, foolbox, art or adv_lib alone: an upper bound",
        "module:callable": "an attack of your own alone: an upper bound",
    }
)
"""Suites of one attack, and a line on each."""


def exists(name: str) -> bool:
    """Whether there is a suite of that name.

    >>> exists("standard"), exists("pgd-40"), exists("pgd"), exists("mine:Attack")
    (True, True, False, True)
    """
    return name in _makers() or _single(name) is not None


def unknown(name: str) -> InputError:
    """What is said of a suite that does not exist."""
    near = "standard" if name.casefold() in _AUTOATTACK else ""
    steps = _SPELT.fullmatch(name.casefold())
    return unknown_name("suite", name, (*_makers(), *SINGLE_ATTACKS), f"{steps[1]}-{steps[2]}" if steps else near)


def about(name: str) -> str:
    """One line on a suite."""
    return (_makers()[name].__doc__ or "").strip().splitlines()[0]


def suite(name: str, setting: Setting | ThreatModel) -> Suite:
    """The suite of that name, for a setting, or for a threat model with the setting's defaults.

    Raises:
        InputError: no such suite, or one that a stochastic judge would fool.

    >>> [attack.name for attack in suite("standard", ThreatModel("linf", "8/255")).attacks]
    ['apgd-ce-100', 'apgd-t-100x9', 'fab-t-100x9', 'square-5000']
    """
    make = _makers().get(name) or _single(name)
    if make is None:
        raise unknown(name)
    setting = Setting(threat=setting) if isinstance(setting, ThreatModel) else setting
    if setting.stochastic and name in DETERMINISTIC:
        rule = "rand (or adaptive): the model is random, and these attacks would climb single draws of it"
        raise InputError("suite", name, rule)
    made = make(setting)
    return replace(made, notes=(*made.notes, *_few_classes(made.attacks, setting.classes)))


def _few_classes(attacks: Sequence[Attack], classes: int) -> list[str]:
    """A line for each form of the DLR loss in whose place an attack climbs the margin."""
    climbed = [attack.loss for attack in attacks if isinstance(attack, APGD)]
    forms = (("DLR loss", DLR_CLASSES, margin), ("targeted DLR loss", TARGETED_DLR_CLASSES, targeted_margin))
    return [
        f"the {name} needs {least} classes and the model has {classes}: the margin is climbed in its place"
        for name, least, instead in forms
        if classes < least and instead in climbed
    ]
