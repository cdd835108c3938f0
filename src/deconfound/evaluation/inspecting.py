"""Masking checks that look at what goes into the model and comes out.

Shapes: n examples of the sample, K classes; images (n, C, H, W), logits (n, K), verdicts (n,) bool.
"""

from __future__ import annotations

from deconfound.evaluation.comparing import SIGNIFICANCE, excess, limited, not_run
from deconfound.evaluation.scene import Scene
from deconfound.functional.predictions import predicted
from deconfound.records import Check

PROBABILITY_SHARE = 0.5
NORMALISATION_GAIN = 0.05

# (mean, standard deviation) per channel, as published with the data sets or as commonly used for them.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "[-1, 1]": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "[0, 255]": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    "MNIST": ((0.1307,), (0.3081,)),
    "Fashion-MNIST": ((0.2860,), (0.3530,)),
    "[-1, 1] grey": ((0.5,), (0.5,)),
    "[0, 255] grey": ((0.0,), (1 / 255,)),
}


def probabilities(scene: Scene) -> Check:
    """The output is not a row of probabilities: non-negative and summing to 1 within 1e-3."""
    logits = scene.logits.double()
    alike = (logits >= 0).all(dim=1) & ((logits.sum(dim=1) - 1).abs() <= 1e-3)
    share = float(alike.double().mean())
    found = f"{share:.0%} of the outputs are rows of probabilities, at most {PROBABILITY_SHARE:.0%} may"
    fault = "a second softmax flattens the gradient; return logits"
    return limited("logits, not probabilities", share, PROBABILITY_SHARE, share <= PROBABILITY_SHARE, found, fault)


def declared_attacks(scene: Scene) -> Check:
    """A random model has met the attacks that it declares against itself: its own gradient hides what these find.

    It looks at the suite alone, so it accuses nobody by chance.
    """
    name, left_out = "declared attacks were run", scene.probes.left_out
    if left_out is None:
        return not_run(name, 0, "no random model that declares attacks against itself")
    more = f" and {len(left_out) - 2} more" if len(left_out) > 3 else ""
    found = f"the suite leaves out {', '.join(left_out[:2] if more else left_out) or 'none of them'}{more}"
    fault = "a random model's own gradient may hide what they find; the suite adaptive runs them"
    return limited(name, len(left_out), 0, not left_out, found, fault)


def raw_pixels(scene: Scene) -> Check:
    """The model does not wait for normalised input: no known normalisation raises clean accuracy by over 5 points.

    A rise counts if it is also beyond chance (paired exact test at 1 %, Bonferroni over the normalisations).
    """
    name, batch, channels = "raw pixels expected", scene.sample.batch, scene.sample.batch.images.shape[1]
    known = {key: value for key, value in NORMALISATIONS.items() if len(value[0]) == channels}
    if not known:
        return not_run(name, NORMALISATION_GAIN, f"no known normalisation for {channels} channels")
    raw = predicted(scene.logits) == batch.labels
    best, gain, p = "", -1.0, 1.0
    for key, (mean, deviation) in known.items():
        centre, width = (batch.images.new_tensor(value).view(1, -1, 1, 1) for value in (mean, deviation))
        try:
            right = predicted(scene.referee.logits((batch.images - centre) / width)) == batch.labels
        except Exception as error:  # the model's own check of its input, of whatever kind
            cause = f"the model refuses pixels outside [0, 1] ({type(error).__name__})"
            return not_run(name, NORMALISATION_GAIN, cause)
        rise = float(right.double().mean() - raw.double().mean())
        if rise > gain:
            best, gain, p = key, rise, min(1.0, excess(raw, right)[0] * len(known))
    found = (
        f"clean accuracy changes by {100 * gain:+.0f} points under the {best} normalisation, "
        f"at most {100 * NORMALISATION_GAIN:+.0f} may (p = {p:.2g})"
    )
    passed = gain <= NORMALISATION_GAIN or p >= SIGNIFICANCE
    return limited(name, gain, NORMALISATION_GAIN, passed, found, "that normalisation belongs into the model")
