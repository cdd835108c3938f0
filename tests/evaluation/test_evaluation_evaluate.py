"""Accuracy against a closed form, exact counts, contracts, resumption, input errors."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from torch import nn

from deconfound.core.pictures import png
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.errors import InputError
from deconfound.evaluation import Probes, Provenance
from deconfound.evaluation.curve import curve_radii
from deconfound.evaluation.examples import spread
from deconfound.evaluation.judging import evaluate
from deconfound.functional.statistics import wilson_interval
from deconfound.records import EvaluationRecord, Machine

THREAT = ThreatModel("linf", 0.05)
ORIGIN = Provenance(
    model="linear",
    model_digest="m",
    data="noise",
    data_digest="d",
    class_names=("a", "b"),
    machine=Machine(device="cpu", processor="any", threads=1, versions={}),
    defence="none",
    training={"epochs": 3},
    notes=("a note",),
)


def linear():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        difference = model[1].weight[1] - model[1].weight[0]
        model[1].bias[:] = torch.stack([difference.sum() * 0.5, torch.zeros(())])  # undecided at grey
    return model, difference


def examples(count=150):
    """Images whose true label is the linear classifier's, but for the first ten."""
    images = 0.1 + 0.8 * torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    model, difference = linear()
    lead = ((images.flatten(1) - 0.5) * difference).sum(1).detach()
    labels = (lead > 0).to(torch.int64)
    labels[:10] = 1 - labels[:10]
    return model, images, labels, difference, lead.abs()


@dataclass(frozen=True)
class Ascent:
    """The exact worst case of the linear classifier in L-infinity, one gradient and two forwards an image."""

    threat: ThreatModel
    name: str = "ascent"
    share: float = 1.0

    def settings(self):
        return {"share": self.share, "eps": self.threat.eps}

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        moved = self.threat.project(images + self.share * self.threat.eps * self.threat.steepest(gradient), images)
        with torch.no_grad():
            wrong = model(moved).argmax(1) != labels
        return torch.where(wrong.view(-1, 1, 1, 1), moved, images)


class Memory:
    """A journal that forgets everything that JSON cannot hold."""

    def __init__(self):
        self.lines = []

    def append(self, entry):
        self.lines.append(json.dumps(entry))

    def entries(self):
        return [json.loads(line) for line in self.lines]


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


class Listener:
    def __init__(self):
        self.told = []

    def start(self, task, total, done=0):
        self.told.append((task, total))

    def update(self, done, values):
        assert all(isinstance(value, float) for value in values.values())
        self.told.append(done)

    def message(self, text): ...

    def finish(self):
        self.told.append("finished")


def run(model, images, labels=None, attacks=None, **settings):
    settings = {"threat": THREAT, "suite": "test", "provenance": ORIGIN} | settings
    return evaluate(model, images, labels, attacks=attacks or [Ascent(settings["threat"])], **settings)


def untimed(record):
    data = json.loads(record.to_json())
    for part in (data, *data["attacks"]):
        part["seconds"] = 0
    return data | {"cpu_seconds": 0, "notes": len(data["notes"])}


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


def test_another_judge_does_not_continue_a_journal():
    class Generous:
        def __call__(self, images, labels, streams):
            return torch.zeros(len(labels), dtype=torch.bool)

    model, images, labels, _, _ = examples()
    journal = Memory()
    call = {"threat": THREAT, "attacks": [Ascent(THREAT)], "suite": "s", "provenance": ORIGIN, "journal": journal}
    evaluate(model, images, labels, **call)
    with pytest.raises(InputError, match="journal"):
        evaluate(model, images, labels, **call, judge=Generous())


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


@pytest.mark.parametrize("abort_at", [1, 2, 3, 5, 6])
def test_a_journal_resumes_to_the_same_record_without_repeating_work(abort_at):
    model, images, labels, _, _ = examples()
    calls = []

    @dataclass(frozen=True)
    class Fragile(Ascent):
        abort: int = 0

        def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
            calls.append(self.name)
            if len(calls) == self.abort:
                raise KeyboardInterrupt
            return super().__call__(model, images, labels, streams, context, judge=judge)

    def suite(abort):
        return [Fragile(THREAT, "weak", 0.3, abort), Fragile(THREAT, "full", 1.0, abort)]

    probes = Probes(single_step=Ascent, iterative=Ascent)
    settings = {"batch_size": 48, "probes": probes, "curve_attack": Ascent, "curve_radii": (0, 0.02, "8/255")}
    whole = run(model, images, labels, suite(0), **settings)
    total = len(calls)
    assert total == 6
    journal = Memory()
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run(model, images, labels, suite(abort_at), journal=journal, **settings)
    assert not model._forward_hooks
    calls.clear()
    resumed = run(model, images, labels, suite(0), journal=journal, **settings)
    assert len(calls) == total - abort_at + 1
    assert untimed(resumed) == untimed(whole)
    calls.clear()
    model.register_forward_hook(lambda *_: pytest.fail("a finished evaluation needs no model"))
    assert untimed(run(model, images, labels, suite(0), journal=journal, **settings)) == untimed(whole)
    assert not calls


