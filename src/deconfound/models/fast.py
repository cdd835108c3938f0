"""A fast double of any classifier: what attacks climb, while the float32 model stays the judge.

Shapes: B examples, K classes; images and gradients (B, C, H, W) float32, labels (B,) int64, logits (B, K) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from deconfound.core.guards import attacking
from deconfound.core.protocols import StochasticClassifier
from deconfound.errors import reason, unknown_name
from deconfound.models.compiling import Compiled
from deconfound.models.folding import fold
from deconfound.models.footprint import multiply_adds
from deconfound.models.lowering import enter, lower
from deconfound.models.replica import replica

Precision = Literal["auto", "32", "bf16"]

ITSELF = "float32, the model itself"
"""The lowest rung of the ladder."""

# As many images of the first batch as show a wrong fold, at the cost of a few steps of an attack.
_TRIED = 32

# Multiply-adds per image below which conversions cost what faster products gain. Measured on one core with
# AVX512-BF16, batches of 16 to 512, against plain float32: a step in bfloat16 is 0.9 to 1.3 times as fast at 0.05
# million, 1.0 to 1.9 at 0.6 million, 1.8 to 3 at 4.5 million; one in channels-last float32 0.9 to 1.2 at 0.6 million,
# 1.1 to 1.5 at 4.5 million.
_BFLOAT16_PAYS = 500_000
_CHANNELS_LAST_PAYS = 2_000_000


class Agreement(NamedTuple):
    """How near a surrogate is to its model.

    Attributes:
        logit_error: |z' - z| / |z - mean z|, Frobenius norms.
        gradient_share: of the size of the margin's gradient, what has the same sign in both; mean over images.
    """

    logit_error: float
    gradient_share: float


# Measured on four trained networks and a ResNet-18 with drawn weights, 256 images each: in bfloat16 an error of 0.001
# to 0.013 and a share above 0.98, but 0.81 for an adversarially trained LeNet, whose max-pooling has near-ties all over
# a black background (a step along its bfloat16 gradient still gains 0.98 to 1.04 of what one along the float32
# gradient gains); in float32 1e-7 to 1e-6 and above 0.999. Unrelated signs give a share of 0.5, one
# forgotten shift of a BatchNorm an error of 0.09 to 0.70.
_BOUNDS = {torch.bfloat16: Agreement(0.05, 0.7), torch.float32: Agreement(1e-4, 0.98)}


@dataclass(frozen=True)
class FastSurrogate:
    """A classifier to climb, and how it was made.

    Attributes:
        classifier: images float32 -> logits float32, in eval mode and frozen where it is a double of the model.
        rung: what was accepted, for records, such as ``bfloat16, folded, channels-last``.
        notes: why each rung above was refused.
        agreement: with the model on the first images; None where the model climbs itself.
    """

    classifier: nn.Module
    rung: str
    notes: tuple[str, ...] = ()
    agreement: Agreement | None = None


class _Rung(NamedTuple):
    name: str
    dtype: torch.dtype
    make: Callable[[nn.Module, Tensor], nn.Module]


def fast_surrogate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    precision: Precision = "auto",
    compiler: str | None = None,
) -> FastSurrogate:
    """The fastest double of a classifier that agrees with it on the first images.

    Tried in this order, each accepted only if logits and gradient signs agree: BatchNorm folded, channels-last,
    bfloat16; not folded; autocast; folded in float32; the model itself. Which ones are tried depends on the network
    and the machine, never on a clock.

    Args:
        model: is left as it is; hooks are not taken along. One that draws (``StochasticClassifier``), that answers
            differently when asked twice, or whose images or weights are not float32, is returned itself.
        images: (B, C, H, W) float32, the first batch that will be attacked; at most 32 are used.
        labels: (B,) int64.
        precision: ``auto`` is bfloat16 where the machine computes in it and the network is large enough to gain;
            ``32`` never leaves float32; ``bf16`` tries bfloat16 anywhere.
        compiler: a backend of ``torch.compile`` for the double that was accepted; kept if it agrees as well. It pays
            where an attack takes many minutes: compiling takes tens of seconds.

    Raises:
        InputError: an unknown precision.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> made = fast_surrogate(net, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
    >>> made.rung, made.notes
    ('float32, folded', ())
    """
    if precision not in get_args(Precision):
        raise unknown_name("precision", str(precision), get_args(Precision))
    refused = _not_doubled(model, images)
    if refused:
        return FastSurrogate(model, ITSELF, (refused,))
    images, labels = images[:_TRIED].detach(), labels[:_TRIED]
    notes: list[str] = []
    with attacking("eval", images.device, model):
        if not _differentiable(model, images):
            return FastSurrogate(model, ITSELF, ("the logits have no gradient: is there a no_grad or a detach?",))
        probe = _Probe(model, images, labels)
        if not probe.steady():
            return FastSurrogate(model, ITSELF, ("the model answers differently when asked twice",))
        for rung in _ladder(model, images, precision):
            try:
                made = rung.make(replica(model), images[:2]).eval().requires_grad_(False)
                found = probe.agreement(made)
            except Exception as error:  # foreign code in an unusual precision and layout: anything can come out of it
                notes.append(f"{rung.name}: {reason(error)}")
                continue
            if _agrees(found, _BOUNDS[rung.dtype]):
                accepted = FastSurrogate(made, rung.name, tuple(notes), found)
                return accepted if compiler is None else _compiled(accepted, probe, _BOUNDS[rung.dtype], compiler)
            notes.append(f"{rung.name}: {_differs(found)}")
    return FastSurrogate(model, ITSELF, tuple(notes))


def _compiled(accepted: FastSurrogate, probe: _Probe, bounds: Agreement, compiler: str) -> FastSurrogate:
    """The same double as one program, or as it is with the reason why not."""
    name = f"{accepted.rung}, compiled"
    try:
        made = Compiled(accepted.classifier, compiler)
        found = probe.agreement(made)
    except Exception as error:  # compilers need tools that a machine may lack, and refuse what they cannot trace
        return replace(accepted, notes=(*accepted.notes, f"{name}: {reason(error)}"))
    if _agrees(found, bounds):
        return FastSurrogate(made, name, accepted.notes, found)
    return replace(accepted, notes=(*accepted.notes, f"{name}: {_differs(found)}"))


def native_bfloat16(device: torch.device | str) -> bool:
    """Whether a device multiplies in bfloat16: a processor with AVX512-BF16 or AMX, a GPU of capability 8 or more."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask is not None and ask() for ask in asked)


def _not_doubled(model: nn.Module, images: Tensor) -> str:
    if isinstance(model, StochasticClassifier):
        return "the model draws its answers"
    if not isinstance(model, nn.Module):
        return "the model is no torch.nn.Module"
    held = (*model.parameters(), *model.buffers())
    other = {str(t.dtype) for t in (*held, images) if t.is_floating_point() and t.dtype != torch.float32}
    if other:
        return f"the model or its images are in {', '.join(sorted(other))}".replace("torch.", "")
    return "" if len(images) else "there are no images to try it on"


def _differentiable(model: nn.Module, images: Tensor) -> bool:
    """Whether the logits have a history that leads to the images."""
    return bool(model(images[:1].clone().requires_grad_()).requires_grad)


def _ladder(model: nn.Module, images: Tensor, precision: Precision) -> Iterator[_Rung]:
    size = multiply_adds(model, images)
    low = torch.bfloat16
    if precision == "bf16" or (precision == "auto" and size >= _BFLOAT16_PAYS and native_bfloat16(images.device)):
        yield _Rung("bfloat16, folded, channels-last", low, partial(_folded, dtype=low))
        yield _Rung("bfloat16, channels-last", low, _unfolded)
        yield _Rung("bfloat16, autocast", low, _Autocast)
    if images.device.type == "cpu" and size >= _CHANNELS_LAST_PAYS:
        yield _Rung("float32, folded, channels-last", torch.float32, partial(_folded, dtype=torch.float32))
    else:
        yield _Rung("float32, folded", torch.float32, fold)


def _folded(model: nn.Module, images: Tensor, dtype: torch.dtype) -> nn.Module:
    return lower(fold(model, images), dtype)


def _unfolded(model: nn.Module, images: Tensor) -> nn.Module:
    return _Cast(model)


class _Cast(nn.Module):
    """All weights and maps in bfloat16, channels-last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        return self.model(enter(images, torch.bfloat16)).float()


class _Autocast(nn.Module):
    """Weights in float32; torch decides for each operation."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = images.device.type

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16):
            logits: Tensor = self.model(enter(images, images.dtype))
        return logits.float()


