"""Instrument diagnostics as words, CSV, terminal tables, a drawing and a part of the page."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Group
from rich.text import Text

from deconfound.records import Effect, Estimate, InstrumentsRecord, Statistic
from deconfound.reporting.comparison import p_text
from deconfound.reporting.figures import MARKERS, house_style, settled, svg
from deconfound.reporting.inline_svg import MUTED, SERIES
from deconfound.reporting.plain import plain_table
from deconfound.reporting.style_rows import plain
from deconfound.reporting.text import analysis_labels, clean, count, listing, percent, settings_text, short, threat_text

ESTIMATORS = {"ols": "OLS", "tsls": "2SLS", "gmm": "GMM"}
WEAK = "WEAK"


def number(value: float) -> str:
    """Three significant digits.

    >>> number(0.123456), number(1234.5), number(float("nan"))
    ('0.123', '1.23e+03', 'nan')
    """
    return f"{value:.3g}"


def estimate_text(found: Estimate) -> tuple[str, str]:
    """A coefficient and its interval."""
    low, high = found.interval
    return number(found.value), f"[{number(low)}, {number(high)}]"


def f_text(value: float, *, weak: bool) -> str:
    """A first-stage F, and whether the instrument is weak by it.

    >>> f_text(4.2, weak=True), f_text(55.4, weak=False)
    ('4.2 WEAK', '55.4')
    """
    return f"{value:.1f} {WEAK}" if weak else f"{value:.1f}"


def setting(record: InstrumentsRecord) -> str:
    """What must be known to read the figures, on one line."""
    where = clean(record.layer) or "the network's own cut"
    return (
        f"{clean(record.data)}, {threat_text(record.threat)}, {clean(record.attack.name)}, {where}"
        f" ({count(record.dimension, 'feature')}), n = {record.n}, seed {record.seed}"
    )


def components_text(record: InstrumentsRecord) -> str:
    """How many components, and what they hold."""
    return (
        f"treatment: {count(len(record.first_stages), 'component')} of F_adv ({percent(record.treatment_share)} of its"
        f" variance); instrument: {record.instruments} of F_adv - F_nat ({percent(record.instrument_share)})"
    )


def findings(record: InstrumentsRecord) -> list[tuple[str, bool]]:
    """What the tests say, and whether it speaks against the instrument or against least squares."""
    weak = [clean(stage.name) for stage in record.first_stages if stage.weak]
    alone = f" (below 10 alone: {listing(weak)})" if weak else ""
    first = (
        f"The instrument is weak: joint first-stage F {record.joint_f:.1f}{alone}. Below 10, 2SLS and GMM are biased"
        " towards OLS and their intervals too short."
        if record.weak
        else f"The instrument is strong: every first-stage F is 10 or more, the joint one {record.joint_f:.1f}."
    )
    found = [(first, record.weak), _exogeneity(record), _validity(record)]
    return [*found, (_left_out(record), False)] if record.truncated else found


def _exogeneity(record: InstrumentsRecord) -> tuple[str, bool]:
    robust, plain_p = record.wooldridge is not None, f"Wu-Hausman p {p_text(record.wu_hausman.p_value)}"
    p = f"Wooldridge's score p {p_text(record.endogeneity.p_value)}, {plain_p}" if robust else plain_p
    if record.endogeneity.rejects and record.truncated:
        return (
            f"Exogeneity of the treatment is rejected ({p}): a confounder, or what the components leave out of the"
            " features, moves treatment and logit alike; OLS on these components is biased.",
            True,
        )
    if record.endogeneity.rejects:
        return f"The treatment is endogenous ({p}): something moves features and logit alike; OLS is biased.", True
    alone = " by the test that allows for heteroskedasticity" if robust and record.wu_hausman.rejects else ""
    return f"No sign that the treatment is endogenous{alone} ({p}).", False


def _validity(record: InstrumentsRecord) -> tuple[str, bool]:
    sargan, hansen = record.sargan, record.hansen
    p = f"Sargan p {p_text(sargan.p_value)}, Hansen J p {p_text(hansen.p_value)}"
    if sargan.rejects and hansen.rejects:
        said = (
            "the instruments move the logit past these components, through what is left out of the features or because"
            " not all instruments are valid"
            if record.truncated
            else "not all instruments are valid"
        )
        return f"Over-identification is rejected ({p}): {said}.", True
    if sargan.rejects or hansen.rejects:
        alone = "Hansen's test, which allows for heteroskedasticity," if hansen.rejects else "Sargan's test"
        doubt = "instruments, or what the components leave out," if record.truncated else "instruments"
        return f"Over-identification is rejected by {alone} alone ({p}): the {doubt} are in doubt.", True
    return f"Over-identification is not rejected ({p}), which does not prove that the instruments are valid.", False


def _left_out(record: InstrumentsRecord) -> str:
    """What the tests cannot tell from a confounder or a bad instrument."""
    said = "What the components leave out of the features is in the error and moves with the instrument, so that these"
    said += " tests may reject a perfect instrument"
    if record.components_r2 is None or record.features_r2 is None:
        return f"{said}; the record does not say how much of the logit that is."
    return (
        f"{said}: on images left out of the fit the components predict {percent(record.components_r2)} of the logit's"
        f" variance, all features {percent(record.features_r2)}."
    )


def tests(record: InstrumentsRecord) -> list[tuple[str, str, Statistic]]:
    """Name, null and result of each test."""
    score = record.wooldridge
    return [
        *([] if score is None else [("Wooldridge's score", "the treatments are exogenous", score)]),
        ("Wu-Hausman", "the same, errors of one variance", record.wu_hausman),
        ("Sargan", "all instruments are valid", record.sargan),
        ("Hansen J", "all instruments are valid", record.hansen),
    ]


def instruments_figure(record: InstrumentsRecord) -> Figure:
    """The effect of each treatment by the three estimators, with 95 % intervals and a line at 0."""
    rows = record.effects
    with house_style():
        figure = Figure(figsize=(5.2, 1.0 + 0.5 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=MUTED, linestyle=":", linewidth=1.4)
        for place, effect in enumerate(rows):
            for step, name in enumerate(ESTIMATORS):
                found: Estimate = getattr(effect, name)
                if all(map(math.isfinite, (found.value, *found.interval))):
                    height, colour = place + 0.22 * (step - 1), SERIES[step]
                    axes.plot(found.interval, [height] * 2, color=colour, linewidth=2.2)
                    axes.plot([found.value], [height], color=colour, marker=MARKERS[step], markersize=5)
        axes.set_yticks(range(len(rows)), [short(effect.name, 20) for effect in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("change of the true logit for one standard deviation")
        axes.grid(visible=False, axis="y")
        axes.tick_params(left=False)
        handles = [Line2D([], [], color=SERIES[step], marker=MARKERS[step]) for step in range(len(ESTIMATORS))]
        figure.legend(handles, list(ESTIMATORS.values()), loc="outside lower left", ncols=3)
        return settled(figure)


def instruments_csv(record: InstrumentsRecord) -> str:
    """One line for each treatment, full precision; the tests of all of them stand in each line."""
    lines = [_line(record, place, effect) for place, effect in enumerate(record.effects)]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _line(record: InstrumentsRecord, place: int, effect: Effect) -> dict[str, Any]:
    stage = record.first_stages[place]
    cells: dict[str, Any] = {"treatment": plain(effect.name), "first_stage_f": stage.f, "first_stage_p": stage.p_value}
    cells |= {"partial_r2": stage.partial_r2, "weak": int(stage.weak)}
    for name in ESTIMATORS:
        found: Estimate = getattr(effect, name)
        cells |= {name: found.value, f"{name}_low": found.interval[0], f"{name}_high": found.interval[1]}
    cells |= {"joint_f": record.joint_f, "joint_weak": int(record.weak)}
    cells |= {"components_r2": record.components_r2, "features_r2": record.features_r2}
    for key in ("wooldridge", "wu_hausman", "sargan", "hansen"):
        test: Statistic | None = getattr(record, key)
        cells |= {} if test is None else {key: test.statistic, f"{key}_p": test.p_value}
    about = {"model": record.model, "defence": record.defence, "data": record.data, "layer": record.layer}
    return cells | {key: plain(value) for key, value in about.items()} | {"n": record.n, "seed": record.seed}


def instruments_files(record: InstrumentsRecord) -> dict[str, bytes]:
    """The table as CSV, and the drawing."""
    name = analysis_labels([record])[0]
    figure = svg(instruments_figure(record), "instruments", f"Effects by three estimators, {name}")
    return {"instruments.csv": instruments_csv(record).encode(), "instruments.svg": figure.encode()}


def instruments_table(record: InstrumentsRecord) -> Group:
    """Relevance and effects of each treatment, the tests, and what they say."""
    table = plain_table(f"{analysis_labels([record])[0]}: {setting(record)}\n{components_text(record)}")
    for name in ("", "first-stage F", "partial R²", *ESTIMATORS.values()):
        table.add_column(name, justify="left" if not name else "right", overflow="fold")
    for stage, effect in zip(record.first_stages, record.effects, strict=True):
        cells = ["\n".join(estimate_text(getattr(effect, name))) for name in ESTIMATORS]
        first = (clean(stage.name), f_text(stage.f, weak=stage.weak), number(stage.partial_r2))
        table.add_row(*map(Text, (*first, *cells)), end_section=True)
    tested = plain_table("Tests")
    for name in ("test", "null", "statistic", "p"):
        tested.add_column(name, justify="right" if name in ("statistic", "p") else "left")
    for name, null, test in tests(record):
        shown = f"{number(test.statistic)} ~ {clean(test.distribution)}"
        tested.add_row(*map(Text, (name, null, shown, p_text(test.p_value))))
    said = [Text(f"{'! ' if against else ''}{sentence}") for sentence, against in findings(record)]
    return Group(table, tested, *said, *(Text(f"Note: {clean(note)}") for note in record.notes))


def instruments_view(prefix: str, name: str, record: InstrumentsRecord, budget: int) -> dict[str, Any]:
    """Setting, what the tests say, drawing and rows; there are no pictures, so the budget is not touched."""
    rows = [
        {
            "name": clean(stage.name),
            "f": f"{stage.f:.1f}",
            "weak": stage.weak,
            "partial": number(stage.partial_r2),
            "effects": [estimate_text(getattr(effect, estimator)) for estimator in ESTIMATORS],
        }
        for stage, effect in zip(record.first_stages, record.effects, strict=True)
    ]
    words = "; ".join(
        f"{clean(effect.name)}: "
        + ", ".join(f"{shown} {' '.join(estimate_text(getattr(effect, key)))}" for key, shown in ESTIMATORS.items())
        for effect in record.effects
    )
    return {
        "setting": setting(record),
        "components": components_text(record),
        "findings": findings(record),
        "joint": f_text(record.joint_f, weak=record.weak),
        "svg": Markup(svg(instruments_figure(record), f"{prefix}-effects", f"Effects, {name}", words)),
        "rows": rows,
        "estimators": list(ESTIMATORS.values()),
        "tests": [
            {
                "name": shown,
                "null": null,
                "statistic": number(test.statistic),
                "distribution": clean(test.distribution),
                "p": p_text(test.p_value),
            }
            for shown, null, test in tests(record)
        ],
        "attack": settings_text(record.attack.settings),
        "facts": [("Joint first-stage F", f_text(record.joint_f, weak=record.weak))],
    }


__all__ = [
    "findings",
    "instruments_csv",
    "instruments_figure",
    "instruments_files",
    "instruments_table",
    "instruments_view",
]
