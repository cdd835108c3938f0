"""Masking checks of the input gradient: that there is one, and that the loss follows it.

Shapes: n examples of the sample, K classes; images (n, C, H, W), logits (n, K), verdicts (n,) bool.
"""

from __future__ import annotations

import torch
from scipy.stats import binomtest
from torch import Tensor

from deconfound.core.draws import bound
from deconfound.core.guards import attacking
from deconfound.core.threat import ThreatModel
from deconfound.evaluation.comparing import SIGNIFICANCE, exact, limited, not_run
from deconfound.evaluation.referee import Sample
from deconfound.evaluation.scene import Scene, rows
from deconfound.functional.gradients import finite_gradient
from deconfound.functional.losses import cross_entropy, margin
from deconfound.records import Check

# A point whose gradient is zero cannot fall to a gradient attack; ten points are the 95 % half-width at n = 100.
ZERO_GRADIENT_SHARE = 0.1
# Medians measured on survivors of honest networks are 0.5 to 0.97, of shattered or made-up gradients 0.00 to 0.16.
FOLLOWED = 0.4
# The step of an attack with 20 steps of 2.5 eps / 20.
STEP_SHARE = 1 / 8
STARTS = 4
# Below this share of the largest logit a change of the margin is rounding.
TOO_SMALL = 1e-4


def zero_gradients(scene: Scene) -> Check:
    """Share of correctly classified examples whose gradient is zero in every pixel, for cross-entropy or margin.

    A saturated softmax counts too: in float32 the gradient of the cross-entropy is exactly zero once the true class
    leads by more than about 100, attacks on it stand still there, and that is how defensive distillation seemed
    robust. The note says how many of these move the margin, so that saturation can be told from a blocked gradient.
    The margin is the numerator of the DLR loss, which stands still with it.
    """
    name, correct = "zero gradients", scene.sample.correct
    if not bool(correct.any()):
        return not_run(name, ZERO_GRADIENT_SHARE, "no example is classified correctly")
    moves_loss, moves_margin = _gradients_exist(scene)
    silent = ~(moves_loss & moves_margin) & correct
    saturated = silent & moves_margin
    share = int(silent.sum()) / int(correct.sum())
    found = (
        f"{share:.1%} of the input gradients are zero, at most {ZERO_GRADIENT_SHARE:.0%} may, "
        f"{int(saturated.sum())} of {int(silent.sum())} by saturation"
    )
    fault = "gradient attacks stand still there"
    return limited(name, share, ZERO_GRADIENT_SHARE, share <= ZERO_GRADIENT_SHARE, found, fault)


def loss_follows_gradient(scene: Scene) -> Check:
    """For half of the survivors at least, the margin changes by 0.4 of what its gradient promises, or more.

    With g the gradient of the margin m at a random start x in the ball and h a step of eps/8 along it,
    r = sum (m(x + h) - m(x - h)) / sum <g, 2 h>, summed over four starts. On a smooth loss r is near 1; a gradient
    that is large but does not say where the loss goes (shattered, or made up on the way back) has r near 0. Only
    examples that the iterative attack left right count, since elsewhere the gradient has proved its use; measured is
    the p-value of an exact sign test that the median of r is at least 0.4.

    Steps go along the sign of the gradient in L-infinity, along the gradient in L2, and in L1 too, where they are as
    long in Euclidean terms as an L1 step: the loss bends too much along single pixels.
    """
    name = "loss follows its gradient"
    left = rows(scene.sample, scene.after_iterative().nonzero().squeeze(1))
    parts = torch.arange(len(left.correct)).split(scene.referee.batch_size) if len(left.correct) else ()
    found = [_followed(scene, rows(left, part)) for part in parts]
    ratios = torch.cat(found) if found else torch.zeros(0)
    count, astray = len(ratios), int((ratios < FOLLOWED).sum())
    if not count:
        return not_run(name, SIGNIFICANCE, "no example with a gradient is left")
    p = float(binomtest(astray, count, 0.5, alternative="greater").pvalue)
    said = f"on {astray} of {count} survivors the loss changes by less than {FOLLOWED:.0%} of what its gradient says"
    return exact(name, p, said, "the gradient says little about where the loss goes")


def _followed(scene: Scene, sample: Sample) -> Tensor:
    """The ratios r of a few examples, without those whose promised change is too small to be seen."""
    images, labels = sample.batch.images, sample.batch.labels
    change, promised, seen = (torch.zeros(len(labels), dtype=torch.float64, device=labels.device) for _ in range(3))
    low, high = scene.threat.box
    with attacking("eval", labels.device, scene.referee.model):
        for start in range(STARTS):
            streams = sample.streams.fold("follow", start)
            model = bound(scene.referee.model, streams)
            leaf = scene.threat.random_start(images, streams).detach().requires_grad_()
            logits = model(leaf)
            gradient, point = finite_gradient(margin(logits, labels).sum(), leaf), leaf.detach()
            step = _step(scene.threat, gradient, point)
            ahead, behind = (point + step).clamp(low, high), (point - step).clamp(low, high)
            with torch.no_grad():
                change += margin(model(ahead), labels) - margin(model(behind), labels)
            promised += (gradient * (ahead - behind)).flatten(1).sum(dim=1)
            seen += TOO_SMALL * logits.detach().abs().amax(dim=1)
    clear = promised > seen
    return (change[clear] / promised[clear]).nan_to_num(0.0)


def _step(threat: ThreatModel, gradient: Tensor, points: Tensor) -> Tensor:
    step = STEP_SHARE * threat.eps * threat.steepest(gradient, points)
    if threat.norm != "l1":
        return step
    length, size = (tensor.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for tensor in (step, gradient))
    return gradient * (length / size.clamp_min(torch.finfo(size.dtype).tiny))


def _gradients_exist(scene: Scene) -> tuple[Tensor, Tensor]:
    """Where the cross-entropy and the margin have a gradient, (n,) bool each."""
    batch, size = scene.sample.batch, scene.referee.batch_size
    found = []
    with attacking("eval", batch.images.device, scene.referee.model):
        for part in torch.arange(len(batch.labels), device=batch.images.device).split(size):
            model = bound(scene.referee.model, scene.sample.streams[part].fold("gradient"))
            leaf = batch.images[part].detach().clone().requires_grad_()
            logits = model(leaf)
            losses = [loss(logits, batch.labels[part]).sum() for loss in (cross_entropy, margin)]
            slopes = [finite_gradient(total, leaf, keep=True) for total in losses]
            found.append(torch.stack([slope.flatten(1).ne(0).any(dim=1) for slope in slopes]))
    of_loss, of_margin = torch.cat(found, dim=1)
    return of_loss, of_margin
