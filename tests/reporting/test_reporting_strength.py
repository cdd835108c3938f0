"""What a number means: the audit, the suites, the judge; nothing is sold as AutoAttack that is not."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deconfound.records import AuditResult, EvaluationRecord
from deconfound.records.beyond import corruption
from deconfound.reporting import strength
from deconfound.reporting.columns import column_rows
from deconfound.reporting.page import render
from deconfound.reporting.summary import summarise
from deconfound.reporting.tables import evaluation_table, leaderboard_table

SAMPLED = (
    "FAB-T and Square on 100 of 842 survivors, none fell; with 95 % confidence they could have broken at most"
    " 0.3 points more"
)


def shown(table, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True, force_terminal=False).print(table)
    return stream.getvalue()


def flat(text: str) -> str:
    return " ".join(text.split())


def words(page: str) -> str:
    return flat(re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ").replace("&#39;", "'")


def test_a_sampled_audit_says_what_it_saw_and_what_it_may_have_missed(make):
    record = make["fast"]()
    assert strength.audit_text(record) == SAMPLED
    for out in (flat(shown(evaluation_table(record))), words(render([record])), summarise([record]).distrust[0]):
        assert SAMPLED in out
    assert "tried on 100 only, 842 stand" in shown(evaluation_table(record))
    assert not re.search(r"842 of 100\b", shown(evaluation_table(record), 200) + words(render([record])))
    assert "at most 0.3 points less" in flat(shown(leaderboard_table([record]), 200))


def test_what_was_nearest_is_told_apart_from_the_sample(make):
    record = make["fast"](survivors=838)
    audit = record.audit.model_copy(update={"survivors": 842, "nearest": 100, "nearest_fell": 4})
    attacks = tuple(
        attack.model_copy(update={"attacked": 842 if attack.name.startswith("fab") else 839})
        if attack.name in audit.attacks
        else attack
        for attack in record.attacks
    )
    record = record.model_copy(update={"audit": audit, "attacks": attacks})
    said = (
        "FAB-T and Square on the 100 of 842 survivors that were nearest to falling, 4 fell, and on 100 of the rest at"
        " random, none fell; with 95 % confidence they could have broken at most 0.3 points more"
    )
    assert strength.audit_text(record) == said
    assert strength.strength(record).startswith("not AutoAttack")
    for out in (flat(shown(evaluation_table(record))), words(render([record])), summarise([record]).distrust[0]):
        assert said in out
    assert "tried on 839 only, 838 stand" in shown(evaluation_table(record))
    assert "100 + 100 of 842" in flat(shown(leaderboard_table([record]), 200))


def test_complete_audits_say_so(make):
    assert strength.audit_text(make["fast"](55, 55)) == "FAB-T and Square on all 55 survivors, none fell"
    assert strength.audit_text(make["fast"](55, 55, 2)) == "FAB-T and Square on all 55 survivors, 2 fell"
    assert strength.audit_text(make["fast"](1, 1)) == "FAB-T and Square on the only survivor, none fell"
    assert strength.audit_text(make["fast"](0, 0)) == "FAB-T and Square had no survivor left to try"
    fell = "FAB-T and Square on 100 of 842 survivors, 3 fell; then on all of them, 20 fell"
    assert strength.audit_text(make["fast"](100, 842, 3, 17)) == fell
    other = make["fast"](55, 55, suite="my own")
    assert strength.audit_text(other) == "FAB-T and Square on all 55 survivors, none fell"


def test_the_audit_of_an_unreliable_record_says_why(make):
    assert strength.audit_text(make["fast"](reasons=("masked",))) == f"{SAMPLED} (UNRELIABLE: masked)"


@given(st.floats(0, 1))
def test_the_bound_is_never_rounded_below_itself(bound):
    audit = AuditResult(
        attacks=("fab-t-100x9", "square-5000"), survivors=842, sampled=100, fell=0, complete=False, bound=bound
    )
    # Only these parts of a record are looked at.
    record = EvaluationRecord.model_construct(attacks=(), audit=audit, suite="fast", verdict=_Reliable)
    points = float(re.search(r"at most ([\d.]+) points", strength.audit_text(record))[1])
    assert 100 * bound - 1e-6 <= points <= 100 * bound + 0.1 + 1e-6


class _Reliable:
    reliable = True


@pytest.mark.parametrize(
    ("suite", "part"),
    [
        ("quick", "a first look, not AutoAttack"),
        ("standard", "AutoAttack's attacks and budgets"),
        ("plus", "AutoAttack's plus version"),
        ("rand", "expectations over draws"),
        ("adaptive", "the attacks that the defence declares"),
        ("unseen", "APGD alone under the seen threat model: an upper bound"),
        ("ciiv-paper", "not a verdict"),
        ("my own", "upper bound"),
    ],
)
def test_every_suite_is_described(make, suite, part):
    record = make["evaluation"](suite=suite)
    assert part in strength.strength(record)
    assert part in flat(shown(evaluation_table(record)))
    assert part in words(render([record]))


def test_only_what_ran_all_of_autoattack_is_called_so(make):
    claim = "AutoAttack's attacks and budgets"
    record = make["evaluation"]()
    assert strength.strength(record).startswith(claim)
    assert strength.cautions(record) == []
    assert strength.strength(make["fast"](55, 55)).startswith(claim)
    assert strength.strength(make["fast"](100, 842, 3, 17)).startswith(claim)
    cheaper = tuple(a.model_copy(update={"name": a.name.replace("5000", "500")}) for a in record.attacks)
    for weaker in (
        make["fast"](), make["fast"](audit=None, attacks=make["fast"]().attacks[:2]),
        make["evaluation"](attacks=record.attacks[:3]), make["evaluation"](attacks=cheaper),
        make["evaluation"](attacks=record.attacks[::-1]), make["evaluation"](suite="my own"),
    ):  # fmt: skip
        assert claim not in strength.strength(weaker)
        assert claim not in flat(shown(evaluation_table(weaker)))


def test_few_classes_are_named_in_the_claim(make):
    attacks = [a.model_copy(update={"name": a.name.replace("t-100", "t-margin-100", 1)}) for a in
               make["evaluation"]().attacks[1:2]]  # fmt: skip
    every = make["evaluation"]().attacks
    record = make["evaluation"](attacks=(every[0], *attacks, *every[2:]))
    assert "the margin in place of the targeted DLR loss" in strength.strength(record)


def test_the_summary_warns_for_each_suite(make):
    record = make["evaluation"]
    doubts = "\n".join(
        summarise(
            [record(defence="1", suite="quick"), record(defence="2", suite="x", attacks=record().attacks[:1]),
             make["unseen"](defence="3"), make["paper"](defence="4"), record(defence="5", suite="rand", budget="demo"),
             make["fast"](defence="6")]
        ).distrust
    )  # fmt: skip
    for part in (
        "Suite quick on small (1): a first look, not AutoAttack; the robust accuracy is an upper bound",
        "A single attack was run on small (2): the robust accuracy is an upper bound",
        "Suite unseen on small (3): APGD alone under the seen threat model; the robust",
        "Suite cafe-paper on small (4): the columns of a paper's table",
        "Budget demo, suite rand on small (5): few steps, draws and queries",
        "Suite fast on small (6): FAB-T and Square on 100 of 842",
        "this is not AutoAttack's number",
    ):
        assert part in doubts, part
    assert "No attack was run" not in doubts


def test_a_random_judge_is_shown_with_its_spread(make):
    record = make["random"](surrogate="bfloat16, folded", precision="bf16", notes=("a note on it",))
    out, page = flat(shown(evaluation_table(record))), words(render([record]))
    assert "71.4 % ± 0.3 [66.5, 75.8]" in out
    assert "97.2 % ± 0.1 [95.0, 98.5]" in out
    assert "± 0.3 over seeds, [66.5, 75.8]" in page
    for text in (out, page):
        for part in ("majority of 9 draws, 5 seeds", "71.0, 71.4, 71.8, 71.2, 71.6 %", "bfloat16, folded", "bf16",
                     "normal", "a note on it"):  # fmt: skip
            assert part in text, part
    leaders = flat(shown(leaderboard_table([record])))
    assert "71.4 % ± 0.3" in leaders
    assert "majority of 9" in leaders
    assert "71.4 % ± 0.3 [66.5, 75.8]" in summarise([record]).held[0]


def test_other_judges_are_described_by_their_settings(make):
    spread = make["random"]().spread
    smooth = spread.model_copy(update={"judge": {"kind": "majority", "draws": 100, "abstain": 0.001}})
    assert strength.judge_text(smooth) == "majority of 100 draws, abstentions count as errors, 5 seeds"
    assert strength.judge_text(spread.model_copy(update={"judge": {"rule": "x"}})) == "judge (rule=x), 5 seeds"


def test_a_corruption_is_one_row_with_five_numbers_and_their_mean(make):
    record = make["unseen"]()
    rows = column_rows(record)
    assert [row.name for row in rows[:4]] == ["apgd-ce-100 and apgd-t-100x9", "apgd-l2", "apgd-l1", "gaussian noise"]
    assert (rows[0].share, rows[0].interval) == (record.robust_accuracy, record.robust_interval)
    kinds = [row for row in rows if row.severities]
    assert len(kinds) == 10
    first = record.columns[2:7]
    assert kinds[0].severities == first
    assert kinds[0].share == pytest.approx(sum(c.accuracy for c in first) / 5)
    assert kinds[0].interval[0] == pytest.approx(sum(c.interval[0] for c in first) / 5)
    out = shown(evaluation_table(record))
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"gaussian noise +91\.0 +86\.0 +81\.0 +76\.0 +71\.0 +81\.0 % \[76\.7, 84\.6\]", out)
    assert re.search(r"apgd-l2 +other norm +l2 0\.5 +41\.0 % \[36\.0, 46\.1\]", out)
    assert re.search(r"all unseen together +together +any of them +6\.0 % \[4\.0, 8\.9\]", out)
    assert "UNRELIABLE" not in out


def test_severities_are_found_by_name_where_no_setting_says_them(make):
    column = make["column"]
    shares = {5: 0.5, 1: 0.9}
    bare = [column(f"jpeg-{s}", "beyond", "linf 1", share) for s, share in shares.items()]
    (_, row) = column_rows(make["unseen"](columns=tuple(bare)))
    assert [c.accuracy for c in row.severities] == [0.9, 0.5]
    assert corruption(column("pgd-5", "column", "linf 1", 0.5)) == ""
    assert corruption(column("jpeg-worst", "beyond", "linf 1", 0.5, corruption="jpeg", severity="worst")) == ""
    assert corruption(column("patch-5", "beyond", "linf 1", 0.5, bound="a window")) == ""


def test_the_page_shows_columns_with_intervals_and_a_drawing(make):
    page = render([make["unseen"]()])
    text = words(page)
    assert 'aria-labelledby="columns-1-title' in page
    for part in (
        "Seen and unseen attackers", "rotation by at most 30 degrees 33.0 % [28.3, 38.0]", "Corruptions by severity",
        "gaussian noise 91.0 % [87.6, 93.5] 86.0 %", "all unseen together: 6.0 % [4.0, 8.9]",
    ):  # fmt: skip
        assert part in text, part
    assert text.count("severity 1 of 5") == 0


def test_a_papers_columns_are_not_a_missing_attack(make):
    record = make["paper"]()
    out, text = flat(shown(evaluation_table(record))), words(render([record]))
    for part in ("Columns of suite cafe-paper", "apgd-ce-100 + apgd-dlr-100", "72.0 % [67.1, 76.4]"):
        assert part in text
    assert "every attacker by itself: 3 columns below" in out
    assert "o attack was run" not in out + text
    assert "Survivors per attack" not in text


def test_an_unreliable_record_says_why_at_its_columns(make):
    record = make["unseen"](reasons=("gradients are masked",))
    out = flat(shown(evaluation_table(record)))
    # At the verdict, and under each of the two tables.
    assert out.count("UNRELIABLE: gradients are masked") == 3
    article = render([record]).split('<article id="model-1"')[1].split("</article>")[0]
    assert "UNRELIABLE: gradients are masked" in words(article)
    rows = re.findall(
        r"<tr>.*?</tr>", article.split("Seen and unseen attackers")[-1].split("What the attack did")[0], re.S
    )
    with_shares = [row for row in rows if " %" in words(row)]
    assert len(with_shares) >= 12
    assert all("UNRELIABLE" in row for row in with_shares)
    curves = render([record]).split('id="curves"')[1].split("</section>")[0]
    assert "UNRELIABLE: gradients are masked" in words(curves)


def test_records_from_before_these_fields_are_still_shown(make):
    new = ("audit", "columns", "spread", "surrogate", "precision", "budget", "notes")
    old = EvaluationRecord.model_validate(make["evaluation"](suite="quick").model_dump(exclude=set(new)))
    out, page = flat(shown(evaluation_table(old))), words(render([old]))
    assert "an upper bound" in out
    for absent in ("audit", "±", "by seed", "by itself"):
        assert absent not in out
        assert absent not in page.lower()
