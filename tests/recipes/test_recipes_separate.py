"""Every attack by itself: columns over all that is right when clean, and what all of them leave together."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

import deconfound
from deconfound.attacks import PGD, suites
from deconfound.attacks.suites import Suite
from deconfound.core.threat import ThreatModel
from deconfound.core.types import DeclaredAttack
from deconfound.errors import InputError
from deconfound.functional.statistics import wilson_interval
from deconfound.models.ciiv import CiiV
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.recipes.training import train
from deconfound.reporting import render
from deconfound.reporting.strength import all_of_autoattack, cautions
from toys import ToySource, tiny_net

THREAT = ThreatModel("linf", 0.06)
PLAIN = {"checks": False, "curve": False, "gallery": 0}


class Masked(nn.Module):
    """Quantised input: no gradient; the network inside is its declared surrogate."""

    def __init__(self):
        super().__init__()
        self.net = tiny_net()

    def forward(self, images):
        return self.net((images * 64).round() / 64)

    def attack_surrogates(self):
        return (DeclaredAttack(name="bpda", surrogate=self.net, settings={"steps": 7}),)


@pytest.fixture(scope="module")
def source():
    found = ToySource(count=40)
    with torch.no_grad():
        found.labels = Masked()(found.images).argmax(1)
    found.labels[:3] = (found.labels[:3] + 1) % 2  # wrong when clean: no attack is given these
    return found


@pytest.fixture
def light(monkeypatch):
    """Two steps, and one step from elsewhere, stand for AutoAttack's four."""

    def two(setting):
        attacks = (PGD(setting.threat, steps=2), PGD(setting.threat, steps=1, start="none", name="one"))
        return Suite(name="standard", attacks=attacks)

    monkeypatch.setattr("deconfound.attacks.suites.standard", two)


def judged(source, model=None, **judging):
    return deconfound.evaluate(model or Masked(), source, threat=THREAT, **(PLAIN | judging))


def test_the_worst_case_is_that_of_the_suite_in_turn_and_no_column_is_below_it(source, light):
    alone = judged(source, suite="adaptive", separate=True)
    in_turn = judged(source, suite="adaptive")
    assert [(c.name, c.group) for c in alone.columns] == [
        ("pgd-2", "alone"), ("one", "alone"), ("bpda", "alone"), ("all of them", "union"),
    ]  # fmt: skip
    assert alone.attacks == ()
    assert alone.robust_accuracy == alone.columns[-1].accuracy == in_turn.robust_accuracy
    assert all(column.accuracy >= alone.robust_accuracy for column in alone.columns)
    by_itself = {column.name: column.accuracy for column in alone.columns}
    assert by_itself["bpda"] < by_itself["one"] == alone.clean_accuracy == 37 / 40  # the others see no gradient
    assert all(c.n == 40 and c.interval == wilson_interval(round(c.accuracy * 40), 40) for c in alone.columns)


def test_every_attack_is_given_everything_that_is_right_when_clean(source, light, monkeypatch):
    """The last of the suite too, which in turn would see survivors only."""
    given = []
    original = PGD.__call__

    def seen(attack, model, images, labels, *more, **named):
        given.append((attack.name, len(images)))
        return original(attack, model, images, labels, *more, **named)

    monkeypatch.setattr(PGD, "__call__", seen)
    judged(source, tiny_net(), suite="standard", separate=True)
    assert dict(given)["pgd-2"] == dict(given)["one"]


def test_a_column_for_each_source_of_transfer(source, light):
    """The network inside is the best place to craft images for the one that hides its gradient."""
    model = Masked()
    found = judged(source, model, suite="standard", separate=True, transfer_from=[model.net, tiny_net(seed=5)])
    first, second = (column for column in found.columns if column.group == "transfer")
    assert (first.name, second.name) == ("transfer from source 1", "transfer from source 2")
    assert first.settings["own_surrogate"]
    assert first.accuracy < found.columns[0].accuracy
    assert found.robust_accuracy <= min(first.accuracy, second.accuracy)


def test_sources_are_called_by_their_folders(trained, tmp_path):
    for place in ("a", "b"):
        shutil.copytree(trained.path, tmp_path / place / "other")
    sources = tuple(str(tmp_path / place / "other") for place in ("a", "b"))
    target = Target(target=str(trained.path), n=6, transfer_from=sources)
    judging = Judging(suite="pgd-2", separate=True, **PLAIN)
    record, _ = evaluate_target(target, judging, out=tmp_path / "r.json")
    names = [column.name for column in record.columns]
    assert names == ["pgd-2", "transfer from other #1", "transfer from other #2", "all of them"]
    assert record.columns[1].accuracy == record.columns[2].accuracy
    assert evaluate_target(Target(target=str(trained.path), n=6), judging)[1].name == (
        "evaluate-pgd-2-linf-0.1-n6-separate.json"
    )
    for file in trained.path.glob("evaluate-*"):
        file.unlink()


def test_fast_is_refused(source):
    line = "^separate: got 'fast'; expected none with this suite, which audits survivors; standard has the same attacks"
    with pytest.raises(InputError, match=line):
        judged(source, suite="fast", separate=True)


def test_fewer_loops_are_climbed_by_columns_too(tmp_path, monkeypatch):
    changes = {"epochs": 1, "sampler.loops": 3, "sampler.samples": 1, "batch_size": 512}
    run = train("ciiv", out=tmp_path / "run", changes=changes)
    seen = []
    original = CiiV.views

    def views(model, images, streams, slope="raw"):
        seen.append((model.sampling.loops, images.requires_grad))
        return original(model, images, streams, slope)

    monkeypatch.setattr(CiiV, "views", views)
    light = lambda setting: Suite(name="rand", attacks=(PGD(setting.threat, steps=2),))  # noqa: E731
    monkeypatch.setattr("deconfound.attacks.suites._makers", lambda: {"rand": light})
    judging = Judging(suite="rand", loops=1, separate=True, budget="demo", **PLAIN)
    record, _ = evaluate_target(Target(target=str(run.path), n=6), judging)
    assert {loops for loops, climbed in seen if climbed} == {1}
    assert {loops for loops, climbed in seen if not climbed} >= {3}
    assert [column.name for column in record.columns] == ["pgd-2", "all of them"]
    # Every column is decided by the majority of the judge's seeds; the robust accuracy is a mean over them.
    assert len(record.spread.robust) == 5


def test_what_is_written_of_it(source, light):
    """A suite is what it was, whether its attacks ran in turn or apart."""
    record = judged(source, suite="standard", separate=True)
    page = render([record])
    assert "Columns of suite standard" in page
    assert "by itself" in page
    assert not all_of_autoattack(record)  # the two of the fixture
    assert "not AutoAttack" in cautions(record)[0][1]
    four = ("apgd-ce-100", "apgd-t-100x9", "fab-t-100x9", "square-5000")
    columns = tuple(record.columns[0].model_copy(update={"name": name}) for name in four)
    assert all_of_autoattack(record.model_copy(update={"columns": columns}))


def test_suites_of_one_attack():
    assert [attack.name for attack in suites.suite("pgd-40", THREAT).attacks] == ["pgd-40"]
    random = suites.suite("apgd-7", suites.Setting(threat=THREAT, stochastic=True)).attacks[0]
    assert (random.steps, random.draws) == (7, 20)
    for wrong in ("pgd-0", "pgd-", "fgsm-3", "pgd-040", "pgd-4x", "pgd-99999999"):
        assert not suites.exists(wrong)
        with pytest.raises(InputError, match=r"^suite: got"):
            suites.suite(wrong, THREAT)
