"""Parameter counts in closed form, derived from the papers' tables and not from the code."""

import pytest
import torch

from deconfound.models import build


def conv(inputs, outputs, kernel, bias=False):
    return kernel * kernel * inputs * outputs + bias * outputs


def norm(channels):
    return 2 * channels


def linear(inputs, outputs):
    return inputs * outputs + outputs


def basic(inputs, width, projects):
    body = conv(inputs, width, 3) + norm(width) + conv(width, width, 3) + norm(width)
    return body + projects * (conv(inputs, width, 1) + norm(width))


def bottleneck(inputs, width, projects):
    body = conv(inputs, width, 1) + norm(width) + conv(width, width, 3) + norm(width) + conv(width, 4 * width, 1)
    return body + norm(4 * width) + projects * (conv(inputs, 4 * width, 1) + norm(4 * width))


def preact_basic(inputs, width, projects):
    return (
        norm(inputs) + conv(inputs, width, 3) + norm(width) + conv(width, width, 3) + projects * conv(inputs, width, 1)
    )


def preact_bottleneck(inputs, width, projects):
    body = norm(inputs) + conv(inputs, width, 1) + norm(width) + conv(width, width, 3) + norm(width)
    return body + conv(width, 4 * width, 1) + projects * conv(inputs, 4 * width, 1)


def stages(block, expansion, stem, widths, blocks, option_a=False):
    total, reached = 0, stem
    for width, count in zip(widths, blocks, strict=True):
        for _ in range(count):
            total += block(reached, width, reached != expansion * width and not option_a)
            reached = expansion * width
    return total


def resnet(classes, channels, block, expansion, blocks, widths=(64, 128, 256, 512), option_a=False):
    stem = conv(channels, widths[0], 3) + norm(widths[0])
    body = stages(block, expansion, widths[0], widths, blocks, option_a)
    return stem + body + linear(expansion * widths[-1], classes)


def preact(classes, channels, block, expansion, blocks, final=True, widths=(64, 128, 256, 512)):
    body = stages(block, expansion, widths[0], widths, blocks)
    top = expansion * widths[-1]
    return conv(channels, widths[0], 3) + body + final * norm(top) + linear(top, classes)


def wrn(classes, channels, depth, widen):
    widths = [16 * widen, 32 * widen, 64 * widen]
    body = stages(preact_basic, 1, 16, widths, [(depth - 4) // 6] * 3)
    return conv(channels, 16, 3) + body + norm(widths[-1]) + linear(widths[-1], classes)


def vgg(classes, channels, plan):
    total, reached = 0, channels
    for width, count in zip((64, 128, 256, 512, 512), plan, strict=True):
        for _ in range(count):
            total += conv(reached, width, 3, bias=True) + norm(width)
            reached = width
    return total + linear(512, classes)


def counted(name, classes=10, channels=3, size=32, **options):
    with torch.device("meta"):
        model = build(name, classes=classes, channels=channels, size=size, **options)
    return sum(parameter.numel() for parameter in model.parameters())


# The figures are widely printed ones (pre-activation networks: with the paper's final norm); the formulas are separate.
KNOWN = {
    "resnet18": (11_173_962, resnet(10, 3, basic, 1, (2, 2, 2, 2))),
    "resnet34": (21_282_122, resnet(10, 3, basic, 1, (3, 4, 6, 3))),
    "resnet50": (23_520_842, resnet(10, 3, bottleneck, 4, (3, 4, 6, 3))),
    "resnet20": (269_722, resnet(10, 3, basic, 1, (3, 3, 3), (16, 32, 64), option_a=True)),
    "preact-resnet18": (11_172_170, preact(10, 3, preact_basic, 1, (2, 2, 2, 2))),
    "preact-resnet50": (23_513_162, preact(10, 3, preact_bottleneck, 4, (3, 4, 6, 3))),
    "wrn-28-10": (36_479_194, wrn(10, 3, 28, 10)),
    "wrn-34-10": (46_160_474, wrn(10, 3, 34, 10)),
    "vgg11": (9_231_114, vgg(10, 3, (1, 1, 2, 2, 2))),
    "vgg13": (9_416_010, vgg(10, 3, (2, 2, 2, 2, 2))),
    "vgg16": (14_728_266, vgg(10, 3, (2, 2, 3, 3, 3))),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_counts(name):
    figure, formula = KNOWN[name]
    assert counted(name) == formula == figure


def test_preact_resnet_without_the_final_norm_is_the_other_circulating_figure():
    assert counted("preact-resnet18", final_norm=False) == 11_171_146 == 11_172_170 - norm(512)
    assert counted("preact-resnet50", final_norm=False) == 23_509_066 == 23_513_162 - norm(2048)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("small", conv(1, 16, 4, True) + conv(16, 32, 4, True) + linear(1568, 100) + linear(100, 10)),
        ("lenet5", conv(1, 32, 3, True) + conv(32, 64, 3, True) + linear(3136, 200) + linear(200, 10)),
        (
            "smallcnn",
            conv(1, 32, 3, True)
            + conv(32, 32, 3, True)
            + conv(32, 64, 3, True)
            + conv(64, 64, 3, True)
            + linear(1024, 200)
            + linear(200, 200)
            + linear(200, 10),
        ),
    ],
)
def test_digit_networks(name, formula):
    assert counted(name, channels=1, size=28) == formula


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "preact-resnet18", "wrn-28-10", "vgg16"])
def test_size_does_not_change_the_count_of_pooled_networks(name):
    assert counted(name, size=16) == counted(name, size=(33, 40)) == KNOWN[name][0]


def test_without_last_bias_one_parameter_less_per_class():
    assert counted("resnet18", classes=100, bias=False) == counted("resnet18", classes=100) - 100


def test_width_is_the_width_of_the_first_stage():
    assert counted("resnet18", width=16) == resnet(10, 3, basic, 1, (2, 2, 2, 2), (16, 32, 64, 128))
    assert counted("wrn", depth=10, widen=2) == wrn(10, 3, 10, 2)