class _Probe:
    """Logits of the model on a few images, and the gradient of its margin z_y - z_j, j the strongest other class.

    The margin, not the cross entropy, whose gradient vanishes where the model is sure.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.model, self.images, self.labels = model, images, labels
        with torch.no_grad():
            logits = model(images)
        self.rival = logits.scatter(1, labels.unsqueeze(1), -torch.inf).argmax(dim=1)
        self.logits, self.gradient = self._climbed(model)

    def _climbed(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        images = self.images.clone().requires_grad_()
        logits = model(images)
        chosen = logits.gather(1, torch.stack((self.labels, self.rival), dim=1))
        (gradient,) = torch.autograd.grad((chosen[:, 0] - chosen[:, 1]).sum(), images)
        return logits.detach(), gradient

    def steady(self) -> bool:
        """Whether the model gives the same logits again."""
        with torch.no_grad():
            return torch.equal(self.model(self.images), self.logits)

    def agreement(self, other: nn.Module) -> Agreement:
        logits, gradient = self._climbed(other)
        spread = (self.logits - self.logits.mean(dim=1, keepdim=True)).norm()
        error = (logits - self.logits).norm() / spread.clamp_min(torch.finfo(spread.dtype).tiny)
        weight = self.gradient.abs().flatten(1)
        same = (gradient.sign() == self.gradient.sign()).flatten(1)
        total = weight.sum(dim=1)
        share = torch.where(total > 0, (weight * same).sum(dim=1) / total, 1.0)
        return Agreement(float(error), float(share.mean()))


def _agrees(found: Agreement, bounds: Agreement) -> bool:
    # written so that NaN agrees with nothing
    return found.logit_error <= bounds.logit_error and found.gradient_share >= bounds.gradient_share


def _differs(found: Agreement) -> str:
    return f"logits differ by {found.logit_error:.2g}, gradient signs agree on {found.gradient_share:.1%}"
