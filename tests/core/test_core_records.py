"""Records: JSON there and back, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from pydantic import ValidationError

from deconfound.errors import InputError
from deconfound.records import (
    SCHEMA_VERSION,
    AttackResult,
    Check,
    CurvePoint,
    EvaluationRecord,
    Machine,
    Outcome,
    Picture,
    Threat,
    TrainingRecord,
    Verdict,
)

MACHINE = Machine(device="cpu", processor="x", threads=2, versions={"torch": "2.13.0"})
NAN, INF = float("nan"), float("inf")


def evaluation(**changes):
    picture = Picture(
        index=3, label=1, prediction=1, adversarial=0, attack="pgd", distance=0.1,
        clean_png="a", perturbation_png="b", adversarial_png="c",
    )  # fmt: skip
    base = {
        "model": "small",
        "model_digest": "m",
        "data": "digits",
        "data_digest": "d",
        "class_names": ("null", "Zwölf", "三"),
        "threat": Threat(norm="linf", eps=8 / 255),
        "suite": "standard",
        "n": 3,
        "seed": 0,
        "clean_accuracy": 2 / 3,
        "clean_interval": (0.1, 0.9),
        "robust_accuracy": 1 / 3,
        "robust_interval": (0.05, 0.8),
        "verdict": Verdict(
            reliable=False,
            reasons=("loss rises",),
            checks=(
                Check(name="a", measured=0.5, threshold="0.1", passed=True),
                Check(name="b", measured=None, threshold=None, passed=None, note="not run"),
            ),
        ),
        "attacks": (
            AttackResult(
                name="pgd", settings={"steps": 20, "deep": {"x": [1, None, "y"]}}, attacked=2, survivors=1,
                seconds=0.5, forwards=40, backwards=40,
            ),
        ),
        "outcomes": (
            Outcome(index=0, label=1, prediction=1, broken_by=None, distance=None),
            Outcome(index=7, label=1, prediction=0, broken_by="clean", distance=0.0, adversarial=0),
        ),
        "curve": (CurvePoint(eps=0.0, accuracy=1.0, interval=(0.9, 1.0), n=3, attack="pgd"),),
        "gallery": (picture,),
        "forwards": 40,
        "backwards": 40,
        "seconds": 1.25,
        "cpu_seconds": 1.0,
        "machine": MACHINE,
    }  # fmt: skip
    return EvaluationRecord(**(base | changes))


def training(**changes):
    base = {
        "recipe": {"recipe": "pgd-at", "eps": 0.1},
        "recipe_digest": "r",
        "data": "digits",
        "data_digest": "d",
        "class_names": ("0", "1"),
        "seed": 0,
        "epochs_run": 2,
        "selected_epoch": None,
        "selection": "last",
        "parameters": 10,
        "seconds": 1.0,
        "images_per_second": 5.0,
        "history": ({"epoch": 0.0, "loss": 2.0}, {"epoch": 1.0, "loss": 1.0}),
        "machine": MACHINE,
    }
    return TrainingRecord(**(base | changes))


@pytest.mark.parametrize("record", [evaluation(), training()], ids=["evaluation", "training"])
def test_records_survive_json_and_files(record, tmp_path):
    text = record.to_json()
    assert text.endswith("}\n")
    assert type(record).from_json(text) == record
    assert type(record).from_json(text.encode()) == record
    assert json.loads(text)["schema_version"] == SCHEMA_VERSION
    path = tmp_path / "record.json"
    path.write_text(text, encoding="utf-8")
    assert type(record).read(path) == record
    assert type(record).read(str(path)).to_json() == text


def test_infinities_and_nan_survive():
    record = evaluation(
        seconds=INF,
        cpu_seconds=-INF,
        verdict=Verdict(reliable=True, checks=(Check(name="a", measured=NAN, threshold=INF, passed=False),)),
        training={"best": -INF, "list": [NAN, 1.0]},
    )
    again = EvaluationRecord.from_json(record.to_json())
    assert (again.seconds, again.cpu_seconds) == (INF, -INF)
    assert math.isnan(again.verdict.checks[0].measured)
    assert again.verdict.checks[0].threshold == INF
    assert again.training["best"] == -INF
    assert math.isnan(again.training["list"][0])


def test_records_cannot_be_changed():
    record = evaluation()
    with pytest.raises(ValidationError):
        record.n = 4
    with pytest.raises(ValidationError):
        record.threat.eps = 0.5


def changed(record, **changes):
    return json.dumps(json.loads(record.to_json()) | changes)


def without(record, key):
    return json.dumps({name: value for name, value in json.loads(record.to_json()).items() if name != key})


GOOD = evaluation()


REQUIRED = "expected a value; this field is required"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", r"f\.json: got 'unreadable JSON \(.*\)'; expected a JSON evaluation record"),
        ("{", r"f\.json: got 'unreadable JSON \(.*\)'; expected a JSON evaluation record"),
        (b"\xff\xfe\x00", r"f\.json: got .unreadable JSON \(.*\).; expected a JSON evaluation record"),
        ("[1]", r"f\.json: got 'list'; expected a record of kind 'evaluation'"),
        ("3", r"f\.json: got 'int'; expected a record of kind 'evaluation'"),
        ("{}", r"f\.json: got None; expected a record of kind 'evaluation'"),
        (training().to_json(), r"f\.json: got 'training'; expected a record of kind 'evaluation'"),
        (changed(GOOD, schema_version=2), r"f\.json: schema_version: got 2; expected at most 1; update deconfound"),
        (changed(GOOD, schema_version="1"), r"f\.json: schema_version: got '1'; expected .*"),
        (without(GOOD, "schema_version"), r"f\.json: schema_version: got None; expected .*"),
        (changed(GOOD, extra=5), r"f\.json: extra: got 5; expected Extra inputs are not permitted"),
        (without(GOOD, "n"), rf"f\.json: n: got None; {REQUIRED}"),
        (changed(GOOD, n="many"), r"f\.json: n: got 'many'; expected Input should be a valid integer.*"),
        (
            changed(GOOD, threat={"norm": "l2"}),
            rf"f\.json: threat\.eps: got None; {REQUIRED}",
        ),
        (changed(GOOD, threat={"norm": "l2", "eps": 1, "x": 2}), r"f\.json: threat\.x: got 2; expected .*"),
        (
            changed(GOOD, clean_interval=[0.1]),
            rf"f\.json: clean_interval\.1: got None; {REQUIRED}",
        ),
    ],
)
def test_what_is_not_a_record_is_refused_in_one_line(text, line):
    with pytest.raises(InputError, match=rf"^{line}$") as caught:
        EvaluationRecord.from_json(text, "f.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"^record: got '.*nothing\.json'; expected a readable file \(No such file"):
        TrainingRecord.read(tmp_path / "nothing.json")


def test_records_and_errors_work_without_torch():
    code = "import sys, deconfound.records, deconfound.errors; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
