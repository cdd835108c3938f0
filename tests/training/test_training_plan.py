"""Which examples form which batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deconfound.errors import InputError
from deconfound.objectives import Standard
from deconfound.training import AveragingSettings, LoopSettings, SelectionSettings, fit
from deconfound.training.checks import check_averaging, check_batches
from deconfound.training.plan import epoch_plan, steps_per_epoch
from toys import Game, ToySource, tiny_net

sizes = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(0, 60), st.integers(0, 2**62), st.integers(0, 999))


@given(sizes)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_shares_are_disjoint_and_their_union_is_the_global_batch(case):
    world, share, extra, seed, epoch = case
    batch_size = world * share
    count = batch_size + extra
    whole = epoch_plan(count, batch_size, seed, epoch)
    parts = [epoch_plan(count, batch_size, seed, epoch, rank=rank, world=world) for rank in range(world)]
    assert len(whole) == steps_per_epoch(count, batch_size) == count // batch_size
    assert all(len(part) == len(whole) for part in parts)
    for step, batch in enumerate(whole):
        assert [len(part[step]) for part in parts] == [share] * world
        assert torch.equal(torch.cat([part[step] for part in parts]), batch)
    seen = torch.cat(whole).tolist()
    assert len(set(seen)) == len(seen) == len(whole) * batch_size  # nothing twice in an epoch
    assert min(seen) >= 0
    assert max(seen) < count


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def flat(seed, epoch, **where):
        return torch.cat(epoch_plan(100, 10, seed, epoch, **where)).tolist()

    torch.manual_seed(1)
    first = flat(0, 0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert flat(0, 0) == first
    assert torch.equal(torch.get_rng_state(), state)
    others = [flat(0, 1), flat(1, 0), flat(1, 1), flat(10, 0), flat(0, 10)]
    assert all(sorted(other) == sorted(first) for other in others)
    assert len({tuple(order) for order in [first, *others]}) == 6


def test_what_is_left_over_differs_between_epochs():
    left = [set(range(25)) - set(torch.cat(epoch_plan(25, 10, 3, epoch)).tolist()) for epoch in range(40)]
    assert all(len(rest) == 5 for rest in left)
    assert set.union(*left) == set(range(25))  # each is left out at times: missed by chance with 25 (4/5)^40 = 0.3 %


def test_every_position_is_taken_equally_often_in_the_first_batch():
    counts = torch.zeros(20)
    for epoch in range(2000):
        counts[epoch_plan(20, 5, 7, epoch)[0]] += 1
    # 500 expected, deviation sqrt(2000 / 4 * 3 / 4) = 19.4; 5 sigma over 20 positions: 10^-5
    assert float((counts - 500).abs().max()) < 5 * 19.4


def test_a_set_smaller_than_a_batch_is_one_batch():
    assert steps_per_epoch(3, 10) == 1
    (batch,) = epoch_plan(3, 10, 0, 0)
    assert sorted(batch.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(("batch_size", "world"), [(15, 2), (10, 4), (1, 2)])
def test_a_batch_that_the_processes_cannot_share_is_refused(batch_size, world):
    rule = rf"^batch_size: got {batch_size}; expected a multiple of the number of processes, {world}$"
    with pytest.raises(InputError, match=rule):
        epoch_plan(100, batch_size, 0, 0, rank=0, world=world)


@pytest.mark.parametrize(("count", "batch_size", "world"), [(64, 1, 1), (64, 2, 2), (1, 16, 1), (2, 16, 2)])
def test_a_single_image_is_no_batch_to_normalise_over(count, batch_size, world):
    normed = {"model": tiny_net(), "h": tiny_net(norm=True)}
    field, got = ("batch_size", batch_size) if batch_size <= count else ("data", f"'{count} training images'")
    rule = f"at least {2 * world}, two images for each process, because BatchNorm in h normalises over them"
    with pytest.raises(InputError, match=f"^{field}: got {got}; expected {rule}$"):
        check_batches(normed, count, batch_size, world)
    check_batches(normed, 64, 2 * world, world)
    check_batches({"model": tiny_net()}, count, batch_size, world)
    frozen = {"model": tiny_net(), "causal": tiny_net(norm=True).requires_grad_(False)}
    check_batches(frozen, count, batch_size, world)  # in eval mode


def test_the_loop_refuses_before_it_moves_anything():
    settings = LoopSettings(epochs=1, batch_size=1, lr=0.1, selection=SelectionSettings(keep="last"))
    model = tiny_net(norm=True)
    with pytest.raises(InputError, match=r"^batch_size: got 1; expected at least 2"):
        fit(Standard(model), ToySource(4), settings)
    assert model[1].num_batches_tracked == 0
    assert fit(Standard(tiny_net()), ToySource(4), settings).epochs_run == 1


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_averaging_of_anything_but_the_model_alone_is_refused(name):
    """Of AMR-GMM the frozen network would be averaged, of a game one side."""
    averaging, frozen = AveragingSettings(name=name), tiny_net().requires_grad_(False)
    for players, trained in [
        ({"model": frozen, "h": tiny_net(), "g": tiny_net()}, "h, g"),
        ({"model": tiny_net(), "style": tiny_net()}, "model, style"),
        ({"model": frozen}, "nothing"),
    ]:
        rule = f"none, because the model alone is averaged, and what is trained here is {trained}"
        with pytest.raises(InputError, match=f"^averaging.name: got '{name}'; expected {rule}$"):
            check_averaging(averaging, players)
        check_averaging(AveragingSettings(), players)
    check_averaging(averaging, {"model": tiny_net(), "causal": frozen})
    settings = LoopSettings(
        epochs=1, batch_size=4, lr=0.1, averaging=averaging, selection=SelectionSettings(keep="last")
    )
    with pytest.raises(InputError, match=r"^averaging\.name: .* is model, critic$"):
        fit(Game(tiny_net(), tiny_net()), ToySource(8), settings)
