"""Made records that look like real ones: several models, some of them not to be believed."""

from __future__ import annotations

import base64
import math
import struct
import zlib

import pytest

from deconfound.records import (
    AttackResult,
    AuditResult,
    Check,
    ColumnResult,
    CurvePoint,
    EvaluationRecord,
    Machine,
    Outcome,
    Picture,
    Spread,
    Threat,
    TrainingRecord,
    Verdict,
)

MACHINE = Machine(
    device="cpu", processor="Generic x86-64", threads=2, versions={"deconfound": "0.1.0", "torch": "2.13.0"}
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.959964
    centre, scale = (share + z * z / (2 * n)) / (1 + z * z / n), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def png(width: int, height: int, channels: int, seed: int, contrast: float = 1.0) -> str:
    """A smooth blob as a base64 PNG, grey (1 channel) or RGB (3)."""
    rows = []
    for y in range(height):
        row = bytearray([0])
        for x in range(width):
            for c in range(channels):
                wave = math.sin((x + seed) * (1.1 + 0.3 * c) * 8 / width) * math.cos((y - seed) * 7 / height + c)
                row.append(max(0, min(255, round(127.5 + 127.5 * contrast * wave))))
        rows.append(bytes(row))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows), 9)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def picture(i: int, size: tuple[int, int, int] = (8, 8, 1), classes: int = 10) -> Picture:
    return Picture(
        index=1437 + i, label=i % classes, prediction=i % classes, adversarial=(i + 3) % classes, attack="apgd-ce-100",
        distance=0.1, clean_png=png(*size, i), perturbation_png=png(*size, i + 9, 0.6),
        adversarial_png=png(*size, i, 0.8),
    )  # fmt: skip


def curve(clean: float, robust: float, eps: float, n: int) -> tuple[CurvePoint, ...]:
    """Accuracy that falls like a power of the radius and passes near the robust accuracy at eps."""
    drop = max(clean - robust, 1e-3)
    shares = [max(0.0, clean - drop * k**1.5) for k in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)]
    return tuple(
        CurvePoint(eps=eps * k, accuracy=s, interval=wilson(s, n), n=n, attack="pgd-20")
        for k, s in zip((0.0, 0.25, 0.5, 0.75, 1.0, 1.5), shares, strict=True)
    )


def attack_results(n: int, clean: float, robust: float) -> tuple[AttackResult, ...]:
    start, end = round(clean * n), round(robust * n)
    drop, left, results = start - end, start, []
    for i, (name, part) in enumerate(
        [("apgd-ce-100", 0.9), ("apgd-t-100x9", 0.97), ("fab-t-100x9", 0.98), ("square-5000", 1)]
    ):
        after = start - round(drop * part)
        settings = {
            "steps": 5000 if name == "square-5000" else 100,
            "restarts": 1,
            "step_size": 0.025,
            "adaptive": i > 1,
        }
        results.append(
            AttackResult(
                name=name, settings=settings, attacked=left, survivors=after,
                seconds=2.5 + i, forwards=left * 100, backwards=0 if name == "square-5000" else left * 100,
            )
        )  # fmt: skip
        left = after
    return tuple(results)


