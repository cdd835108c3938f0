"""Made records of evaluations, one letter an example."""

from __future__ import annotations

from deconfound.functional.statistics import wilson_interval
from deconfound.records import AttackResult, EvaluationRecord, Machine, Outcome, Threat, Verdict

MACHINE = Machine(device="cpu", processor="x", threads=1, versions={})
CLASSES = 3


def evaluation(states, index=None, reasons=(), **changes):
    """A record whose examples are r (robust), b (broken by an attack) or c (wrong when clean)."""
    index = range(len(states)) if index is None else index
    outcomes = tuple(
        Outcome(
            index=i,
            label=i % CLASSES,
            prediction=(i + (state == "c")) % CLASSES,
            broken_by={"r": None, "b": "pgd", "c": "clean"}[state],
            distance=None,
        )
        for i, state in zip(index, states, strict=True)
    )
    n, right, stands = len(states), len(states) - states.count("c"), states.count("r")
    attack = AttackResult(
        name="pgd", settings={"steps": 20}, attacked=right, survivors=stands, seconds=1.0, forwards=1, backwards=1
    )
    fields = {
        "model": "small", "model_digest": "m", "defence": "pgd-at", "data": "digits[test]", "data_digest": "d" * 64,
        "class_names": ("a", "b", "c"), "threat": Threat(norm="linf", eps=0.1), "suite": "quick", "n": n, "seed": 0,
        "clean_accuracy": right / n, "clean_interval": wilson_interval(right, n), "robust_accuracy": stands / n,
        "robust_interval": wilson_interval(stands, n), "verdict": Verdict(reliable=not reasons, reasons=reasons),
        "attacks": (attack,), "outcomes": outcomes, "forwards": 1, "backwards": 1, "seconds": 1.0, "cpu_seconds": 1.0,
        "machine": MACHINE,
    }  # fmt: skip
    return EvaluationRecord(**(fields | changes))
