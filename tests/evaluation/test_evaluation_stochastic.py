"""Random classifiers: the majority of draws, five seeds, fresh draws for every found image, exact counts."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

import deconfound
from deconfound.attacks import PGD
from deconfound.attacks.budgets import budget
from deconfound.attacks.suites import Suite
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.evaluation.majority import Majority, decided, votes_of
from judged import Noisy, judged, untimed
from toys import ToySource, tiny_net

THREAT = ThreatModel("linf", 0.05)


@pytest.fixture(scope="module")
def examples():
    """A random network of middling accuracy on forty images, in double precision."""
    source = ToySource(count=40)
    net = tiny_net().double()
    images = source.images.double()
    with torch.no_grad():
        logits = net(images)
    labels = logits.argmax(1)
    labels[::7] = (labels[::7] + 1) % 4
    return net, images, labels


class Scripted:
    """Draws given logits (R, B, K)."""

    def __init__(self, logits):
        self.logits = torch.as_tensor(logits)

    def draw(self, images, streams, draws):
        assert draws == len(self.logits)
        return self.logits


def seen(logits, **settings):
    model = Scripted(logits)
    images = torch.zeros(model.logits.shape[1], 1, 1, 1)
    return Majority(model, draws=len(model.logits), **settings).predictions(images, Streams(0, range(len(images))))


class TestMajority:
    def test_counts_draws_not_logits(self):
        assert seen([[[0.0, 1.0]], [[0.0, 1.0]], [[90.0, 0.0]]]).tolist() == [1]

    def test_a_tie_goes_to_the_larger_mean_probability(self):
        draws = [[[3.0, 0, 0]], [[0, 2.0, 0]], [[0, 0, 1.0]]]
        assert seen(draws).tolist() == [0]
        assert seen([[[1.0, 0, 0]], [[0, 1.5, 0]], [[0, 0.2, 1.0]]]).tolist() == [1]
        # a class without votes never wins, however probable
        assert seen([[[2.0, 1.9, 0]], [[0, 1.9, 2.0]], [[-9.0, 1.9, 2.0]]]).tolist() == [2]

    def test_draws_of_nan_do_not_vote(self):
        nan = float("nan")
        draws = [[[nan, 0.0], [nan, nan]], [[nan, nan], [0.0, nan]], [[0.0, 1.0], [nan, 1.0]]]
        assert seen(draws).tolist() == [1, -1]
        votes, support = votes_of(torch.tensor(draws))
        assert votes.tolist() == [[0, 1], [0, 0]]
        assert support.isfinite().all()
        assert (support < 0.5).all()

    def test_an_image_without_prediction_is_wrong(self):
        model = Scripted(torch.full((3, 2, 2), torch.nan))
        wrong = Majority(model, draws=3)(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), Streams(0, range(2)))
        assert wrong.tolist() == [True, True]

    @pytest.mark.parametrize("level", [0.001, 0.05, 0.5])
    def test_abstention_is_the_two_sided_binomial_test(self, level):
        votes = torch.tensor([[a, b, 3] for a in range(3, 40) for b in range(3, 40)], dtype=torch.float64)
        expected = []
        for row in votes.tolist():
            first, second = sorted(map(int, row), reverse=True)[:2]
            expected.append(binomtest(first, first + second, 0.5).pvalue <= level)
        assert decided(votes, level).tolist() == expected

    def test_abstaining_is_an_error_by_hand(self):
        """Of 20 draws 15 and 5: p = 0.0414; 14 and 6: p = 0.1153."""
        draws = torch.zeros(20, 2, 2)
        draws[:15, 0, 1] = 1
        draws[:14, 1, 1] = 1
        draws[15:, 0, 0] = draws[14:, 1, 0] = 1
        assert seen(draws, abstain=0.05).tolist() == [1, -1]
        assert seen(draws, abstain=0.2).tolist() == [1, 1]

    @pytest.mark.parametrize("settings", [{"draws": 2}, {"draws": 0}, {"draws": True}, {"draws": 2.0}, {"abstain": 0}])
    def test_bad_settings(self, settings):
        with pytest.raises(InputError, match=next(iter(settings))):
            Majority(Scripted(torch.zeros(1, 1, 2)), **settings)

    def test_an_even_number_may_abstain(self):
        assert Majority(Scripted(torch.zeros(1, 1, 2)), draws=100, abstain=0.001).settings()["draws"] == 100


def by_hand(judge, images, labels, streams):
    """What each of five seeds says, (5, B) bool."""
    return torch.stack([judge(images, labels, streams.fold("judge", seed)) for seed in range(5)])


def test_accuracy_is_the_mean_over_five_seeds(examples):
    net, images, labels = examples
    model = Noisy(net, 0.3)
    judge = Majority(model, draws=3)
    record = judged(model, images, labels, [PGD(THREAT, steps=3, draws=2)], THREAT, judge=judge, seed=4)
    wrong = by_hand(judge, images, labels, Streams(4, range(40)).fold("clean"))
    clean = (1 - wrong.double().mean(dim=1)).tolist()
    assert list(record.spread.clean) == pytest.approx(clean, abs=1e-12)
    assert len(set(clean)) > 1
    assert record.clean_accuracy == pytest.approx(statistics.fmean(clean))
    assert record.robust_accuracy == pytest.approx(statistics.fmean(record.spread.robust))
    assert record.spread.clean_deviation == pytest.approx(statistics.stdev(clean))
    assert record.spread.robust_deviation == pytest.approx(statistics.stdev(record.spread.robust))
    assert record.spread.judge == {"kind": "majority", "draws": 3, "abstain": None}
    assert all(robust <= first for robust, first in zip(record.spread.robust, clean, strict=True))
    broken = [outcome.broken_by == "clean" for outcome in record.outcomes]
    assert broken == (wrong.sum(dim=0) > 2).tolist()


@dataclass(frozen=True)
class Lucky:
    """Hands back a hardly changed image wherever one draw of the judge errs on it."""

    threat: ThreatModel
    judge: Majority
    name: str = "lucky"

    def settings(self):
        return {}

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        assert judge is self.judge
        moved = self.threat.project(images + 1e-3, images)
        return torch.where(judge(moved, labels, streams).view(-1, 1, 1, 1), moved, images)


def test_an_image_found_by_a_lucky_draw_does_not_count():
    """Each seed's majority errs on 15 to 30 % of the images, most seeds on far fewer."""
    model = Noisy(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double(), 1.0)
    with torch.no_grad():
        model.net[1].weight.zero_()
        model.net[1].bias.copy_(torch.tensor([0.7, 0.0]))
    count = 400
    images = torch.rand(count, 1, 2, 2, dtype=torch.float64) * 0.8
    labels = torch.zeros(count, dtype=torch.int64)
    judge = Majority(model, draws=3)
    record = judged(model, images, labels, [Lucky(THREAT, judge)], THREAT, judge=judge)
    streams = Streams(0, range(count))
    clean = by_hand(judge, images, labels, streams.fold("clean"))
    right = ~clean.all(dim=0)  # by any seed
    moved = THREAT.project(images + 1e-3, images)
    found = right & judge(moved, labels, streams.fold("lucky"))
    fresh = by_hand(judge, moved, labels, streams.fold("lucky"))
    expected = found & (clean.sum(dim=0) <= 2) & (fresh.sum(dim=0) > 2)
    assert int(found.sum()) > 40
    assert int(expected.sum()) < int(found.sum()) / 2
    assert [outcome.broken_by == "lucky" for outcome in record.outcomes] == expected.tolist()
    robust = 1 - (clean | (fresh & found)).double().mean(dim=1)
    assert list(record.spread.robust) == pytest.approx(robust.tolist(), abs=1e-12)


