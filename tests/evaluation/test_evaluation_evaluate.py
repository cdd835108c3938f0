"""Accuracy against a closed form, exact counts, contracts, input errors."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.errors import InputError
from deconfound.evaluation.judging import evaluate
from deconfound.functional.statistics import wilson_interval
from deconfound.records import EvaluationRecord
from linear_case import ORIGIN, THREAT, Ascent, examples, run, untimed


class Source:
    name, class_names, shape = "source", ("a", "b"), (1, 6, 6)

    def __init__(self, images, labels):
        self.images, self.labels, self.largest = images, labels, 0

    def __len__(self):
        return len(self.images)

    def batches(self, plan, device="cpu"):
        for positions in plan:
            self.largest = max(self.largest, len(positions))
            yield Batch(self.images[positions].to(device), self.labels[positions].to(device), positions)

    def digest(self):
        return "d"


def test_robust_accuracy_of_a_linear_classifier_is_its_closed_form():
    model, images, labels, difference, lead = examples()
    record = run(model, images, labels)
    reach = float(THREAT.eps * difference.abs().sum())
    stands = lead > reach
    stands[:10] = False
    assert 0 < int(stands.sum()) < 140
    assert record.clean_accuracy == 140 / 150
    assert record.robust_accuracy == int(stands.sum()) / 150
    assert record.clean_interval == wilson_interval(140, 150)
    assert record.robust_interval == wilson_interval(int(stands.sum()), 150)
    for place, outcome in enumerate(record.outcomes):
        assert outcome.index == place
        assert outcome.label == labels[place]
        assert outcome.prediction == (1 - outcome.label if place < 10 else outcome.label)
        assert outcome.broken_by == ("clean" if place < 10 else None if stands[place] else "ascent")
        if outcome.broken_by == "ascent":
            assert outcome.distance == pytest.approx(0.05, abs=1e-6)
            assert outcome.adversarial == 1 - outcome.label
    assert (record.n, record.seed, record.suite, record.defence) == (150, 0, "test", "none")
    assert record.notes[0] == "a note"
    assert EvaluationRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_each_attack_runs_on_what_the_earlier_left_and_counts_are_exact(batch_size):
    model, images, labels, _, _ = examples()
    attacks = [Ascent(THREAT, "weak", 0.3), Ascent(THREAT, "full")]
    record = run(model, images, labels, attacks, batch_size=batch_size)
    weak, full = record.attacks
    assert weak.attacked == 140
    assert full.attacked == weak.survivors < 140
    assert full.survivors == sum(outcome.broken_by is None for outcome in record.outcomes)
    for result in record.attacks:
        assert (result.forwards, result.backwards) == (2 * result.attacked, result.attacked)
    judged_anew = 140 - full.survivors
    assert record.forwards == 150 + judged_anew + sum(2 * result.attacked for result in record.attacks)
    assert record.backwards == sum(result.attacked for result in record.attacks)
    assert untimed(record) == untimed(run(model, images, labels, attacks, batch_size=batch_size))
    assert {outcome.broken_by for outcome in record.outcomes} == {"clean", "weak", "full", None}


def test_a_double_precision_model_is_judged_in_double_precision_on_a_source():
    model, images, labels, _, _ = examples()
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model.double()

        def forward(self, x):
            seen.append(x.dtype)
            return self.inner(x)

    evaluate(Spy(), Source(images, labels), threat=THREAT, attacks=[Ascent(THREAT)], suite="s", provenance=ORIGIN)
    assert set(seen) == {torch.float64}


def test_source_and_tensors_give_the_same_record_and_a_source_is_read_in_batches():
    model, images, labels, _, _ = examples()
    chosen = torch.arange(149, 20, -3)
    source = Source(images, labels)
    from_source = run(model, source, index=chosen, batch_size=16)
    from_tensors = run(model, images[chosen], labels[chosen], index=chosen, batch_size=16)
    assert untimed(from_source) == untimed(from_tensors)
    assert [outcome.index for outcome in from_source.outcomes] == chosen.tolist()
    assert source.largest == 16
    assert run(model, Source(images, labels)).n == 150


def test_random_numbers_are_keyed_by_seed_index_and_attack():
    model, images, labels, _, _ = examples()
    seen = []

    @dataclass(frozen=True)
    class Listening(Ascent):
        name: str = "listening"

        def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
            seen.append(streams.uniform())
            return images

    index = torch.arange(150) + 1000
    run(model, images, labels, [Listening(THREAT)], index=index, seed=5)
    expected = Streams(5, index[10:]).fold("listening").uniform()
    assert torch.equal(torch.cat(seen), expected)


def test_a_model_that_says_nothing_is_wrong_and_its_prediction_is_minus_one():
    _, images, labels, _, _ = examples(20)
    record = run(lambda x: torch.full((len(x), 2), torch.nan), images, labels)
    assert record.clean_accuracy == 0
    assert {outcome.prediction for outcome in record.outcomes} == {-1}


def test_a_judge_of_its_own_decides_and_is_handed_to_the_attacks():
    model, images, labels, _, _ = examples()
    handed = []

    def judge(images, labels, streams):
        return images[:, 0, 0, 0] > 0.85

    @dataclass(frozen=True)
    class Brighter(Ascent):
        name: str = "brighter"

        def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
            handed.append(judge)
            return (images + 0.049).clamp(0, 1)

    record = run(model, images, labels, [Brighter(THREAT)], judge=judge)
    assert handed == [judge]
    pixel = images[:, 0, 0, 0]
    expected = ["clean" if p > 0.85 else "brighter" if p + 0.049 > 0.85 else None for p in pixel.tolist()]
    assert [outcome.broken_by for outcome in record.outcomes] == expected
    assert {"clean", "brighter", None} == set(expected)
    with pytest.raises(InputError, match="judge"):
        run(model, images, labels, judge=model)


def test_an_attack_that_leaves_its_threat_model_is_named():
    model, images, labels, _, _ = examples()

    @dataclass(frozen=True)
    class Cheating(Ascent):
        name: str = "cheating"
        how: str = "far"

        def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
            far = images.clone()
            far[3] += 0.051
            return {"far": far, "box": images - 2, "shape": images[:, :, :3], "type": images.double(), "none": None}[
                self.how
            ]

    for how in ("far", "box", "shape", "type"):
        with pytest.raises(InputError, match="attack 'cheating'"):
            run(model, images, labels, [Cheating(THREAT, how=how)])


def test_an_attack_that_only_claims_success_breaks_nothing():
    model, images, labels, _, _ = examples()

    @dataclass(frozen=True)
    class Boasting(Ascent):
        name: str = "boasting"

        def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
            return self.threat.project(images + 1e-6, images)

    record = run(model, images, labels, [Boasting(THREAT)])
    assert record.robust_accuracy == record.clean_accuracy


def test_model_and_random_state_are_left_as_found():
    model, images, labels, _, _ = examples()
    model.train()
    model[0].eval()
    state = torch.random.get_rng_state()
    run(model, images, labels)
    assert [module.training for module in model.modules()] == [True, False, True]
    assert not model._forward_hooks
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.inference_mode():
        inside = run(model, images.clone(), labels.clone())
    assert untimed(inside) == untimed(run(model, images, labels))


def test_autocast_of_the_caller_does_not_reach_the_judge():
    model, images, labels, _, _ = examples()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(model, images, labels)
    assert untimed(inside) == untimed(run(model, images, labels))


def test_bad_input_is_one_clear_line():
    model, images, labels, _, _ = examples(20)
    colour = images.repeat(1, 3, 1, 1)
    conv = nn.Sequential(nn.Conv2d(1, 2, 6), nn.Flatten())
    source = Source(images, labels)
    wrong = {
        "divide by 255": (model, images * 255, labels),
        "finite": (model, images / 0, labels),
        "labels within 0..1": (model, images, labels + 1),
        "one label for each image": (model, images, labels[:3]),
        "int64": (model, images, labels.float()),
        "images that the model accepts": (conv, colour, labels),
        "logits of shape": (nn.Identity(), images, labels),
        "None: a source": (model, source, labels),
    }
    for message, call in wrong.items():
        with pytest.raises(InputError, match=message) as error:
            run(*call)
        assert "\n" not in str(error.value)
    for message, settings in {
        "an attack for linf": {"attacks": [Ascent(ThreatModel("linf", 0.1))]},
        "different names": {"attacks": [Ascent(THREAT), Ascent(THREAT)]},
        "batch_size": {"batch_size": 0},
        "each example once": {"index": torch.zeros(20, dtype=torch.int64)},
        "one place for each": {"index": torch.arange(5)},
    }.items():
        with pytest.raises(InputError, match=message):
            run(model, images, labels, **settings)
    with pytest.raises(InputError, match="divide by 255"):
        run(model, Source(images * 255, labels))
    with pytest.raises(InputError, match=r"labels within 0\.\.1"):
        run(model, Source(images, labels + 1))
    with pytest.raises(InputError, match="below 20"):
        run(model, source, index=torch.tensor([20]))
    with pytest.raises(InputError, match="at least one attack"):
        evaluate(model, images, labels, threat=THREAT, attacks=[], suite="none", provenance=ORIGIN)
