"""The columns of the papers' own tables, for comparison with them; none of these is a verdict.

Radii and steps follow the evaluation's eps; at the paper's own radius they are the paper's numbers.
"""

from __future__ import annotations

from typing import get_args

from deconfound.attacks.apgd import APGD
from deconfound.attacks.cw_l2 import CWL2
from deconfound.attacks.gradient import PGD
from deconfound.attacks.in_turn import InTurn
from deconfound.attacks.losses import confident_margin, margin, targeted_cross_entropy
from deconfound.attacks.noise import Noise
from deconfound.attacks.single_step import FGSM, FGSMRS
from deconfound.attacks.spsa import SPSA
from deconfound.attacks.suites import Columns, Setting, Suite, standard, untargeted_dlr
from deconfound.attacks.targets import Aim, Aimed
from deconfound.core.protocols import Attack
from deconfound.core.threat import ThreatModel
from deconfound.errors import require


def _linf(setting: Setting, name: str) -> ThreatModel:
    require(setting.threat.norm == "linf", "norm", setting.threat.norm, f"linf with the suite {name}")
    return setting.threat


def _columns(*attacks: Attack) -> tuple[Columns, ...]:
    return tuple(Columns("column", attack) for attack in attacks)


def cafe_paper(setting: Setting) -> Suite:
    """CAFE's columns: FGSM, PGD-30, CW-linf-100, APGD-CE-30, APGD-DLR-30 twice, and the pair they call AutoAttack."""
    threat = _linf(setting, "cafe-paper")
    pair = InTurn((APGD(threat), untargeted_dlr(setting)), "apgd-ce-100 + apgd-dlr-100")
    columns = _columns(
        FGSM(threat),
        PGD(threat, steps=30, relative_step=2.3),
        PGD(threat, steps=100, relative_step=3.0, loss=margin, name="cw-linf-100"),
        APGD(threat, steps=30),
        untargeted_dlr(setting, steps=30, restarts=2),
        pair,
    )
    return Suite(name="cafe-paper", columns=columns, notes=("the paper's radius: 0.03 (Tiny-ImageNet 4/255)",))


def causaladv_paper(setting: Setting) -> Suite:
    """CausalAdv's columns: FGSM, and PGD and CW (margin, confidence 50) with 20 to 1000 steps of eps / 10."""
    threat = _linf(setting, "causaladv-paper")
    attacks: list[Attack] = [FGSM(threat)]
    for steps in (20, 50, 100, 500, 1000):
        attacks.append(PGD(threat, steps=steps, relative_step=steps / 10))
        attacks.append(
            PGD(threat, steps=steps, relative_step=steps / 10, loss=confident_margin, name=f"cw-linf-{steps}")
        )
    return Suite(name="causaladv-paper", columns=_columns(*attacks), notes=("the paper's radius: 0.031",))


def ciiv_paper(setting: Setting) -> Suite:
    """CiiV's columns: FGSM, PGD, noise, SPSA, targeted PGD, CW-L2, AutoAttack in L-infinity and L2.

    With loops=1 the attacks climb a model that looks once, as the authors' do, while the judge looks as often as it
    predicts; by default both do. Departure: uniform noise is uniform in the ball of 2 eps, where theirs is scaled like
    the Gaussian and clipped.
    """
    threat = _linf(setting, "ciiv-paper")
    eps = threat.eps
    l2 = ThreatModel("l2", 16 * eps, threat.box)
    wide = threat.widened(2)
    attacks: list[Attack] = [FGSM(threat), FGSMRS(threat)]
    attacks += [FGSM(threat.widened(factor), name=f"fgsm-{factor}eps") for factor in range(2, 13)]
    attacks += [PGD(threat, steps=steps, relative_step=steps / 4) for steps in (10, 20, 40, 60, 80, 100)]
    attacks += [Noise(wide, kind="gaussian", tries=tries, sigma=0.1) for tries in (1, 100)]
    attacks += [Noise(wide, kind="uniform", tries=1)]
    attacks += [SPSA(wide, steps=20, pairs=16, delta=0.1, step_size=0.1)]
    attacks += [
        PGD(l2, steps=20, name="pgd-l2-20"),
        PGD(l2.with_eps(l2.eps * 255 / 128), steps=20, name="pgd-l2-20-wide"),
    ]
    towards = PGD(threat, steps=20, relative_step=5.0, loss=targeted_cross_entropy, name="pgd-20-targeted")
    attacks += [Aimed(towards, aim=aim) for aim in get_args(Aim)]
    attacks += [CWL2(l2)]
    for other in (threat, l2):
        made = standard(Setting(threat=other, classes=setting.classes, rows=setting.rows))
        attacks.append(InTurn(made.attacks, f"autoattack-{other.norm}"))
    note = "the paper's radius: 8/255; its columns climb single draws of a random model, see rand and adaptive"
    return Suite(name="ciiv-paper", columns=_columns(*attacks), notes=(note,))
