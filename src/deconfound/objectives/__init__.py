"""What is trained: objectives that yield one loss per player and step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.objectives.adversarial import AdversarialTraining
    from deconfound.objectives.amr_gmm import AMRGMM
    from deconfound.objectives.awp import WeightPerturbed
    from deconfound.objectives.bpfc import BPFC
    from deconfound.objectives.cafe import Inoculated
    from deconfound.objectives.causaladv import CausalAdv
    from deconfound.objectives.ciiv import CiiVAdversarialTraining, CiiVTraining, ViewLoss
    from deconfound.objectives.help import Help
    from deconfound.objectives.mart import Mart
    from deconfound.objectives.minimax import Minimax
    from deconfound.objectives.mixup import Mixup
    from deconfound.objectives.smoothing import Smoothing
    from deconfound.objectives.standard import Standard
    from deconfound.objectives.styled import StyleLoss
    from deconfound.objectives.trades import Trades

_HOME = {
    "AMRGMM": "amr_gmm",
    "AdversarialTraining": "adversarial",
    "BPFC": "bpfc",
    "CausalAdv": "causaladv",
    "Inoculated": "cafe",
    "Minimax": "minimax",
    "Help": "help",
    "Mart": "mart",
    "Mixup": "mixup",
    "CiiVAdversarialTraining": "ciiv",
    "CiiVTraining": "ciiv",
    "Smoothing": "smoothing",
    "Standard": "standard",
    "StyleLoss": "styled",
    "Trades": "trades",
    "ViewLoss": "ciiv",
    "WeightPerturbed": "awp",
}
__all__ = [
    "AMRGMM",
    "AdversarialTraining",
    "BPFC",
    "CausalAdv",
    "CiiVAdversarialTraining",
    "CiiVTraining",
    "Inoculated",
    "Minimax",
    "Help",
    "Mart",
    "Mixup",
    "Smoothing",
    "Standard",
    "StyleLoss",
    "Trades",
    "ViewLoss",
    "WeightPerturbed",
]


__getattr__ = exporter(__name__, _HOME)
