"""Masking checks that the model stays what it was: from call to call, batch to batch, and while it is attacked.

Shapes: n examples of the sample, K classes; images (n, C, H, W), logits (n, K).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconfound.core.protocols import StochasticClassifier
from deconfound.evaluation.comparing import limited, not_run
from deconfound.evaluation.scene import Scene, state_of
from deconfound.records import Check

IDENTICAL_CALLS = 4
# Kernels that add in another order from call to call differ by some 1e-6 of the largest logit.
OUTPUT_CHANGE = 1e-4
# Kernels round by shape, in bfloat16 by some 0.3 % an operation; batch statistics change logits by tens of percent.
COMPANY_CHANGE = 0.05
SMALL_BATCH = 8


def output_changes(scene: Scene) -> Check:
    """Identical calls give the same output, at the start and at the end, with gradients on and off.

    Measured is the largest change as a share of the largest logit.
    """
    name = "identical calls agree"
    model, images = scene.referee.model, scene.sample.batch.images
    if isinstance(model, StochasticClassifier):
        return Check(name=name, measured=None, threshold=OUTPUT_CHANGE, passed=None, note="declared stochastic")
    calls = [scene.referee.logits(images) for _ in range(IDENTICAL_CALLS - 2)]
    with torch.enable_grad():
        parts = images.split(scene.referee.batch_size)
        calls.append(torch.cat([model(part.detach().clone().requires_grad_()).detach() for part in parts]))
    share = max(_change(call, scene.logits) for call in calls)
    found = (
        f"identical calls change the output by up to {share:.2g} of the largest logit, at most {OUTPUT_CHANGE:g} may"
    )
    fault = "undeclared randomness, or a model that reacts to being attacked"
    return limited(name, share, OUTPUT_CHANGE, share <= OUTPUT_CHANGE, found, fault)


def company(scene: Scene) -> Check:
    """The output for an image does not depend on the others in its batch: small batches in reverse order agree.

    Attacks drop points as they fall and judge found images among others, so a model that uses batch statistics or
    looks at all test images together is attacked in one company and judged in another.
    """
    name = "images are judged alone"
    if isinstance(scene.referee.model, StochasticClassifier):
        return not_run(name, COMPANY_CHANGE, "declared stochastic")
    images = scene.sample.batch.images
    parts = images.flip(0).tensor_split(math.ceil(len(images) / SMALL_BATCH))
    share = _change(torch.cat([scene.referee.logits(part) for part in parts]).flip(0), scene.logits)
    found = (
        f"another batch changes the output by up to {share:.2g} of the largest logit, at most {COMPANY_CHANGE:g} may"
    )
    fault = "the output depends on the other images of the batch"
    return limited(name, share, COMPANY_CHANGE, share <= COMPANY_CHANGE, found, fault)


def _change(logits: Tensor, reference: Tensor) -> float:
    logits, reference = logits.double().nan_to_num(), reference.double().nan_to_num()
    return float((logits - reference).abs().max()) / max(float(reference.abs().max()), 1e-12)


def state_kept(scene: Scene) -> Check:
    """No parameter or buffer changes while the model is judged."""
    name = "state unchanged"
    if not scene.state:
        return not_run(name, 0.0, "the model shows no parameters or buffers")
    now = state_of(scene.referee.model)
    names = [key for key in scene.state.keys() | now.keys() if not _same(scene.state.get(key), now.get(key))]
    found = f"{len(names)} parameters and buffers changed while the model was judged, 0 may"
    if names:
        found += f" ({', '.join(sorted(names)[:3])})"
    fault = "the model that is left is not the one that was attacked"
    return limited(name, float(len(names)), 0.0, not names, found, fault)


def _same(before: Tensor | None, after: Tensor | None) -> bool:
    if before is None or after is None or before.shape != after.shape or before.dtype != after.dtype:
        return False
    return bool(((before == after) | ((before != before) & (after != after))).all())


def gradient_inside(scene: Scene) -> Check:
    """The forward takes no gradient of its own, as defences do that optimise their input or weights at test time.

    Called without gradients, an ordinary forward saves nothing for a backward; one that fetches what was saved has
    run a backward inside. Differences of outputs, or gradients written out by hand, are not seen.
    """
    name = "no gradient inside the forward"
    fetched = [False]

    def fetch(kept: Tensor) -> Tensor:
        fetched[0] = True
        return kept

    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), fetch):
            scene.referee.logits(scene.sample.batch.images[:2])
    except RuntimeError:  # torch.func refuses these hooks, and is there to take gradients
        fetched[0] = True
    found = f"the forward {'takes' if fetched[0] else 'takes no'} gradient of its own"
    fault = "test-time optimisation needs attacks that know it"
    return limited(name, float(fetched[0]), 0.0, not fetched[0], found, fault)
