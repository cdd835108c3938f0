"""Made records of studies."""

from __future__ import annotations

from deconfound.records import (
    Accuracy,
    ColumnResult,
    Machine,
    PairedDifference,
    PairedTest,
    StudyDifference,
    StudyMean,
    StudyRecord,
    StudyResult,
    StudyRun,
    StudyTest,
    Threat,
    Verdict,
)

MACHINE = Machine(device="cpu", processor="x", threads=1, versions={})
DOUBT = Verdict(reliable=False, reasons=("the loss is | masked",))


def result(robust, n=500, **changes):
    fields = {
        "judgement": f"adaptive-{n}", "question": "adaptive", "suite": "adaptive", "budget": "normal",
        "threat": Threat(norm="linf", eps=0.3), "n": n, "seed": 0, "clean_accuracy": 0.98,
        "clean_interval": (0.97, 0.99), "robust_accuracy": robust, "robust_interval": (robust - 0.02, robust + 0.02),
        "verdict": Verdict(reliable=True), "surrogate": "itself", "seconds": 2.0,
        "digests": {"model": "m", "data": "d"}, "machine": MACHINE,
    }  # fmt: skip
    return StudyResult(**(fields | changes))


def run(name, seed, *results, control=None):
    return StudyRun(
        name=name, recipe=name, seed=seed, folder=f"{name}-{seed}", control=control, data="toy[train]",
        data_digest="t", settings={}, recipe_digest="r", epochs_run=1, selected_epoch=None, parameters=1, seconds=1.0,
        images_per_second=1.0, machine=MACHINE, results=results,
    )  # fmt: skip


def against(seed, difference, same=True):
    found = PairedDifference(
        only_first=9, only_second=1, difference=difference, interval=(difference - 0.03, difference + 0.03),
        p_value=0.021, adjusted_p_value=0.043,
    )  # fmt: skip
    pair = PairedTest(first=f"new-{seed}", second=f"old-{seed}", n=500, robust=found, clean=found)
    return StudyTest(method="new", control="old", question="adaptive", seed=seed, same_attacks=same, test=pair)


def mean(name, robust):
    return StudyMean(
        name=name, question="adaptive", n=500, seeds=(0, 1), clean=(0.98, 0.98), robust=robust, clean_mean=0.98,
        robust_mean=sum(robust) / 2, clean_deviation=0.0, robust_deviation=0.0141,
    )  # fmt: skip


def toy_study():
    """Two methods with two seeds; the old one's second seed cannot be relied on."""
    own = Accuracy(share=0.92, interval=(0.90, 0.94))
    found = ColumnResult(name="l2", group="norm", threat="l2 2", n=500, accuracy=0.42, interval=(0.38, 0.46))
    union = found.model_copy(
        update={"name": "all of them", "group": "union", "accuracy": 0.4, "interval": (0.36, 0.44)}
    )
    return StudyRecord(
        study="toy",
        definition={},
        runs=(
            run("old", 0, result(0.88)),
            run("old", 1, result(0.86, verdict=DOUBT)),
            run("new", 0, result(0.90, undeclared=own), result(0.5, judgement="unseen-500", question="unseen",
                suite="unseen", columns=(found, union)), control="old"),
            run("new", 1, result(0.88), control="old"),
        ),
        means=(mean("old", (0.88, 0.86)), mean("new", (0.90, 0.88))),
        tests=(against(0, 0.02), against(1, 0.04, same=False)),
        differences=(
            StudyDifference(method="new", control="old", question="adaptive", seeds=(0, 1), differences=(0.02, 0.04),
                            mean=0.03, deviation=0.0141),
        ),
        missing=("new-2: training left",),
        machine=MACHINE,
    )  # fmt: skip


def column(name, accuracy, group="alone"):
    interval = (accuracy - 0.05, accuracy + 0.05)
    return ColumnResult(name=name, group=group, threat="linf 0.3", n=100, accuracy=accuracy, interval=interval)
