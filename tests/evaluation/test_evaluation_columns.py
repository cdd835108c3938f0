"""Columns of a table, attacks in turn, papers' suites; what attacks climb and who judges; what is no model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from deconfound.attacks import PGD, make
from deconfound.attacks.apgd import APGD
from deconfound.attacks.in_turn import InTurn
from deconfound.attacks.losses import margin
from deconfound.attacks.square import Square
from deconfound.attacks.suites import Setting, suite
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.evaluation import Probes
from deconfound.functional.statistics import wilson_interval
from deconfound.models.fast import fast_surrogate
from deconfound.records.examples import unpacked_bits
from judged import BOX, Planted, Switch, judged, numbered
from toys import Rows, ToySource, tiny_net

COUNT, WRONG = 30, (4, 11)
L2 = ThreatModel("l2", 1.5)
THREAT = ThreatModel("linf", 0.06)


def table(attacks=(), **settings):
    """A record with four columns, two of them within the threat model, and the columns' attacks."""
    images, labels = numbered(COUNT, WRONG)
    columns = (
        Planted(name="one", victims=frozenset({1, 2, 3})),
        Planted(L2, "far", frozenset({3, 5, 6})),
        Planted(name="two", victims=frozenset({2, 7})),
        Planted(L2, "none", frozenset()),
    )
    groups = [("column" if column.threat == BOX else "norm", column) for column in columns]
    record = judged(Switch(), images, labels, list(attacks), columns=groups, batch_size=8, **settings)
    return record, columns


class TestColumns:
    def test_each_works_by_itself_on_everything_that_is_right_when_clean(self):
        record, columns = table([Planted(name="first", victims=frozenset({1, 9}))])
        everything = sorted({*range(COUNT)} - {*WRONG})
        for column in columns:
            assert sorted(column.given) == everything
        right = COUNT - len(WRONG)
        assert [(c.name, c.group, round(c.accuracy * COUNT)) for c in record.columns] == [
            ("one", "column", right - 3),
            ("far", "norm", right - 3),
            ("two", "column", right - 2),
            ("none", "norm", right),
            ("all of them", "union", right - 6),
        ]
        assert [c.threat for c in record.columns] == [str(BOX), str(L2), str(BOX), str(L2), ""]
        assert record.columns[0].settings == columns[0].settings()
        broken = ({1, 2, 3}, {3, 5, 6}, {2, 7}, set(), {1, 2, 3, 5, 6, 7})
        for column, gone in zip(record.columns, broken, strict=True):
            expected = [one.index not in {*WRONG, *gone} for one in record.outcomes]
            assert unpacked_bits(column.stands, COUNT) == expected
            assert (column.n, column.interval) == (COUNT, wilson_interval(sum(expected), COUNT))

    def test_what_those_within_the_threat_model_break_counts(self):
        record, _ = table([Planted(name="first", victims=frozenset({1, 9}))])
        by = {o.index: o.broken_by for o in record.outcomes if o.broken_by is not None}
        assert by == {4: "clean", 11: "clean", 1: "first", 9: "first", 2: "one", 3: "one", 7: "two"}
        assert record.robust_accuracy == (COUNT - 7) / COUNT
        assert record.clean_accuracy == (COUNT - 2) / COUNT
        assert [attack.name for attack in record.attacks] == ["first"]

    def test_columns_alone_are_an_evaluation(self):
        record, _ = table()
        assert record.attacks == ()
        assert record.robust_accuracy == (COUNT - 6) / COUNT  # clean 4, 11; one 1, 2, 3; two 7
        images, labels = numbered(COUNT, WRONG)
        with pytest.raises(InputError, match="at least one attack within linf 1"):
            judged(Switch(), images, labels, [], columns=[("norm", Planted(L2, "far"))])

    def test_names_are_unique_over_attacks_and_columns(self):
        with pytest.raises(InputError, match="different names"):
            table([Planted(name="two")])
        with pytest.raises(InputError, match="none 'clean'"):
            table([Planted(name="clean")])

    def test_each_column_stays_in_its_own_threat_model(self):
        images, labels = numbered(COUNT, WRONG)
        narrow = ThreatModel("l2", 0.5)
        column = ("norm", Planted(narrow, "far", frozenset({3})))
        with pytest.raises(
            InputError, match="attack 'far': got '1 images outside its threat model, the farthest at 1'"
        ):
            judged(Switch(), images, labels, [Planted()], columns=[column])

    def test_a_journal_knows_the_columns(self):
        journal = Rows()
        record, columns = table(journal=journal)
        again, repeated = table(journal=journal)
        assert again.columns == record.columns
        assert again.outcomes == record.outcomes
        assert [column.given for column in repeated] == [[]] * len(columns)


@pytest.fixture(scope="module")
def exact():
    """A network in double precision, images, and what it says of them."""
    model, images = tiny_net().double(), ToySource(count=40).images.double()
    with torch.no_grad():
        return model, images, model(images).argmax(1)


