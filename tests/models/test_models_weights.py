"""Loading a mapping of tensors: strict, all or nothing, in the spellings that checkpoints use."""

from functools import partial

import pytest
import torch
from torch import nn

from deconfound.errors import InputError
from deconfound.models import build, fit_state, split_model


def small():
    return build("small", classes=10, channels=1, size=28)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"module." + name: value for name, value in state.items()},
        lambda state: {"model": {"state_dict": {"model.module." + name: value for name, value in state.items()}}},
    ],
)
def test_nests_and_prefixes(wrap):
    source, target = small(), small()
    fit_state(target, wrap(source.state_dict()))
    assert same(snapshot(source), snapshot(target))


def test_whole_numbers_are_no_weights():
    target = small()
    before, state = snapshot(target), snapshot(small())
    state["conv1.weight"] = state["conv1.weight"].mul(100).to(torch.int8)
    with pytest.raises(InputError, match=r"1 not floating: conv1\.weight int8"):
        fit_state(target, state)
    assert same(snapshot(target), before)
    fit_state(target, {name: value.double() for name, value in before.items()})


def test_weights_of_a_network_with_a_max_pool_do_not_fit_one_without():
    """The names of torchvision's ResNets, whose stem of seven pixels has a max-pool behind it."""
    spelled = {"linear": "fc", "shortcut": "downsample"}
    make = partial(build, "resnet18", classes=3, channels=3, size=32, width=4)
    for stem, fits in ((3, True), (7, False)):
        model = make(stem=stem)
        named = {
            ".".join(spelled.get(part, part) for part in name.split(".")): value
            for name, value in model.state_dict().items()
        }
        if fits:
            fit_state(make(stem=stem), named)
        else:
            with pytest.raises(InputError, match="missing"):
                fit_state(make(stem=stem), named)


def test_positions_in_a_sequential_are_known():
    bare = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    model, images = small(), torch.rand(3, 1, 28, 28)
    fit_state(model, bare.state_dict())
    assert torch.equal(model(images), bare(images))


def test_names_of_released_wide_resnets_are_known():
    model = build("wrn", classes=10, channels=3, size=32, depth=10, widen=1)
    source = snapshot(build("wrn", classes=10, channels=3, size=32, depth=10, widen=1))

    def released(name):
        return name.replace(".0.shortcut.0.", ".layer.0.convShortcut.") if "shortcut" in name else layered(name)

    def layered(name):
        return name.replace(".0.", ".layer.0.", 1) if name.startswith("block") else name

    fit_state(model, {released(name): value for name, value in source.items()})
    assert same(snapshot(model), source)


def test_old_checkpoints_without_batch_counters():
    model = build("resnet20", classes=10, channels=3, size=32)
    model(torch.rand(2, 3, 32, 32))
    state = {name: value for name, value in snapshot(model).items() if not name.endswith("num_batches_tracked")}
    fit_state(model, state)
    assert int(model.bn1.num_batches_tracked) == 0


def test_a_wrapped_model_takes_bare_weights_and_its_own():
    inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    parts, source = split_model(inner), nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    fit_state(parts, source.state_dict())
    assert torch.equal(inner[1].weight, source[1].weight)
    fit_state(parts, split_model(source).state_dict())
    fit_state(source, parts.state_dict())


def test_half_precision_weights_are_cast():
    source, target = small().half(), small()
    fit_state(target, source.state_dict())
    assert target.conv1.weight.dtype == torch.float32
    assert torch.equal(target.conv1.weight, source.conv1.weight.float())


def broken(change):
    state = snapshot(small())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("linear2.bias"), "1 missing: linear2.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "1 unexpected: extra"),
        (lambda s: s.update({"linear2.bias": torch.ones(7)}), r"1 wrong shape: linear2.bias \(7,\) instead of \(10,\)"),
        (lambda s: [s.pop(n) for n in list(s)[:5]], "5 missing: conv1.weight, conv1.bias, conv2.weight and 2 more"),
    ],
)
def test_faults_are_listed_in_one_line_and_nothing_is_loaded(change, message):
    model = small()
    before = snapshot(model)
    with pytest.raises(InputError, match=message) as caught:
        fit_state(model, broken(change), "some.pt")
    assert str(caught.value).startswith("some.pt: ")
    assert "\n" not in str(caught.value)
    assert same(before, snapshot(model))


def test_all_kinds_of_fault_are_listed_together():
    other = build("small", classes=100, channels=1, size=32).state_dict()
    other["stray"] = torch.ones(1)
    with pytest.raises(InputError, match=r"unexpected: stray; 3 wrong shape: linear1.weight \(100, 2048\)"):
        fit_state(small(), other)


@pytest.mark.parametrize("state", [{}, [1, 2], {"epoch": 3}, {"state_dict": {"conv1.weight": 3}}, None, small])
def test_not_weights_at_all(state):
    with pytest.raises(InputError, match=r"^weights: .*a mapping of parameter names to tensors"):
        fit_state(small(), state)
