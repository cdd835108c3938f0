"""The audit: how many survivors, which ones, when all of them, and what it may claim."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from deconfound.core.types import Audit
from deconfound.functional.statistics import hidden_bound
from judged import IDS, Planted, Switch, judged, numbered

COUNT, WRONG, EARLY = 60, (3, 50), (7, 8, 9, 10)
LEFT = COUNT - len(WRONG) - len(EARLY)


@dataclass(frozen=True)
class Nearing(Planted):
    """Brings images the nearer to falling the earlier their number stands in ``ahead``; breaks none."""

    name: str = "nearing"
    ahead: tuple[int, ...] = ()

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        numbers = images[:, 0, 0, 0].mul(IDS).round().long().tolist()
        self.given.extend(numbers)
        found = images.clone()
        places = [self.ahead.index(number) if number in self.ahead else len(self.ahead) for number in numbers]
        found[:, 0, 0, 1] = 0.4 - torch.tensor(places) / IDS
        return found


def audited(victims=(), count=COUNT, least=20, share=0.1, second=(), order=None, ranking=None, **settings):
    """A record and the numbers that each of two slow attacks was given."""
    images, labels = numbered(count, [number for number in WRONG if number < count])
    order = torch.arange(count) if order is None else order
    early = Planted(name="early", victims=frozenset(EARLY))
    slow = Planted(name="slow", victims=frozenset(victims))
    slower = Planted(name="slower", victims=frozenset(second))
    audit = Audit(attacks=(slow, slower), least=least, share=share, ranking=ranking)
    settings = {"index": order} | settings
    record = judged(Switch(), images[order], labels[order], [early], audit=audit, **settings)
    return record, slow.given, slower.given


@given(st.integers(0, 10**6), st.integers(1, 500), st.floats(0.001, 1))
def test_the_sample_is_the_larger_of_the_least_and_the_share(survivors, least, share):
    size = Audit(attacks=(), least=least, share=share).sample_size(survivors)
    assert size <= survivors
    assert size == survivors or (size >= least and size >= share * survivors - 1e-6)
    assert size in (survivors, least, math.ceil(share * survivors))


def test_by_default_a_hundred_or_a_tenth():
    sizes = {survivors: Audit(attacks=()).sample_size(survivors) for survivors in (0, 99, 101, 1000, 1001, 9000)}
    assert sizes == {0: 0, 99: 99, 101: 100, 1000: 100, 1001: 101, 9000: 900}


def brute(population, sample):
    level = [
        few
        for few in range(population - sample + 1)
        if 20 * math.comb(population - few, sample) >= math.comb(population, sample)
    ]
    return max(level)


def test_the_bound_is_the_exact_hypergeometric_one():
    for population in range(1, 41):
        for sample in range(population + 1):
            assert hidden_bound(population, sample) == brute(population, sample), (population, sample)
    for population, sample in ((9000, 900), (1000, 100), (317, 100), (200, 199)):
        assert hidden_bound(population, sample) == brute(population, sample)


def test_nothing_fell_so_the_rest_is_bounded():
    record, slow, slower = audited()
    audit = record.audit
    assert (audit.survivors, audit.sampled, audit.fell, audit.complete) == (LEFT, 20, 0, False)
    assert audit.bound == brute(LEFT, 20) / COUNT
    assert len(slow) == len(set(slow)) == 20
    assert sorted(slower) == sorted(slow)
    assert not {*slow} & {*WRONG, *EARLY}
    assert [attack.attacked for attack in record.attacks] == [COUNT - len(WRONG), 20, 20]
    assert [attack.survivors for attack in record.attacks] == [LEFT] * 3
    assert record.robust_accuracy == LEFT / COUNT


def test_the_sample_is_keyed_by_seed_and_index_alone():
    chosen = {*audited()[1]}
    for batch_size in (1, 7, 1000):
        assert {*audited(batch_size=batch_size)[1]} == chosen
    assert {*audited(order=torch.arange(COUNT).flip(0))[1]} == chosen
    assert {*audited(seed=1)[1]} != chosen
    assert sorted(chosen) != sorted(set(range(COUNT)) - {*WRONG, *EARLY})[:20]
    assert {*audited(least=10)[1]} < chosen


def test_one_that_falls_sends_the_audit_to_all_survivors():
    sampled = audited()[1]
    hidden = sorted({*range(COUNT)} - {*sampled, *WRONG, *EARLY})[:3]
    record, slow, slower = audited(victims=[sampled[4], hidden[0]], second=[hidden[1], sampled[5]])
    audit = record.audit
    assert (audit.fell, audit.complete, audit.bound) == (2, True, 0)
    assert slow[:20] == sampled
    assert len(slow) == len(set(slow)) == LEFT
    assert {*slower} == {*slow} - {sampled[4], hidden[0]}
    assert len(slower) == len(set(slower))
    by = {outcome.index: outcome.broken_by for outcome in record.outcomes}
    assert by[sampled[4]] == by[hidden[0]] == "slow"
    assert by[hidden[1]] == by[sampled[5]] == "slower"
    assert by[hidden[2]] is None
    assert record.robust_accuracy == (LEFT - 4) / COUNT
    _, slow_result, slower_result = record.attacks
    assert slow_result.attacked == LEFT
    assert slower_result.attacked == LEFT - 2
    assert slower_result.survivors == LEFT - 4
    assert slow_result.forwards == LEFT  # one forward for each, in two rounds


def test_a_hidden_one_outside_the_sample_stays_hidden():
    sampled = audited()[1]
    hidden = sorted({*range(COUNT)} - {*sampled, *WRONG, *EARLY})
    record, slow, _ = audited(victims=hidden[:2])
    assert (record.audit.fell, record.audit.complete) == (0, False)
    assert sorted(slow) == sorted(sampled)
    assert record.audit.bound >= 2 / COUNT


@pytest.mark.parametrize(("count", "least"), [(30, 100), (30, 25), (COUNT, COUNT)])
def test_small_populations_are_attacked_completely_and_once(count, least):
    record, slow, _ = audited(count=count, least=least, victims=[20])
    left = [number for number in range(count) if number not in (*WRONG, *EARLY)]
    assert sorted(slow) == left
    assert (record.audit.sampled, record.audit.complete, record.audit.bound) == (len(left), True, 0)
    assert record.audit.fell == 1


def test_without_survivors_there_is_nothing_to_audit():
    images, labels = numbered(5)
    early = Planted(name="early", victims=frozenset(range(5)))
    slow = Planted(name="slow")
    record = judged(Switch(), images, labels, [early], audit=Audit(attacks=(slow,)))
    audit = record.audit
    assert (audit.survivors, audit.sampled, audit.fell, audit.complete, audit.bound) == (0, 0, 0, True, 0)
    assert slow.given == []
    assert record.attacks[1].attacked == 0


def test_the_nearest_and_a_sample_of_the_rest_are_attacked_together():
    ahead = tuple(range(59, 29, -1))
    nearing = Nearing(ahead=ahead)
    record, slow, _ = audited(ranking=nearing)
    audit, nearest = record.audit, [number for number in ahead if number not in WRONG][:10]
    assert (audit.nearest, audit.nearest_fell, audit.sampled, audit.fell, audit.complete) == (10, 0, 20, 0, False)
    assert {*nearest} < {*slow}
    assert slow == sorted(slow)  # one batch, in the order of the examples
    assert len(slow) == len(set(slow)) == 30
    assert audit.bound == brute(LEFT - 10, 20) / COUNT
    assert len(nearing.given) == LEFT
    assert "nearing" not in [attack.name for attack in record.attacks]
    assert record.attacks[1].attacked == 30


def test_one_of_the_nearest_that_falls_brings_the_next_ones_in_but_not_all():
    ahead = tuple(range(59, -1, -1))
    near = [number for number in ahead if number not in (*WRONG, *EARLY)]
    quiet = audited(ranking=Nearing(ahead=ahead), victims=near[:1])
    drawn = {*quiet[1][:30]} - {*near[:10]}
    onwards = [number for number in near[10:] if number not in drawn]
    assert (quiet[0].audit.nearest, quiet[0].audit.nearest_fell, quiet[0].audit.fell) == (20, 1, 0)
    assert [len(quiet[1]), len(drawn), sorted(quiet[1][30:])] == [40, 20, sorted(onwards[:10])]
    assert quiet[0].audit.bound == brute(LEFT - 10, 20) / COUNT  # nothing of the rest fell: the sample's bound

    record, slow, slower = audited(ranking=Nearing(ahead=ahead), victims=near[3:5], second=onwards[2:3])
    audit = record.audit
    assert (audit.nearest, audit.nearest_fell) == (10 + len(onwards[:20]), 3)
    assert (audit.sampled, audit.fell, audit.complete) == (20, 0, False)
    assert audit.bound == min(LEFT - audit.nearest - 20, brute(LEFT - 10, 20) - 1) / COUNT
    assert len(slow) == len(set(slow)) == audit.nearest + 20
    assert {*near[:10], *onwards[:20], *drawn} == {*slow}
    assert set(slower) == {*slow} - {*near[3:5]}
    assert record.robust_accuracy == (LEFT - 3) / COUNT


def test_what_falls_behind_the_sample_leaves_less_to_fall():
    """The bound counts victims of the rest: each that is found later is one less, down to none."""
    ahead = tuple(number for number in range(59, -1, -1) if number not in (*WRONG, *EARLY))
    first = audited(ranking=Nearing(ahead=ahead))[1]
    behind = [number for number in ahead[10:] if number not in first][:6]
    record, _, _ = audited(ranking=Nearing(ahead=ahead), victims=(ahead[0], *behind))
    assert (record.audit.fell, record.audit.nearest_fell, record.audit.complete) == (0, 7, False)
    assert record.audit.bound == max(0, brute(LEFT - 10, 20) - 6) / COUNT


def test_all_may_be_near_and_all_may_fall():
    everything = {*range(COUNT)} - {*WRONG, *EARLY}
    record, slow, _ = audited(ranking=Nearing(), victims=everything)
    assert (record.audit.nearest, record.audit.sampled, record.audit.fell) == (10, 20, 20)
    assert (record.audit.complete, record.audit.bound, record.robust_accuracy) == (True, 0, 0)
    assert sorted(slow) == sorted(everything)


def test_nearest_after_nearest_may_be_all_that_is_left():
    ahead = tuple(number for number in range(59, -1, -1) if number not in (*WRONG, *EARLY))
    first = audited(ranking=Nearing(ahead=ahead))[1]
    drawn = {*first} - {*ahead[:10]}
    record, slow, _ = audited(ranking=Nearing(ahead=ahead), victims={*ahead} - drawn)
    assert (record.audit.nearest, record.audit.sampled, record.audit.fell) == (LEFT - 20, 20, 0)
    assert (record.audit.complete, record.audit.bound, record.robust_accuracy) == (True, 0, 20 / COUNT)
    assert sorted(slow) == sorted(ahead)


def test_what_is_nearest_does_not_depend_on_the_batches():
    nearest = {number: {*audited(ranking=Nearing(ahead=(40, 41, 42)), batch_size=number)[1]} for number in (1, 7, 999)}
    assert nearest[1] == nearest[7] == nearest[999]


def test_the_claim_is_wrong_in_at_most_five_of_a_hundred_audits():
    """As many hidden victims as the bound just rules out: the claim is false exactly where none is drawn.

    Each assertion fails by chance with a probability of at most 1e-4.
    """
    population, size, audits = 30, 10, 250
    victims = brute(population, size) + 1
    images, labels = numbered(population)
    missed, drawn = 0, torch.zeros(population)
    for seed in range(audits):
        slow = Planted(name="slow", victims=frozenset(range(victims)))
        audit = Audit(attacks=(slow,), least=size, share=0.01)
        record = judged(Switch(), images, labels, [Planted(name="early")], audit=audit, seed=seed, gallery=0)
        drawn[slow.given[:size]] += 1
        if record.audit.complete:
            assert record.robust_accuracy == (population - victims) / population
        else:
            missed += 1
            assert record.audit.bound * population < victims
    chance = math.comb(population - victims, size) / math.comb(population, size)
    assert chance < 0.05
    assert missed <= binom.ppf(1 - 1e-4, audits, 0.05)
    assert binom.ppf(5e-5, audits, chance) <= missed <= binom.ppf(1 - 5e-5, audits, chance)
    expected = audits * size / population
    spread = audits * size / population * (1 - size / population) * population / (population - 1)
    assert float(((drawn - expected) ** 2).sum() / spread) <= chi2.isf(1e-4, population - 1)
