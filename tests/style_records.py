"""Made records of content/style analyses that look like real ones."""

from __future__ import annotations

from deconfound.records import (
    Accuracy,
    Attacker,
    Correlations,
    Machine,
    Neighbour,
    Reader,
    StyleBasis,
    StyleQuery,
    StyleRecord,
    Threat,
)


def reader(natural=0.4, adversarial=0.3):
    ends = [(max(0.0, share - 0.05), min(1.0, share + 0.05)) for share in (natural, adversarial)]
    natural, adversarial = (Accuracy(share=s, interval=e) for s, e in zip((natural, adversarial), ends, strict=True))
    return Reader(natural=natural, adversarial=adversarial, entropy=1.5, shift=1.75)


def basis(name, trained, size):
    found = Correlations(largest=size, mean=size / 3, canonical_largest=min(1, 2 * size), canonical_mean_square=size)
    here = Correlations(largest=0.3, mean=0.08, canonical_largest=0.9, canonical_mean_square=0.35)
    chance = Correlations(largest=0.34, mean=0.05, canonical_largest=0.8, canonical_mean_square=0.36)
    return StyleBasis(
        name=name, trained=trained, removed=10, leakage=size, stored=found,
        held_out=here, chance=chance, recovered=size, same_class=0.61, predictor=reader(),
    )  # fmt: skip


def make_style(png, queries=3, **changes):
    """A record of a content/style analysis whose pictures are all the same."""
    asked = tuple(
        StyleQuery(
            index=q, label=q % 10, png=png,
            neighbours=tuple(
                Neighbour(index=50 + i, label=(q + i // 3) % 10, distance=0.1 * i, png=png) for i in range(5)
            ),
        )
        for q in range(queries)
    )  # fmt: skip
    fields = {
        "model": "small", "model_digest": "m", "defence": "causaladv-m", "data": "digits[test]", "data_digest": "d",
        "class_names": tuple("0123456789"), "threat": Threat(norm="linf", eps=0.1), "n": 360, "seed": 7,
        "attack": Attacker(name="pgd-20", settings={"steps": 20, "keep": "last"}), "seconds": 3.0,
        "machine": Machine(device="cpu", processor="x", threads=1, versions={"torch": "2"}), "dimension": 100,
        "content": reader(0.9, 0.7), "bases": (basis("exact", True, 2e-7), basis("deflation", False, 0.42)),
        "queries": asked, "notes": ("a note",),
    }  # fmt: skip
    return StyleRecord(**(fields | changes))