def test_draws_and_gradients_are_counted_and_the_method_comes_back(examples):
    net, images, labels = examples
    model = Noisy(net, 0.01)
    own = model.draw
    tiny = THREAT.with_eps(1e-9)  # nothing falls
    record = judged(model, images, labels, [PGD(tiny, steps=4, draws=3)], tiny, judge=Majority(model), batch_size=16)
    assert record.forwards == model.forwarded
    right = record.attacks[0].attacked
    assert right >= sum(outcome.broken_by != "clean" for outcome in record.outcomes)
    assert record.backwards == record.attacks[0].backwards == right * 4 * 3
    assert record.attacks[0].forwards >= right * (4 * 3 + 9)
    assert "draw" not in vars(model)
    assert model.draw == own
    model.broken = True
    with pytest.raises(InputError, match="planted"):
        judged(model, images, labels, [PGD(tiny)], tiny, judge=Majority(model))
    assert "draw" not in vars(model)


def test_a_draw_of_ones_own_on_the_object_comes_back(examples):
    net, images, labels = examples
    model = Noisy(net, 0.1)
    mine = model.draw
    vars(model)["draw"] = mine
    judged(model, images, labels, [PGD(THREAT, steps=1)], THREAT, judge=Majority(model))
    assert vars(model)["draw"] is mine


