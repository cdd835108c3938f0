"""A model card's text: no accuracy without what it needs, and nothing that breaks a table."""

from __future__ import annotations

import re

import pytest

from deconfound.records import CardEvaluation, ExportedFile, Machine, ModelCard, Spread, Threat, TrainingRecord, Verdict
from deconfound.reporting import card_text

MACHINE = Machine(device="cpu", processor="any", threads=1, versions={"torch": "2.13.0"})
RECIPE = {
    "recipe": "pgd-at",
    "data": "",
    "family": "digits",
    "model": "mynets:build",
    "model_options": {"width": 4},
    "objective": {"name": "pgd-at"},
    "sampler": None,
    "normalisation": {"mean": [0.5], "std": [0.25]},
    "image_size": 32,
    "epochs": 3,
    "norm": "linf",
    "eps": 8 / 255,
    "steps": 10,
    "step_size": None,
}


def evaluation(**changes):
    made = {
        "file": "evaluate-fast.json",
        "data": "digits[test]",
        "data_digest": "d" * 64,
        "threat": Threat(norm="linf", eps=8 / 255),
        "suite": "fast",
        "budget": "demo",
        "n": 50,
        "seed": 3,
        "precision": "32-true",
        "attacks": ("apgd-ce",),
        "clean_accuracy": 0.9,
        "clean_interval": (0.79, 0.96),
        "robust_accuracy": 0.4,
        "robust_interval": (0.28, 0.54),
        "verdict": Verdict(reliable=True),
    }
    return CardEvaluation(**made | changes)


def card(**changes):
    training = TrainingRecord(
        recipe=RECIPE,
        recipe_digest="r" * 64,
        data="mine[train]",
        data_digest="t" * 64,
        class_names=("a|b", "<c>"),
        seed=7,
        epochs_run=2,
        selected_epoch=1,
        selection="best",
        parameters=1234,
        seconds=1.0,
        images_per_second=1.0,
        machine=MACHINE,
    )
    made = {
        "name": "my_run",
        "defence": "pgd-at",
        "about": "a line.",
        "adversarial": True,
        "random": False,
        "shape": (1, 16, 16),
        "model_digest": "m" * 64,
        "training": training,
        "files": (ExportedFile(name="model.safetensors", format="safetensors", sha256="0", size=9, computes="it"),),
        "machine": MACHINE,
    }
    return ModelCard(**made | changes)


def test_the_record_comes_back():
    made = card(evaluations=(evaluation(),))
    assert ModelCard.from_json(made.to_json()) == made


def test_a_card_without_evaluations_says_so_and_has_no_figure():
    text = card_text(card())
    assert "**Nothing was evaluated.**" in text
    assert "%" not in text


@pytest.mark.parametrize(
    "part",
    ["linf 8/255", "fast (demo budget)", "| 50 | 3 |", "90.0 % [79.0, 96.0]", "40.0 % [28.0, 54.0]", "| reliable |"],
)
def test_every_accuracy_has_its_company(part):
    (row,) = (line for line in card_text(card(evaluations=(evaluation(),))).splitlines() if "40.0 %" in line)
    assert part in row


def test_a_random_judge_and_a_doubtful_verdict():
    shares = {"clean": (0.9,) * 5, "robust": (0.4,) * 5, "clean_deviation": 0.01, "robust_deviation": 0.02}
    spread = Spread(judge={"kind": "majority", "draws": 9, "abstain": None}, **shares)
    verdict = Verdict(reliable=False, reasons=("a | b", "<b>bold</b>"))
    text = card_text(card(random=True, evaluations=(evaluation(spread=spread, verdict=verdict, cautions=("few.",)),)))
    assert "40.0 % ± 2.0 [28.0, 54.0]" in text
    assert "majority of 9 draws, 5 seeds" in text
    assert r"UNRELIABLE: a \| b; \<b\>bold\</b\>" in text
    assert "    - few." in text
    assert "predictions | random" in text


def test_tables_hold_whatever_names_are_called():
    for line in card_text(card()).splitlines():
        if line.startswith("| ") and "---" not in line:
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            assert len(cells) in (2, 5), line
    assert r"a\|b, \<c\>" in card_text(card())
    assert r"# my\_run: pgd-at on mine\[train\]" in card_text(card())


def test_what_the_run_was():
    text = card_text(card())
    for part in (
        "trained against linf 8/255",
        "2 of 3, kept epoch 2 (selection: best)",
        "| seed | 7 |",
        "steps=10",
        "normalisation is inside",
        "resized to 32 pixels first",
        "The network is `mynets:build`, which must be importable",
        "--data path/to/data",
        "to be chosen by whoever publishes these weights",
    ):
        assert part in text
    assert "step\\_size" not in text.split("The resolved recipe")[0]
    assert "none: trained without adversarial examples; judged against linf 8/255" in card_text(card(adversarial=False))
