"""Figures: deterministic, free of global state, safe beside each other, honest about unreliable results."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from deconfound.errors import InputError
from deconfound.reporting.column_figure import columns_figure
from deconfound.reporting.figures import (
    MARKERS,
    curve_figure,
    history_keys,
    png,
    survivors_figure,
    svg,
    training_figure,
)
from deconfound.reporting.inline_svg import INK, MUTED, SERIES


def texts(source: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(source).iter("{http://www.w3.org/2000/svg}text")]


def settings() -> dict[str, object]:
    # Reading the backend would choose one, and import pyplot for it.
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def test_same_records_give_the_same_text_and_no_date(evaluations):
    first, second = svg(curve_figure(evaluations), "a"), svg(curve_figure(evaluations), "a")
    assert first == second
    assert "date" not in first.lower()
    assert "matplotlib" not in first.lower()
    assert png(survivors_figure(evaluations[0])) == png(survivors_figure(evaluations[0]))


def test_drawing_twice_changes_nothing(evaluations, trainings):
    for figure in (curve_figure(evaluations), survivors_figure(evaluations[1]), training_figure(trainings[0])):
        first = svg(figure)
        png(figure)
        assert svg(figure) == first


def test_global_state_is_left_alone_and_does_not_matter(evaluations):
    plain = svg(curve_figure(evaluations))
    with matplotlib.rc_context({"font.size": 31, "svg.hashsalt": "other", "axes.grid": False}):
        before = settings()
        assert svg(curve_figure(evaluations)) == plain
        assert settings() == before


def test_pyplot_is_never_imported():
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]; from conftest import make_evaluation;"
        "from deconfound.reporting import curve_figure, png, svg; figure = curve_figure([make_evaluation()]);"
        "svg(figure); png(figure); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(Path(__file__).parent), *sys.path], check=True)


def test_ids_begin_with_the_prefix_and_every_reference_resolves(evaluations):
    for source in (svg(curve_figure(evaluations), "one", "T", "D"), svg(survivors_figure(evaluations[0]), "one")):
        ids = re.findall(r'\bid="([^"]+)"', source)
        assert len(ids) == len(set(ids))
        assert all(name.startswith("one-") for name in ids)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', source)) <= set(ids)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source)


def test_every_colour_is_one_that_a_page_may_replace(evaluations, trainings, make):
    columns = columns_figure(make["unseen"]())
    for figure in (curve_figure(evaluations), survivors_figure(evaluations[0]), training_figure(trainings[0]), columns):
        bare = re.sub(r"var\(--[a-z0-9-]+, (#[0-9a-f]{6})\)", "", svg(figure))
        assert re.findall(r"#[0-9a-f]{6}\b|rgb", bare) == []


@pytest.mark.parametrize("colour", [INK, MUTED, *SERIES])
def test_colours_read_on_white_and_on_black(colour):
    def luminance(hexed: str) -> float:
        parts = [int(hexed[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    needed = {INK: 4.4, MUTED: 3.0}.get(colour, 2.0)
    assert 1.05 / (luminance(colour) + 0.05) >= needed
    assert (luminance(colour) + 0.05) / 0.05 >= needed


def test_lines_differ_by_marker_as_well_as_colour(evaluations):
    assert len(set(MARKERS)) == len(MARKERS) >= len(SERIES)
    legend = curve_figure(evaluations).legends[0]
    looks = [(line.get_color(), line.get_marker()) for line in legend.get_lines()]
    assert len({marker for _, marker in looks}) == len({colour for colour, _ in looks}) == len(evaluations)


def test_unreliable_results_are_dashed_hollow_and_named_so(evaluations):
    figure = curve_figure(evaluations)
    legend = figure.legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    lines = dict(zip(names, legend.get_lines(), strict=True))
    assert [name for name in names if "UNRELIABLE" in name] == ["small (ciiv) UNRELIABLE"]
    assert lines["small (ciiv) UNRELIABLE"].get_markerfacecolor() == "none"
    assert lines["small (ciiv) UNRELIABLE"].get_linestyle() != "-"
    assert lines["small (pgd-at)"].get_linestyle() == "-"


def test_the_curve_carries_the_points_and_the_interval_of_the_record(make):
    record = make["evaluation"]()
    axes = curve_figure([record]).axes[0]
    points, bar, verdict = axes.get_lines()
    assert points.get_xydata().tolist() == [[p.eps, p.accuracy] for p in record.curve]
    assert bar.get_xydata().tolist() == [[0.1, end] for end in record.robust_interval]
    assert verdict.get_xydata().tolist() == [[0.1, record.robust_accuracy]]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == max(p.interval[1] for p in record.curve)
    assert band[:, 1].min() == min(p.interval[0] for p in record.curve)


def test_survivor_bars_have_the_lengths_of_the_shares(make):
    record = make["evaluation"]()
    bars = survivors_figure(record).axes[0].containers[1]
    expected = [record.attacks[0].attacked, *(attack.survivors for attack in record.attacks)]
    assert [bar.get_width() for bar in bars] == pytest.approx([count / record.n for count in expected])
    written = texts(svg(survivors_figure(record)))
    assert {"266 of 360 (73.9 %)", "257 of 360 (71.4 %)", "apgd-ce-100", "square-5000"} <= set(written)


def test_bars_of_a_sample_are_pale_and_carry_no_share(make):
    figure = survivors_figure(make["fast"]())
    bars = figure.axes[0].containers[1]
    assert [bar.get_alpha() is None for bar in bars] == [True, True, True, False, False]
    written = texts(svg(figure))
    assert written.count("tried on 100 only") == 2
    assert "842 of 1000 (84.2 %)" in written


def test_columns_have_the_accuracies_and_intervals_of_the_record(make):
    record = make["unseen"]()
    axes = columns_figure(record).axes[0]
    bars, ticks, dots = (axes.get_lines()[k::3] for k in range(3))
    assert len(bars) == 1 + 2 + 10 + 2 + 1
    assert [bars[1].get_xdata()[k] for k in (0, 1)] == list(record.columns[0].interval)
    assert dots[0].get_xdata() == [record.robust_accuracy]
    shares = [column.accuracy for column in record.columns[2:7]]
    assert list(ticks[3].get_xdata()) == shares
    assert dots[3].get_xdata() == [pytest.approx(sum(shares) / 5)]
    assert {"seen, linf 0.1", "apgd-l2", "gaussian noise", "all unseen together"} <= set(texts(svg(axes.figure)))


def test_columns_of_an_unreliable_record_are_hollow_and_named_so(make):
    sound, doubtful = columns_figure(make["unseen"]()), columns_figure(make["unseen"](reasons=("masked",)))
    for figure, hollow in ((sound, False), (doubtful, True)):
        faces = {line.get_markerfacecolor() for line in figure.axes[0].get_lines()[2::3]}
        assert (faces == {"none"}) == hollow
        assert ("UNRELIABLE" in figure.axes[0].get_xlabel()) == hollow


def test_columns_of_a_paper_and_unknown_groups_are_drawn(make):
    odd = make["column"]("_odd$", "of my own", "l2 1", math.nan)
    figure = columns_figure(make["paper"](columns=(odd, *make["paper"]().columns)))
    assert {"_odd$", "robust, linf 0.1", "of my own"} <= set(texts(svg(figure)))
    with pytest.raises(InputError, match="an evaluation with columns"):
        columns_figure(make["evaluation"]())


def test_markup_mathematics_and_foreign_scripts_are_literal(make):
    name = "_$x_1$ <b>&模型"
    record = make["evaluation"](name, "", attacks=(make["evaluation"]().attacks[0].model_copy(update={"name": name}),))
    assert name in texts(svg(curve_figure([record])))
    assert name in texts(svg(survivors_figure(record)))


def test_png_is_transparent_and_holds_something(evaluations):
    pixels = np.asarray(Image.open(io.BytesIO(png(curve_figure(evaluations), dpi=60))))
    assert pixels.shape[2] == 4
    assert pixels[0, 0, 3] == 0
    assert pixels[..., 3].max() == 255


def test_what_cannot_be_drawn_is_an_input_error(make):
    record = make["evaluation"]
    with pytest.raises(InputError, match="at least one evaluation with a curve"):
        curve_figure([record(curve=())])
    with pytest.raises(InputError, match="one norm"):
        curve_figure([record(), record(norm="l2")])
    with pytest.raises(InputError, match="one norm"):
        curve_figure([])
    with pytest.raises(InputError, match="one name per record, 1"):
        curve_figure([record()], ["a", "b"])
    with pytest.raises(InputError, match="losses or accuracies"):
        training_figure(make["training"](history=()))


def test_histories_with_gaps_infinities_and_other_keys(make):
    history = ({"epoch": 1.0, "loss": math.nan, "lr": 0.1}, {"epoch": 2.0, "loss": 1.0, "clean_loss": math.inf})
    training = make["training"](history=history, selected_epoch=None)
    assert history_keys(training) == (["loss"], [])
    assert len(training_figure(training).axes) == 1
    svg(training_figure(training))


def test_odd_records_are_drawn_without_a_warning(make):
    nan = make["evaluation"](robust_accuracy=math.nan, robust_interval=(math.nan, math.nan))
    many = [make["evaluation"](f"model {i} " + "x" * 80) for i in range(12)]
    svg(curve_figure([nan, *many]))
    svg(survivors_figure(make["evaluation"](attacks=(), clean_accuracy=math.nan)))