class TestInTurn:
    members = (
        PGD(THREAT, steps=2),
        APGD(THREAT, steps=3, loss=margin),
        Square(THREAT, queries=20),
    )

    def test_equals_the_members_by_hand(self, exact):
        model, images, labels = exact
        streams = Streams(3, torch.arange(40) + 7)
        found = InTurn(self.members, "all")(model, images, labels, streams)
        expected, by = images.clone(), []
        for member in self.members:
            left = (model(expected).argmax(1) == labels).nonzero().squeeze(1)
            expected[left] = member(model, images[left], labels[left], streams[left].fold(member.name))
            by.append(int((model(expected).argmax(1) != labels).sum()))
        assert torch.equal(found, expected)
        assert 0 < by[0] < by[-1] < 40

    def test_breaks_what_its_members_break_one_after_the_other(self, exact):
        model, images, labels = exact
        whole = judged(model, images, labels, [InTurn(self.members, "all")], THREAT)
        parts = judged(model, images, labels, list(self.members), THREAT)
        assert whole.attacks[0].survivors <= parts.attacks[0].survivors
        assert abs(whole.robust_accuracy - parts.robust_accuracy) <= 0.1  # other random numbers

    def test_context_and_judge_reach_the_members(self, exact):
        model, images, labels = exact
        seen = []

        @dataclass(frozen=True)
        class Member(Planted):
            def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
                seen.append((len(images), context["mark"].tolist(), judge))
                found = images.clone()
                found[:2] += 0.01
                return THREAT.project(found, images)

        judge = nn.Identity()
        made = InTurn((Member(THREAT, "a"), Member(THREAT, "b")), "both")
        made(model, images[:5], labels[:5], context={"mark": torch.arange(5)}, judge=judge)
        assert seen == [(5, [0, 1, 2, 3, 4], judge), (3, [2, 3, 4], judge)]

    def test_settings_and_bad_members(self):
        made = InTurn(self.members, "all")
        assert list(made.settings()["members"]) == [member.name for member in self.members]
        moved = made.at(L2)
        assert {member.threat for member in moved.members} == {moved.threat} == {L2}
        for members in ((), (PGD(THREAT), PGD(L2, name="other")), (PGD(THREAT), PGD(THREAT))):
            with pytest.raises(InputError, match="members"):
                InTurn(members, "bad")

    def test_nothing_in_nothing_out(self, exact):
        model, images, labels = exact
        assert InTurn(self.members, "all")(model, images[:0], labels[:0]).shape == images[:0].shape
        still = InTurn(self.members, "all").at(THREAT.with_eps(0))
        assert torch.equal(still(model, images, labels), images)


@pytest.mark.parametrize("name", ["cafe-paper", "causaladv-paper", "ciiv-paper"])
def test_papers_suites_run_on_a_tiny_net(name):
    """Every column with what makes it expensive cut down; at a radius where most images fall at once."""
    threat = ThreatModel("linf", 0.2)
    source, model = ToySource(count=6), tiny_net()
    with torch.no_grad():
        labels = model(source.images).argmax(1)
    made = suite(name, Setting(threat=threat, classes=4, rows=6))
    cheap = [(column.group, fewer(column.attack)) for column in made.columns]
    record = judged(model, source.images, labels, list(made.attacks), threat, columns=cheap, suite=name, gallery=0)
    assert [c.name for c in record.columns] == [*(column.attack.name for column in made.columns), "all of them"]
    assert record.columns[-1].accuracy == min(c.accuracy for c in record.columns)
    assert record.robust_accuracy < record.clean_accuracy == 1


def fewer(attack):
    """The same attack with a smaller budget."""
    if isinstance(attack, InTurn):
        return replace(attack, members=tuple(fewer(member) for member in attack.members))
    if hasattr(attack, "attack"):
        return replace(attack, attack=fewer(attack.attack))
    small = {"steps": 4, "queries": 20, "binary_steps": 2, "tries": 3, "search_steps": 2}
    known = {key: min(value, getattr(attack, key)) for key, value in small.items() if hasattr(attack, key)}
    return replace(attack, **known, name=attack.name)


@dataclass(frozen=True)
class Spy:
    """An attack that remembers what it climbed, who judged and what it found."""

    inner: PGD
    name: str = "spy"
    seen: list = field(default_factory=list, compare=False)

    @property
    def threat(self):
        return self.inner.threat

    def settings(self):
        return self.inner.settings()

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        found = self.inner(model, images, labels, streams, context, judge=judge)
        self.seen.append((model, judge, images, found, labels))
        return found


@pytest.fixture(scope="module")
def examples():
    """A network with running statistics of its images, and what it says of them."""
    model = tiny_net(norm=True)
    images = ToySource(count=64).images
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(images)
    model.eval()
    with torch.no_grad():
        return model, images, model(images).argmax(1)


