"""Disentanglement against robustness: table, CSV, drawing and the part of the page."""

from __future__ import annotations

import csv
import json
import math
from xml.etree import ElementTree

from analysis_records import make_checkpoints
from deconfound.records import CheckpointsRecord, RankCorrelation
from deconfound.reporting import analysis_files, render
from pages import Page, printed_analysis


def test_the_page_shows_epochs_and_rank_correlations(evaluations):
    html = render(evaluations[:1], analyses=[make_checkpoints(model="<b>x</b>")])
    assert Page(html).open == []
    assert "<b>x</b>" not in html
    assert "Disentanglement and robustness: " in html
    for words in ("Spearman -1, p 0.333 (exact)", "mean correlation and accuracy under the attack: no rank correlation",
                  "exact basis, 3 epochs"):  # fmt: skip
        assert words in html.replace("\xa0", " ")


def test_table_and_files_are_the_record():
    record = make_checkpoints()
    text = printed_analysis(record)
    for words in ("largest correlation", "60.0 %", "0.15", "Spearman -1", "Note: a note"):
        assert words in text
    files = analysis_files(record)
    assert set(files) == {"checkpoints.csv", "checkpoints.svg"}
    assert ElementTree.fromstring(files["checkpoints.svg"]).tag.endswith("svg")
    rows = list(csv.DictReader(files["checkpoints.csv"].decode().splitlines()))
    assert [(row["epoch"], float(row["adversarial"])) for row in rows] == [("1", 0.3), ("2", 0.4), ("4", 0.6)]
    assert [float(row["mean_correlation"]) for row in rows] == [point.held_out.mean for point in record.points]
    assert [(row["canonical_mean_square"], row["content_recovered"]) for row in rows] == [("0.4", "0.3")] * 3
    assert CheckpointsRecord.from_json(record.to_json()).points == record.points


def test_what_chance_would_leave_stands_beside_and_is_told():
    some, all_of_them = (
        RankCorrelation(measure=name, rho=rho, p_value=rho, exact=True, within_chance=within)
        for name, rho, within in (("largest correlation", 0.5, 1), ("mean correlation", math.nan, 3))
    )
    text = " ".join(printed_analysis(make_checkpoints(correlations=(some, all_of_them))).split())
    for words in ("0.30 (0.41)", "0.40 (0.42)", "Spearman 0.5, p 0.500 (exact); 1 epoch within chance, as the lowest",
                  "no rank correlation, 3 epochs within chance and none to order"):  # fmt: skip
        assert words in text, words
    (row, *_) = csv.DictReader(analysis_files(make_checkpoints())["checkpoints.csv"].decode().splitlines())
    assert (row["chance_largest"], row["chance_canonical_mean_square"]) == ("0.41", "0.42")


def test_a_record_from_before_canonical_correlations_is_shown():
    kept = json.loads(make_checkpoints().to_json())
    for point in kept["points"]:
        del (
            point["chance"],
            point["recovered"],
            point["held_out"]["canonical_largest"],
            point["held_out"]["canonical_mean_square"],
        )
    for one in kept["correlations"]:
        del one["within_chance"]
    record = CheckpointsRecord.from_json(json.dumps(kept))
    assert "n/a" in printed_analysis(record)
    assert ",," in analysis_files(record)["checkpoints.csv"].decode()
