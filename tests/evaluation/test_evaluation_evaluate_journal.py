"""An evaluation goes on from its journal, and from no other call's."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

from deconfound.errors import InputError
from deconfound.evaluation import Probes
from deconfound.evaluation.judging import evaluate
from linear_case import ORIGIN, THREAT, Ascent, examples, run, untimed


class Memory:
    """A journal that forgets everything that JSON cannot hold."""

    def __init__(self):
        self.lines = []

    def append(self, entry):
        self.lines.append(json.dumps(entry))

    def entries(self):
        return [json.loads(line) for line in self.lines]


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