def test_a_journal_of_another_call_is_refused():
    model, images, labels, _, _ = examples()
    journal = Memory()
    run(model, images, labels, journal=journal)
    for change in ({"seed": 1}, {"batch_size": 3}, {"suite": "other"}, {"attacks": [Ascent(THREAT, share=0.5)]}):
        with pytest.raises(InputError, match=f"journal: {next(iter(change))}"):
            run(model, images, labels, journal=journal, **change)
    journal.lines.pop(0)
    with pytest.raises(InputError, match="journal"):
        run(model, images, labels, journal=journal)


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


def test_curve_measures_every_radius_and_keeps_what_a_smaller_one_broke():
    model, images, labels, difference, lead = examples(300)
    record = run(model, images, labels, curve_attack=Ascent)
    assert [point.eps for point in record.curve] == pytest.approx([0, 0.0125, 0.025, 0.0375, 0.05, 0.075, 0.1, 0.2, 1])
    chosen = spread(300, 200)
    assert len(set(chosen.tolist())) == 200
    right = (chosen >= 10).sum()
    assert record.curve[0].accuracy == int(right) / 200
    for point in record.curve[:5]:  # no pixel meets the box there
        stands = (lead[chosen] > point.eps * difference.abs().sum()) & (chosen >= 10)
        assert point.accuracy == int(stands.sum()) / 200
        assert point.interval == wilson_interval(int(stands.sum()), 200)
        assert (point.n, point.attack) == (200, "ascent")

    class Forgetful(Ascent):
        """Finds nothing at large radii."""

        def __call__(self, model, images, *rest, **more):
            return images if self.threat.eps > 0.06 else super().__call__(model, images, *rest, **more)

    record = run(model, images, labels, curve_attack=Forgetful, probes=Probes(single_step=Ascent, iterative=Ascent))
    assert record.curve[4].accuracy == record.curve[5].accuracy < record.curve[0].accuracy
    (check,) = [check for check in record.verdict.checks if check.name == "accuracy falls with eps"]
    assert check.passed is False  # which looks at what each radius found by itself


def test_radii_are_capped_at_the_box():
    assert curve_radii(ThreatModel("linf", 0.5), 4) == (0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
    assert curve_radii(ThreatModel("l2", 1), 4)[-1] == 2
    assert curve_radii(ThreatModel("l1", 3), 4)[-1] == 4
    assert curve_radii(ThreatModel("linf", 0.5, (0, 0.25)), 4)[-1] == 0.25
    with pytest.raises(InputError, match="curve_radii"):
        curve_radii(THREAT, 4, [-1])


def test_gallery_shows_what_broke():
    model, images, labels, _, _ = examples()
    record = run(model, images, labels, batch_size=16, gallery=5)
    broken = [outcome for outcome in record.outcomes if outcome.broken_by == "ascent"]
    assert len(record.gallery) == 5
    for shown, outcome in zip(record.gallery, broken, strict=False):
        assert (shown.index, shown.label, shown.adversarial) == (outcome.index, outcome.label, outcome.adversarial)
        assert shown.prediction == outcome.prediction
        assert shown.distance == outcome.distance
        clean = Image.open(io.BytesIO(base64.b64decode(shown.clean_png)))
        assert clean.size == (6, 6)
        assert clean.getpixel((2, 1)) == round(float(images[outcome.index, 0, 1, 2]) * 255)
        change = Image.open(io.BytesIO(base64.b64decode(shown.perturbation_png)))
        assert change.getpixel((0, 0)) in (0, 255)  # 0.5 +- 10 * 0.05
    assert run(model, images, labels, gallery=0).gallery == ()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (2, "L"), (4, "L")])
def test_large_pictures_are_shrunk_and_odd_channels_averaged(channels, mode):
    shown = Image.open(io.BytesIO(base64.b64decode(png(torch.full((channels, 200, 100), 0.5)))))
    assert shown.size == (48, 96)
    assert shown.mode == mode
    assert shown.getextrema() in ((128, 128), ((128, 128),) * 3)


def test_monitor_hears_of_every_task():
    model, images, labels, _, _ = examples()
    listener = Listener()
    record = run(model, images, labels, batch_size=100, monitor=listener)
    assert listener.told == [("clean images", 150), 100, 150, "finished", ("ascent", 140), 100, 140, "finished"]
    assert record.robust_accuracy == run(model, images, labels).robust_accuracy
