"""What is looked at before a model is judged: classes, a fast double, a batch size; and bad input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deconfound
from deconfound.attacks import PGD
from deconfound.attacks.suites import Suite
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.models.fast import ITSELF, native_bfloat16
from deconfound.recipes.compute import Compute
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.loading import Loaded
from deconfound.recipes.preparing import LARGEST, classes_of, prepare
from deconfound.recipes.processes import process_count
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.records import EvaluationRecord
from jobs import data_module, split
from judged import Noisy
from toys import ToySource, tiny_net

THREAT = ThreatModel("linf", 0.05)
PLAIN = {"suite": "quick", "checks": False, "curve": False, "gallery": 0}


def prepared(model, source=None, precision="auto", batch_size=None, index=None):
    source = source or ToySource(count=40)
    return prepare(model, source, None, index, precision, batch_size)


class TestClasses:
    @pytest.mark.parametrize("classes", [2, 3, 100])
    def test_they_are_counted_on_one_image(self, classes):
        seen = []
        model = tiny_net(classes=classes)
        model.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
        assert classes_of(model, torch.rand(9, 1, 8, 8)) == classes
        assert seen == [1]
        assert model.training

    def test_in_the_models_precision(self):
        assert classes_of(tiny_net().double(), torch.rand(2, 1, 8, 8)) == 4
        assert classes_of(Noisy(tiny_net(classes=5)), torch.rand(2, 1, 8, 8)) == 5

    def test_zero_where_there_are_no_logits(self):
        images = torch.rand(2, 1, 8, 8)
        for model in (nn.Flatten(0), nn.Linear(3, 3), nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), nn.Identity()):
            assert classes_of(model, images) == 0

    def test_global_random_state_is_kept(self):
        model, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), Dice()), torch.rand(1, 1, 8, 8)
        state = torch.random.get_rng_state()
        assert classes_of(model, images) == 3
        assert torch.equal(torch.random.get_rng_state(), state)


class Dice(nn.Module):
    def forward(self, logits):
        return logits + torch.randn_like(logits)


class TestBatchSize:
    def test_small_networks_get_the_largest(self):
        assert prepared(tiny_net()).batch_size == LARGEST

    def test_what_is_asked_for_is_used(self):
        assert prepared(tiny_net(), batch_size=7).batch_size == 7
        assert prepared(Noisy(tiny_net()), batch_size=7).batch_size == 7

    def test_large_images_get_fewer(self):
        wide = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 4),
        )
        size = prepared(wide, ToySource(count=2, size=256)).batch_size
        assert 1 <= size < LARGEST

    def test_random_models_get_a_quarter(self):
        assert prepared(Noisy(tiny_net())).batch_size == LARGEST // 4


@pytest.fixture
def normed():
    return tiny_net(norm=True).eval()


class TestPrecision:
    """What attacks climbed is in the record, and why nothing faster was."""

    def test_32_never_leaves_float32(self, normed):
        found = prepared(normed, precision="32")
        assert found.rung == "float32, folded"
        assert found.surrogate is not None

    def test_bf16_is_bfloat16_or_says_why_not(self, normed):
        found = prepared(normed, precision="bf16")
        assert found.rung.startswith("bfloat16") or any("bfloat16" in note for note in found.notes)

    def test_auto_does_not_pay_on_a_tiny_network(self, normed):
        assert prepared(normed).rung == "float32, folded"

    def test_auto_on_a_network_that_is_large_enough(self):
        net = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.LazyLinear(4)
        )
        net(torch.rand(2, 1, 8, 8))
        rung = prepared(net).rung
        assert rung.startswith("bfloat16" if native_bfloat16("cpu") else "float32")

    @pytest.mark.parametrize("precision", ["32", "bf16", "auto"])
    def test_the_record_says_it(self, normed, precision):
        source = ToySource(count=20)
        record = deconfound.evaluate(normed, source, threat=THREAT, precision=precision, **PLAIN)
        found = prepared(normed, source, precision)
        assert record.surrogate == found.rung
        assert record.precision == "32-true"
        assert all(note in record.notes for note in found.notes)
        assert EvaluationRecord.from_json(record.to_json()) == record

    def test_a_model_in_double_precision_is_climbed_itself(self):
        source = ToySource(count=20)
        record = deconfound.evaluate(tiny_net().double(), source.images.double(), source.labels, threat=THREAT, **PLAIN)
        assert (record.surrogate, record.precision) == (ITSELF, "64-true")
        assert any("float64" in note for note in record.notes)

    def test_random_models_are_climbed_themselves(self):
        found = prepared(Noisy(tiny_net()))
        assert (found.surrogate, found.rung, found.stochastic) == (None, ITSELF, True)

    def test_the_first_examples_that_were_asked_for_are_looked_at(self):
        seen = []

        class Source(ToySource):
            def batches(self, plan, device="cpu"):
                plan = list(plan)
                seen.extend(part.tolist() for part in plan)
                return super().batches(plan, device)

        prepared(tiny_net(), Source(count=60), index=torch.arange(59, 0, -1))
        assert seen == [list(range(59, 27, -1))]


def test_a_random_network_by_name_is_judged_on_the_budgets_points(monkeypatch, tmp_path):
    place = data_module(monkeypatch, "random_things", test=split(60, shape=(1, 8, 8)))
    made = Loaded(model=Noisy(tiny_net()).eval(), name="noisy", digest="d")
    monkeypatch.setattr("deconfound.recipes.targets.load_foreign", lambda *_: made)
    step = Suite(name="rand", attacks=(PGD(THREAT, steps=1),))
    monkeypatch.setattr("deconfound.attacks.suites.rand", lambda setting: step)
    judging = Judging(suite="rand", budget="demo", checks=False, curve=False)
    for asked, n in ((None, 50), (7, 7), (60, 60)):
        target = Target(target="random_things:net", data=place, n=asked, eps=THREAT.eps, device="cpu")
        record, _ = evaluate_target(target, judging, out=tmp_path / f"{asked}.json")
        assert (record.n, len(record.spread.clean)) == (n, 5)
        assert [outcome.index for outcome in record.outcomes] == list(range(n))


class TestBadInput:
    def refused(self, match, model=None, threat=THREAT, images=None, labels=None, **settings):
        source = ToySource(count=40)
        images = source.images if images is None else images
        labels = source.labels if labels is None else labels
        with pytest.raises(InputError, match=match) as caught:
            deconfound.evaluate(model or tiny_net(), images, labels, threat=threat, **PLAIN | settings)
        assert "\n" not in str(caught.value)

    def test_a_large_radius_in_l2_is_none(self):
        source = ToySource(count=10)
        deconfound.evaluate(tiny_net(), source, threat=ThreatModel("l2", 8), **PLAIN)

    @pytest.mark.parametrize(
        ("make", "shown"),
        [
            (lambda z: (z, z), "output tuple"),
            (lambda z: z[..., None], r"output \(40, 4, 1\)"),
            (lambda z: z.sum(), r"\(\)"),
        ],
    )
    def test_a_model_that_returns_something_else(self, make, shown):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = tiny_net()

            def forward(self, images):
                return make(self.net(images))

        self.refused(f"model: got '.*{shown}.*expected logits of shape", Odd(), batch_size=64)

    def test_labels_beyond_the_first_look(self):
        labels = ToySource(count=40).labels.clone()
        labels[39] = 9
        self.refused(r"labels: got 9; expected labels within 0\.\.3", labels=labels, batch_size=8)

    def test_sources_of_transfer_with_other_classes(self):
        self.refused("transfer source 1: got '3 classes'", transfer_from=[tiny_net(classes=3)], checks=True)

    @pytest.mark.parametrize(
        "change", [{"precision": "16"}, {"audit_min": 0}, {"audit_share": 0}, {"audit_share": 1.5}]
    )
    def test_settings(self, change):
        (name,) = change
        self.refused(f"^{name}: got", **change)
        with pytest.raises(InputError, match=name):
            Judging(**change)


class TestProcesses:
    @pytest.mark.parametrize(("name", "count"), [("WORLD_SIZE", 3), ("SLURM_NTASKS", 2)])
    def test_a_launcher_says_how_many(self, monkeypatch, name, count):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        assert process_count() == 1
        assert Compute().alone
        monkeypatch.setenv(name, str(count))
        assert process_count() == count
        assert not Compute().alone

    def test_several_devices_are_not_alone(self):
        assert not Compute(devices=2).alone
        assert not Compute(num_nodes=2).alone
        assert Compute(devices="1").alone
