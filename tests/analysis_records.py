"""Made records of analyses that look like real ones."""

from __future__ import annotations

from deconfound.records import (
    Accuracy,
    AttackedKinds,
    Attacker,
    Centre,
    CheckpointsRecord,
    Correlations,
    Effect,
    EffectsRecord,
    Estimate,
    ExposureRecord,
    FeatureKind,
    FeaturePicture,
    FirstStage,
    InstrumentsRecord,
    Intervention,
    InversionDistance,
    KeptEpoch,
    Looks,
    Machine,
    Mean,
    PicturedImage,
    PicturesRecord,
    RankCorrelation,
    ReliancePoint,
    RelianceRecord,
    Saliency,
    Share,
    Statistic,
    Threat,
    View,
)

ORIGIN = {
    "model": "small", "model_digest": "m", "defence": "pgd-at", "data": "digits+tint:rho=0.9[test]",
    "data_digest": "d", "class_names": tuple("0123456789"), "n": 360, "seed": 7, "seconds": 3.0,
    "machine": Machine(device="cpu", processor="x", threads=1, versions={"torch": "2"}), "notes": ("a note",),
}  # fmt: skip


def ends(share, half=0.05):
    return max(0.0, share - half), min(1.0, share + half)


def share(value):
    return Share(share=value, interval=ends(value))


def intervention(variable="confounder", value="other", accuracy=0.5, changed=0.4, **known):
    return Intervention(
        variable=variable, value=value, accuracy=Accuracy(share=accuracy, interval=ends(accuracy)),
        gap=0.9 - accuracy, gap_interval=(0.8 - accuracy, 1.0 - accuracy), changed=share(changed), **known,
    )  # fmt: skip


def reliance_point(rho=0.9, own=True):
    done = (
        intervention(value="random", accuracy=0.6, changed=0.3),
        intervention(),
        intervention("shape", "other", 0.7),
    )
    observed = Accuracy(share=0.9, interval=ends(0.9))
    return ReliancePoint(rho=rho, own=own, observed=observed, interventions=done)


def make_reliance(rhos=(0.9,), **changes):
    points = tuple(reliance_point(rho, own=rho == 0.9) for rho in rhos)
    return RelianceRecord(**(ORIGIN | {"points": points} | changes))


def estimate(value):
    return Estimate(value=value, interval=(value - 0.2, value + 0.2))


def make_instruments(f=(55.4, 4.2), p_values=(0.01, 0.5, 0.6), robust=None, **changes):
    """``robust``: p of Wooldridge's score, which older records do not have."""
    stages = tuple(
        FirstStage(name=f"T{i}", f=value, p_value=0.001, partial_r2=0.2, weak=not value >= 10)
        for i, value in enumerate(f, 1)
    )
    effects = tuple(
        Effect(name=s.name, ols=estimate(1.0), tsls=estimate(0.5), gmm=estimate(0.6)) for s in stages
    )  # fmt: skip
    names = ("wu_hausman", "sargan", "hansen")
    found = {
        name: Statistic(statistic=1.5, p_value=p, distribution="chi2(3)")
        for name, p in zip(names, p_values, strict=True)
    }
    if robust is not None:
        found["wooldridge"] = Statistic(statistic=2.5, p_value=robust, distribution="chi2(2)")
        found |= {"components_r2": 0.31, "features_r2": 0.97}
    fields = ORIGIN | found | {
        "threat": Threat(norm="linf", eps=0.1), "attack": Attacker(name="pgd-20", settings={"steps": 20}),
        "dimension": 100, "treatment_share": 0.8, "instrument_share": 0.9, "instruments": 4, "first_stages": stages,
        "joint_f": min(f), "weak": not min(f) >= 10, "effects": effects,
    }  # fmt: skip
    return InstrumentsRecord(**(fields | changes))


def accuracy(value):
    return Accuracy(share=value, interval=ends(value))