class TestSurrogate:
    @pytest.mark.parametrize("precision", ["32", "bf16"])
    def test_the_double_is_climbed_and_the_model_judges(self, examples, precision):
        model, images, labels = examples
        made = fast_surrogate(model, images, labels, precision=precision)
        assert made.classifier is not model
        spy = Spy(PGD(THREAT, steps=5))
        record = judged(model, images, labels, [spy], THREAT, surrogate=made.classifier, batch_size=32)
        fallen = []
        for climbed, judge, clean, found, truth in spy.seen:
            assert climbed is made.classifier
            assert judge is model
            changed = (found != clean).flatten(1).any(dim=1)
            with torch.no_grad():
                assert (model(found).argmax(1) != truth)[changed].all()
            fallen += changed.tolist()
        assert 0 < sum(fallen) < 64
        assert [outcome.broken_by == "spy" for outcome in record.outcomes] == fallen
        assert record.attacks[0].backwards >= 64
        assert not model._forward_hooks
        assert not made.classifier._forward_hooks

    def test_a_double_that_lies_breaks_nothing(self, examples):
        model, images, labels = examples

        class Liar(nn.Module):
            def forward(self, images):
                return torch.eye(4)[torch.zeros(len(images), dtype=torch.int64)] + 0 * images.sum()

        tiny = THREAT.with_eps(1e-7)
        record = judged(model, images, labels, [PGD(tiny, steps=2)], tiny, surrogate=Liar())
        assert record.robust_accuracy == record.clean_accuracy == 1

    @pytest.mark.parametrize("classes", [3, 5])
    def test_other_classes_are_one_clear_error(self, examples, classes):
        model, images, labels = examples
        other, journal = tiny_net(classes=classes), Rows()
        call = {"journal": journal, "threat": THREAT}
        with pytest.raises(InputError) as caught:
            judged(model, images, labels, [PGD(THREAT)], surrogate=other, **call)
        expected = f"surrogate: got '{classes} classes'; expected the 4 classes of the model that judges"
        assert str(caught.value) == expected
        probes = Probes(single_step=PGD, iterative=PGD, transfer=(tiny_net(), other))
        with pytest.raises(InputError, match=f"^transfer source 2: got '{classes} classes'"):
            judged(model, images, labels, [PGD(THREAT)], probes=probes, **call)
        assert journal.rows == []

    def test_a_source_of_other_images_is_one_clear_error(self, examples):
        model, images, labels = examples
        probes = Probes(single_step=PGD, iterative=PGD, transfer=(tiny_net(size=9),))
        with pytest.raises(InputError, match=r"^transfer source 1: got 'Sequential'; expected a classifier of"):
            judged(model, images, labels, [PGD(THREAT)], THREAT, probes=probes)

    def test_a_journal_of_another_surrogate_is_refused(self, examples):
        from judged import ORIGIN

        model, images, labels = examples
        journal = Rows()
        judged(model, images, labels, [PGD(THREAT, steps=1)], THREAT, journal=journal)
        other = replace(ORIGIN, surrogate="bfloat16")
        with pytest.raises(InputError, match=r"^journal: surrogate: got 'the model itself'; expected 'bfloat16'"):
            judged(model, images, labels, [PGD(THREAT, steps=1)], THREAT, journal=journal, provenance=other)


class Returning(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.net, self.make = tiny_net(), make

    def forward(self, images):
        return self.make(self.net(images))


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda z: (z, z), "output tuple"),
        (lambda z: {"logits": z}, "output dict"),
        (lambda z: z[..., None], "output (20, 4, 1)"),
        (lambda z: z[:, 0], "output (20,)"),
        (lambda z: z.sum(), "output ()"),
        (lambda z: z[:-1], "output (19, 4)"),
        (lambda z: torch.cat([z, z]), "output (40, 4)"),
        (lambda z: z[:, :1], "output (20, 1)"),
        (lambda z: None, "output NoneType"),
    ],
)
def test_a_model_that_returns_no_logits_is_one_line(make, shown):
    source = ToySource(count=20)
    with pytest.raises(InputError) as caught:
        judged(Returning(make), source.images, source.labels, [PGD(THREAT)], THREAT)
    assert str(caught.value) == f"model: got {shown!r}; expected logits of shape (20, K) with K of at least 2"


def test_labels_are_checked_in_every_batch():
    source = ToySource(count=20)
    source.labels[17] = 4
    with pytest.raises(InputError, match=r"labels: got 4; expected labels within 0\.\.3 for 4 classes"):
        judged(tiny_net(), source, None, [PGD(THREAT)], THREAT, batch_size=5)


@pytest.mark.parametrize("name", ["apgd-t", "fab-t"])
def test_a_targeted_attack_on_the_true_label_is_refused(name):
    source, attack = ToySource(count=4), make(name, THREAT, steps=2)
    model = tiny_net()
    with torch.no_grad():
        labels = model(source.images).argmax(1)
    target = (labels + 1) % 4
    target[2] = labels[2]
    with pytest.raises(
        InputError, match=r"context\['target'\]: got 'class \d for an image of that class'; expected"
    ) as e:
        attack(model, source.images, labels, context={"target": target})
    assert "\n" not in str(e.value)