def make_evaluation(
    model: str = "small",
    defence: str = "pgd-at",
    clean: float = 0.972,
    robust: float = 0.714,
    reasons: tuple[str, ...] = (),
    *,
    n: int = 360,
    eps: float = 0.1,
    norm: str = "linf",
    pictures: int = 4,
    size: tuple[int, int, int] = (8, 8, 1),
    names: tuple[str, ...] = DIGITS,
    **changes: object,
) -> EvaluationRecord:
    """A consistent evaluation record."""
    start, end = round(clean * n), round(robust * n)
    checks = (
        Check(name="black box is not stronger", measured=0.0, threshold=0.01, passed=True),
        Check(name="unbounded attack succeeds", measured=0.41 if reasons else 1.0, threshold=0.99, passed=not reasons),
        Check(name="gradient is not zero", measured=0.003, threshold=0.01, passed=True, note="share of zero gradients"),
        Check(name="random restarts agree", measured=None, threshold=0.01, passed=None, note="budget too small"),
    )
    outcomes = tuple(
        Outcome(index=1437 + i, label=i % len(names), prediction=i % len(names) if i < start else (i + 1) % len(names),
                broken_by=None if i < end else "apgd-ce-100" if i < start else "clean", distance=None)
        for i in range(n)
    )  # fmt: skip
    fields = {
        "model": model, "model_digest": "4fd1c2" + "0" * 58, "defence": defence, "data": "digits",
        "data_digest": "77aa01" + "0" * 58, "class_names": names, "threat": Threat(norm=norm, eps=eps),
        "suite": "standard", "n": n, "seed": 0, "clean_accuracy": start / n, "clean_interval": wilson(start / n, n),
        "robust_accuracy": end / n, "robust_interval": wilson(end / n, n),
        "verdict": Verdict(reliable=not reasons, reasons=reasons, checks=checks),
        "attacks": attack_results(n, clean, robust), "outcomes": outcomes, "curve": curve(clean, robust, eps, n),
        "gallery": tuple(picture(i, size, len(names)) for i in range(pictures)), "forwards": 1_234_567,
        "backwards": 654_321, "seconds": 83.4, "cpu_seconds": 150.2, "machine": MACHINE,
        "training": {"recipe": defence, "epochs": 40},
    }  # fmt: skip
    return EvaluationRecord(**{**fields, **changes})


def make_fast(sampled: int = 100, survivors: int = 842, fell: int = 0, more: int = 0, **changes: object):
    """A record of the suite fast: APGD on 1000 images, FAB-T and Square on a sample, or on all if some fell."""
    complete = fell > 0 or sampled == survivors
    left = survivors - fell - more
    tried = survivors if complete else sampled
    rows = (("apgd-ce-100", 930, survivors + 5), ("apgd-t-100x9", survivors + 5, survivors),
            ("fab-t-100x9", tried, left), ("square-5000", left if complete else sampled, left))  # fmt: skip
    attacks = tuple(
        AttackResult(name=name, settings={"steps": 100}, attacked=attacked, survivors=after, seconds=3.0,
                     forwards=100 * attacked, backwards=100 * attacked)
        for name, attacked, after in rows
    )  # fmt: skip
    audit = AuditResult(
        attacks=("fab-t-100x9", "square-5000"),
        survivors=survivors,
        sampled=sampled,
        fell=fell,
        complete=complete,
        bound=0.0 if complete else 0.0026,
    )
    fields = {"suite": "fast", "n": 1000, "clean": 0.93, "robust": left / 1000, "attacks": attacks, "audit": audit}
    return make_evaluation(**{**fields, **changes})


def column(name: str, group: str, threat: str, share: float, n: int = 360, **settings: object) -> ColumnResult:
    return ColumnResult(
        name=name, group=group, threat=threat, settings=settings, n=n, accuracy=share, interval=wilson(share, n)
    )


def unseen_columns(n: int = 360) -> tuple[ColumnResult, ...]:
    """Two norms, ten kinds of corruption at five severities, rotations, a patch, and all of them."""
    kinds = ("gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur", "motion_blur", "defocus_blur",
             "contrast", "brightness", "jpeg", "pixelate")  # fmt: skip
    corrupted = [
        column(f"{kind}-{s}", "beyond", "linf 1", 0.96 - 0.02 * i - 0.05 * s, n, corruption=kind, severity=s,
               bound=f"{kind} at severity {s} of 5")
        for i, kind in enumerate(kinds) for s in range(1, 6)
    ]  # fmt: skip
    return (
        column("apgd-l2", "norm", "l2 0.5", 0.41, n, kind="in turn"),
        column("apgd-l1", "norm", "l1 12", 0.17, n, kind="in turn"),
        *corrupted,
        column("spatial-grid", "beyond", "linf 1", 0.33, n, bound="rotation by at most 30 degrees"),
        column("patch-5%-100", "beyond", "linf 1", 0.21, n, bound="one window of at most 5 % of the area"),
        column("all of them", "union", "", 0.06, n),
    )


