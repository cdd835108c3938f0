"""A surrogate is climbed, a judge decides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconfound.attacks import PGD
from deconfound.attacks.judging import ArgmaxJudge, Recorder, as_judge, errs
from deconfound.attacks.losses import margin
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 16, 3)).double()


def batch(count=40):
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


class Watched:
    """A judge that remembers how many images it was asked about."""

    def __init__(self, model):
        self.model, self.sizes = model, []

    def __call__(self, images, labels, streams):
        assert len(images) == len(labels) == len(streams)
        self.sizes.append(len(images))
        return self.model(images).argmax(1) != labels


def test_a_model_is_judged_by_its_largest_logit_and_a_judge_passes_through():
    model = net(0)
    assert isinstance(as_judge(model), ArgmaxJudge)
    assert isinstance(as_judge(lambda images: images), ArgmaxJudge)
    judge = Watched(model)
    assert as_judge(judge) is judge
    images = batch(8)
    labels = model(images).argmax(1)
    labels[3] = (labels[3] + 1) % 3
    assert as_judge(model)(images, labels, Streams(0, range(8))).tolist() == [i == 3 for i in range(8)]


def test_nan_is_wrong_even_where_its_place_is_the_label():
    logits = torch.tensor([[torch.nan, 1.0], [2.0, 1.0], [torch.inf, 0.0]])
    assert errs(logits, torch.zeros(3, dtype=torch.int64)).tolist() == [True, False, False]


def test_recorder_answers_for_the_very_tensor_only():
    calls = []

    class Spy(nn.Module):
        def forward(self, images):
            calls.append(len(images))
            return images.flatten(1)

    spy, images = Spy(), batch(4)
    recorder = Recorder(spy)
    with recorder.listening() as model:
        assert model is spy
        first = model(images)
        streams = Streams(0, range(4))
        assert torch.equal(recorder.logits(images, streams), first)
        assert torch.equal(recorder.logits(images.detach(), streams), first)
        assert calls == [4]
        recorder.logits(images.clone(), streams)
        assert calls == [4, 4]
        model(images)
        images.mul_(0.5)
        recorder.logits(images, streams)
        assert calls == [4, 4, 4, 4]
    assert not spy._forward_hooks


def test_judge_that_is_the_surrogate_costs_no_forward():
    model, images = net(0), batch()
    labels = model(images).argmax(1)
    calls = []
    model.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    attack = PGD(ThreatModel("linf", 0.02), steps=5, restarts=2)
    plain = attack(model, images, labels)
    expected = list(calls)
    assert len(expected) == 1 + 2 * 6
    for same in (model, ArgmaxJudge(model)):
        calls.clear()
        assert torch.equal(attack(model, images, labels, judge=same), plain)
        assert calls == expected


def test_a_judge_of_its_own_decides():
    surrogate, judged, images = net(1), net(1), batch()
    with torch.no_grad():
        surrogate[3].weight += 0.05 * torch.randn(3, 96, dtype=torch.float64)
    labels = judged(images).argmax(1)
    labels[:5] = (labels[:5] + 1) % 3
    judge = Watched(judged)
    found = PGD(ThreatModel("linf", 0.25), steps=10)(surrogate, images, labels, judge=judge)
    changed = (found != images).flatten(1).any(1)
    with torch.no_grad():
        wrong = judged(found).argmax(1) != labels
    assert not changed[:5].any()
    assert torch.equal(changed[5:], wrong[5:])
    assert changed.any()
    assert (~wrong).any()


def test_a_judge_of_its_own_is_asked_first_about_all_then_about_the_fallen_then_about_the_rest():
    model, images = net(0), batch()
    labels = model(images).argmax(1)
    judge = Watched(net(0))
    attack = PGD(ThreatModel("linf", 0.02), steps=5)
    found = attack(model, images, labels, judge=judge)
    assert torch.equal(found, attack(model, images, labels))
    broken = int((found != images).flatten(1).any(1).sum())
    assert 0 < broken < 40
    assert judge.sizes[0] == 40
    assert sum(judge.sizes[1:]) <= 40 + broken
    assert len(judge.sizes) <= 1 + 5 + 1


def test_a_surrogate_that_never_falls_cannot_hide_what_the_judge_sees_at_the_end():
    judged, images = net(1), batch()
    labels = torch.ones(40, dtype=torch.int64)
    with torch.no_grad():
        judged[3].bias[1] += 0.05 - margin(judged, images, labels, {}).median().neg()

    def complacent(x):
        """The judge's gradient, with a lead for the label that nothing takes away."""
        return judged(x) + torch.tensor([0.0, 1e3, 0.0], dtype=torch.float64)

    judge = Watched(judged)
    attack = PGD(ThreatModel("linf", 0.05), steps=10, loss=margin)
    found = attack(complacent, images, labels, judge=judge)
    with torch.no_grad():
        right = judged(images).argmax(1) == 1
        fell = right & (judged(found).argmax(1) != 1)
    assert judge.sizes == [40, int(right.sum())]
    assert fell.any()
    assert torch.equal((found != images).flatten(1).any(1), fell)


def test_a_judging_network_is_in_eval_mode_and_left_as_found():
    modes = []

    class Judging(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net(1)

        def forward(self, images):
            modes.append(self.training)
            return self.inner(images)

    judging, images = Judging().train(), batch(6)
    PGD(ThreatModel("linf", 0.02), steps=2)(net(0), images, torch.zeros(6, dtype=torch.int64), judge=judging)
    assert modes
    assert not any(modes)
    assert judging.training
    assert all(p.requires_grad and p.grad is None for p in judging.parameters())


@pytest.mark.parametrize("judged", [True, False])
def test_a_judge_that_says_all_is_wrong_or_right(judged):
    images = batch(6)
    found = PGD(ThreatModel("linf", 0.02), steps=2)(
        net(0),
        images,
        torch.zeros(6, dtype=torch.int64),
        judge=lambda images, labels, streams: torch.full((len(labels),), judged),
    )
    assert torch.equal(found, images)
