from semiperm.evaluation.report import Proof
from semiperm.reports.markdown import markdown, rows
from tests.reports.helpers import HOSTILE, arm_of, cat_erased, report_of, row_of, share


def test_a_report_has_its_verdict_its_summary_and_the_rows_that_changed() -> None:
    text = markdown(report_of(cat_erased(changed=True)))
    assert text.startswith("The target (cat) is found in 2 % (0 to 5 %) of 100 pictures")
    assert "| bare model | 10 % (4 to 16 %) | 80 % (72 to 88 %) |  |  |" in text
    assert "| erased | 98 % (95 to 100 %) | 80 % (72 to 88 %) | 99.9 % of 1,500 | 0.4 % |" in text
    cat = "| cat | expected: gone (target) | 100 pictures | 1.00 | 2 % (bare 90 %) | 0.50 (bare 0.70) | 0 % | 20.0 % |"
    assert cat in text
    assert "29 rows with 1,450 pictures stayed the bare model's, bit for bit: same kind: other 0, other 1," in text
    measured, reported = text.split("*Reported*")
    assert "55.48" in reported and "55.48" not in measured


def test_several_arms_have_a_line_each_and_their_rows_are_on_the_page() -> None:
    text = markdown(report_of(cat_erased(), cat_erased(0.5, "other")))
    assert text.count("99.9 % of") == 0 and text.count("| 100 % of 1,500 | 0.4 % |") == 2
    assert text.count("| bare model |") == 2 and "expected: gone" not in text


def test_the_bare_model_of_each_model_has_a_line() -> None:
    arms = [cat_erased(name=f"on {model}").model_copy(update={"model": model}) for model in ("m", "n", "n")]
    lines = markdown(report_of(*arms, published="")).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| bare m", "| on m", "| bare n", "| on n", "| on n"]


def test_the_rows_of_an_arm_stand_alone_too() -> None:
    text = rows(cat_erased())
    assert text.startswith("| row | expectation | size | permeability | found | CLIP score | unchanged |")
    assert "other 3" in text.splitlines()[-1]
    bare = arm_of("bare model", [row_of("cat", "target", {"found": share(1)})], erasures={}, gate="")
    assert "| cat | expected: gone (target) | 10 pictures | 0.00 | 100 % |" in rows(bare)


def test_a_warning_stands_first() -> None:
    arm = cat_erased().model_copy(update={"proof": Proof(checked=4, identical=3)})
    assert markdown(report_of(arm)).startswith("**Do not trust this run: 1 of 4")


def test_names_are_text_in_a_table() -> None:
    arm = cat_erased(others=1)
    hostile = arm.rows[0].model_copy(update={"name": HOSTILE})
    text = markdown(report_of(arm.model_copy(update={"name": HOSTILE, "rows": [hostile, arm.rows[1]]})))
    (line,) = (line for line in text.splitlines() if "expected: gone" in line)
    assert line.startswith("| &lt;script&gt;alert('a\\|b')&lt;/script&gt; \"\\*x\\*\" &amp; \\[y\\](z) |")
    assert "<script>" not in text
    columns = next(one for one in text.splitlines() if one.startswith("| row"))
    assert line.replace("\\|", "").count("|") == columns.count("|")