def make_unseen(**changes: object) -> EvaluationRecord:
    """A record of the suite unseen."""
    fields = {"suite": "unseen", "columns": unseen_columns(), "attacks": attack_results(360, 0.972, 0.714)[:2]}
    return make_evaluation(**{**fields, **changes})


def make_paper(**changes: object) -> EvaluationRecord:
    """A record of a paper's columns: no attack besides them."""
    columns = (
        column("fgsm", "column", "linf 0.1", 0.8), column("pgd-30", "column", "linf 0.1", 0.75),
        column("apgd-ce-100 + apgd-dlr-100", "column", "linf 0.1", 0.72), column("all of them", "union", "", 0.714),
    )  # fmt: skip
    return make_evaluation(**{"suite": "cafe-paper", "columns": columns, "attacks": (), **changes})


def make_random(**changes: object) -> EvaluationRecord:
    """A record of a random model: five seeds of a majority of nine draws."""
    spread = Spread(
        judge={"kind": "majority", "draws": 9, "abstain": None}, clean=(0.97, 0.972, 0.974, 0.972, 0.972),
        robust=(0.71, 0.714, 0.718, 0.712, 0.716), clean_deviation=0.0014, robust_deviation=0.0032,
    )  # fmt: skip
    return make_evaluation(**{"suite": "rand", "budget": "normal", "spread": spread, **changes})


def make_training(name: str = "pgd-at", epochs: int = 30, **changes: object) -> TrainingRecord:
    """A training record with a history that looks like one."""
    history = tuple(
        {"epoch": float(e), "loss": 0.4 + 1.9 * math.exp(-e / 7), "accuracy": 0.95 - 0.8 * math.exp(-e / 6),
         "validation_clean": 0.97 - 0.7 * math.exp(-e / 4), "validation_robust": 0.71 - 0.5 * math.exp(-e / 9),
         "lr": 0.1 if e < 15 else 0.01}
        for e in range(epochs)
    )  # fmt: skip
    fields = {
        "recipe": {"name": name, "epochs": epochs, "eps": 0.1, "model": {"name": "small", "width": 16}},
        "recipe_digest": "abcdef0123456789", "data": "digits", "data_digest": "77aa01" + "0" * 58,
        "class_names": DIGITS, "seed": 0, "epochs_run": epochs, "selected_epoch": 24, "selection": "validation_robust",
        "validation": {"validation_clean": 0.968, "validation_robust": 0.702}, "parameters": 61_706, "seconds": 412.0,
        "images_per_second": 2890.0, "history": history, "machine": MACHINE,
    }  # fmt: skip
    return TrainingRecord(**{**fields, **changes})


@pytest.fixture(scope="session")
def evaluations() -> list[EvaluationRecord]:
    """Five defences on digits; ``ciiv`` masks its gradients."""
    return [
        make_evaluation("small", "standard", 0.986, 0.0),
        make_evaluation("small", "pgd-at", 0.972, 0.714),
        make_evaluation("small", "causaladv-m", 0.961, 0.733),
        make_evaluation(
            "small", "ciiv", 0.953, 0.861,
            ("an unbounded attack leaves 59.0 % standing", "the black-box attack is stronger than the gradient attack"),
        ),
        make_evaluation("small", "cafe", 0.969, 0.747, notes=("adaptive attack of the defence is included",)),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def trainings() -> list[TrainingRecord]:
    """The trainings of two of them."""
    return [make_training("pgd-at"), make_training("causaladv-m", warnings=("stopped early: time limit",))]


@pytest.fixture(scope="session")
def make():
    """The makers themselves, for tests that need records of their own."""
    return {
        "evaluation": make_evaluation, "fast": make_fast, "unseen": make_unseen, "paper": make_paper,
        "random": make_random, "training": make_training, "picture": picture, "curve": curve, "column": column,
    }  # fmt: skip