def test_results_do_not_depend_on_the_batch_size(examples):
    net, images, labels = examples
    model = Noisy(net, 0.3)
    attacks = [PGD(THREAT, steps=3, draws=2), PGD(THREAT.with_eps(THREAT.eps), steps=2, restarts=2)]
    records = [
        judged(model, images, labels, attacks, THREAT, judge=Majority(model, draws=3), batch_size=size)
        for size in (5, 64)
    ]
    first, second = (untimed(record, "forwards", "attacks") for record in records)
    assert first == second
    for one, other in zip(*(record.attacks for record in records), strict=True):
        assert (one.attacked, one.survivors, one.backwards) == (other.attacked, other.survivors, other.backwards)


def test_without_a_majority_the_mean_of_nine_draws_decides_whatever_the_batch_size(examples):
    net, images, labels = examples
    model = Noisy(net, 0.3)
    records = [judged(model, images, labels, [PGD(THREAT, steps=2)], THREAT, batch_size=size) for size in (3, 64)]
    assert untimed(records[0], "forwards", "attacks") == untimed(records[1], "forwards", "attacks")
    expected = model.draw(images, Streams(0, range(40)).fold("clean").fold("logits"), 9).mean(dim=0).argmax(1)
    assert [outcome.prediction for outcome in records[0].outcomes] == expected.tolist()
    assert records[0].spread is None


def test_a_journal_of_another_number_of_draws_is_refused(examples):
    from toys import Rows

    net, images, labels = examples
    model, journal = Noisy(net), Rows()
    judged(model, images, labels, [PGD(THREAT, steps=1)], THREAT, judge=Majority(model, draws=3), journal=journal)
    with pytest.raises(InputError, match=r"^journal: judge: got"):
        judged(model, images, labels, [PGD(THREAT, steps=1)], THREAT, judge=Majority(model, draws=5), journal=journal)


@pytest.fixture(scope="module")
def demo():
    """A random model, a source of 70 images, and the record of suite rand."""
    source = ToySource(count=70)
    model = Noisy(tiny_net(), 0.05)
    with torch.no_grad():
        source.labels = model(source.images).argmax(1)
    record = deconfound.evaluate(
        model, source, threat=THREAT, suite="rand", budget="demo", checks=False, curve=False, batch_size=50
    )
    return model, source, record


class TestByName:
    """``deconfound.evaluate`` on a random model."""

    def test_suites_that_climb_single_draws_are_refused(self, examples):
        net, images, labels = examples
        for suite in ("standard", "fast", "plus", "quick"):
            with pytest.raises(InputError, match=f"suite: got '{suite}'; expected rand") as caught:
                deconfound.evaluate(Noisy(net), images, labels, threat=THREAT, suite=suite)
            assert "\n" not in str(caught.value)

    def test_rand_at_budget_demo(self, demo):
        _, _, record = demo
        spent = budget("demo")
        assert record.n == spent.points == 50
        assert [outcome.index for outcome in record.outcomes] == list(range(50))
        assert record.budget == "demo"
        assert len(record.spread.clean) == len(record.spread.robust) == 5
        settings = [attack.settings for attack in record.attacks]
        assert [(s["kind"], s["draws"]) for s in settings] == [
            ("apgd", spent.draws),
            ("apgd", spent.draws),
            ("square", spent.query_draws),
            ("spsa", spent.query_draws),
        ]
        assert settings[0]["steps"] == spent.steps
        assert settings[2]["queries"] == spent.queries
        assert 0 < record.robust_accuracy < record.clean_accuracy

    def test_tensors_are_cut_to_the_budgets_points_too(self, demo):
        model, source, record = demo
        settings = {"threat": THREAT, "suite": "rand", "budget": "demo", "checks": False, "curve": False}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "deconfound.attacks.suites.rand", lambda _: Suite(name="rand", attacks=(PGD(THREAT, steps=1),))
            )
            cut = deconfound.evaluate(model, source.images, source.labels, **settings)
            asked = deconfound.evaluate(model, source.images, source.labels, index=torch.arange(70), **settings)
        assert (cut.n, asked.n) == (50, 70)
        assert [o.prediction for o in cut.outcomes] == [o.prediction for o in record.outcomes]
        assert [o.prediction for o in cut.outcomes] == [o.prediction for o in asked.outcomes][:50]

    def test_undeclared_randomness_is_judged_and_flagged(self):
        class Hidden(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = tiny_net()

            def forward(self, images):
                return self.net(images) + 0.3 * torch.randn(len(images), 4)

        source = ToySource(count=30)
        state = torch.random.get_rng_state()
        record = deconfound.evaluate(Hidden(), source, threat=THREAT, suite="quick", curve=False)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert record.n == 30
        assert record.spread is None
        assert not record.verdict.reliable
        assert any("identical" in reason or "change" in reason for reason in record.verdict.reasons)
        assert record.surrogate == "float32, the model itself"
        assert any("differently" in note for note in record.notes)