def make_exposure(png, looks=2, centres=9, **changes):
    views = tuple(View(png=png, exposure=0.5, prediction=i % 3) for i in range(centres))
    shown = tuple(Looks(index=i, label=1, png=png, prediction=1 + i % 2, views=views) for i in range(looks))
    fields = ORIGIN | {
        "policy": "grid", "consistency": 100.0, "together": accuracy(0.8), "looks": shown,
        "centres": tuple(Centre(exposure=0.5, accuracy=accuracy(0.6)) for _ in range(centres)),
        "spread": Mean(value=0.12, interval=(0.11, 0.13)), "raw_spread": Mean(value=0.34, interval=(0.33, 0.35)),
    }  # fmt: skip
    return ExposureRecord(**(fields | changes))


def attacked(name, adversarial):
    """The four kinds under another attack."""
    kinds = make_effects().kinds
    first = kinds[0].model_copy(update={"accuracy": accuracy(adversarial)})
    return AttackedKinds(
        attack=Attacker(name=name, settings={"steps": 20}), moment=0.5, bound=0.6,
        distance=Mean(value=7.0, interval=(6.9, 7.1)), kinds=(first, *kinds[1:]),
    )  # fmt: skip


def make_effects(**changes):
    names = ("adversarial", "counterfactual", "counterfactual_causal", "adversarial_causal")
    around = (0.02, 0.1, 0.7, 0.1, 0.02)
    near, far = Mean(value=0.6, interval=(0.3, 0.9)), Mean(value=513.3, interval=(389.9, 636.7))
    fields = ORIGIN | {
        "threat": Threat(norm="linf", eps=0.1), "attack": Attacker(name="pgd-20", settings={"steps": 20}),
        "game": {"name": "amr-gmm", "penalty": 1.0}, "moment": 0.051, "bound": 0.103,
        "distance": Mean(value=7.26, interval=(7.21, 7.32)), "offsets": (-2, -1, 0, 1, 2),
        "kinds": tuple(
            FeatureKind(name=name, accuracy=accuracy(0.9), cross_entropy=0.5, around=around) for name in names
        ),
        "inversion": {"eps": 0.05},
        "distances": tuple(
            InversionDistance(network=name, inversion=near, clean=near, adversarial=far) for name in ("base", "defence")
        ),
    }  # fmt: skip
    return EffectsRecord(**(fields | changes))


def make_pictures(png, images=2, kinds=("natural", "adversarial"), **changes):
    saliency = Saliency(png=png, difference=3.5, error=0.01)
    shown = tuple(
        PicturedImage(
            index=i, label=1, png=png, prediction=1, adversarial_png=png, adversarial_prediction=2,
            features=tuple(
                FeaturePicture(kind=kind, png=png, cosine=0.99, distance=0.1, prediction=1 + k, decoded=1 + k)
                for k, kind in enumerate(kinds)
            ),
            saliency=saliency, adversarial_saliency=saliency,
        )
        for i in range(images)
    )  # fmt: skip
    fields = ORIGIN | {
        "threat": Threat(norm="linf", eps=0.1), "attack": Attacker(name="pgd-20", settings={"steps": 20}),
        "n": images, "dimension": 100, "optimisation": {"steps": 256}, "integration": {"steps": 64}, "images": shown,
    }  # fmt: skip
    return PicturesRecord(**(fields | changes))


def make_checkpoints(**changes):
    points = tuple(
        KeptEpoch(
            epoch=epoch, digest="m", natural=accuracy(0.9), adversarial=accuracy(robust), leakage=1e-7,
            held_out=Correlations(
                largest=0.5 - epoch / 20, mean=0.2 - epoch / 40, canonical_largest=0.9, canonical_mean_square=0.4
            ),
            recovered=0.3,
            chance=Correlations(largest=0.41, mean=0.11, canonical_largest=0.8, canonical_mean_square=0.42),
        )
        for epoch, robust in ((1, 0.3), (2, 0.4), (4, 0.6))
    )  # fmt: skip
    fields = ORIGIN | {
        "threat": Threat(norm="linf", eps=0.1), "attack": Attacker(name="pgd-20", settings={"steps": 20}),
        "basis": "exact", "points": points,
        "correlations": (
            RankCorrelation(measure="largest correlation", rho=-1.0, p_value=1 / 3, exact=True),
            RankCorrelation(measure="mean correlation", rho=float("nan"), p_value=float("nan"), exact=True),
        ),
    }  # fmt: skip
    return CheckpointsRecord(**(fields | changes))
