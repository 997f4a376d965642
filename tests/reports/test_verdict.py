import pytest

from semiperm.errors import ReportError
from semiperm.evaluation.report import CARRIED, NATIVE, Proof
from semiperm.reports.verdict import verdict
from tests.reports.helpers import arm_of, cat_erased, exact, report_of, row_of, share


def test_one_sentence_tells_what_is_gone_and_what_is_kept_with_their_intervals() -> None:
    arm = cat_erased()
    found = verdict(report_of(arm), arm)
    assert found.sentence == (
        "The target (cat) is found in 2 % (0 to 5 %) of 100 pictures that ask for it (bare model: 90 %), "
        "and everything else in 80.0 % (77.9 to 81.9 %) of 1,500 (bare model: 80.0 %)."
    )
    assert "4 of 4 pictures that were generated again with the erasures on were identical" in found.notes[0]
    assert found.lines == [found.sentence, *found.notes] and not found.warning


def test_exposures_come_first_and_the_notes_say_whether_anything_was_left_to_the_bare_model() -> None:
    arm = arm_of(
        "erased", [], summary=exact(exposed=0.02, CRA=1.0), bare_summary=exact(exposed=0.9, CRA=1.0), closed=0,
        proof=Proof(),
    )  # fmt: skip
    found = verdict(report_of(arm), arm)
    assert "exposed in 2 % of 10 pictures" in found.sentence and "bare model: 90 %" in found.sentence
    assert found.notes[-1] == "Something opened for each of the 150 pictures."
    some = arm.model_copy(update={"closed": 5, "proof": Proof(checked=4, identical=4)})
    assert "5 of 150 pictures are the bare model's" in verdict(report_of(some), some).notes[-1]
    ungated = arm.model_copy(update={"gate": ""})
    assert "have no gate" in verdict(report_of(ungated), ungated).notes[-1]


def test_copies_decide_about_memorised_pictures_and_unchanged_pictures_about_the_rest() -> None:
    rows = [
        row_of("Tide", "target", {"copies": share(0)}, {"copies": share(1)}, opened=1),
        row_of("near", "not asked", {"unchanged": share(1, 20)}, {}),
    ]
    arm = arm_of("erased", rows)
    sentence = verdict(report_of(arm), arm).sentence
    assert "The target (cat) is copied in 0 % (0 to 3 %) of 100 pictures" in sentence
    assert "100 % (86 to 100 %) of 20 pictures that ask for something else are bit for bit the bare model's" in sentence


def test_a_surrogate_is_looked_for_in_the_targets_place() -> None:
    arm = cat_erased()
    cat = arm.rows[0].model_copy(update={"figures": {**arm.rows[0].figures, "became": share(0.87)}})
    found = verdict(report_of(arm), arm.model_copy(update={"rows": [cat, *arm.rows[1:]]}))
    assert "(bare model: 90 %), its surrogate in 87 % (80 to 94 %), and everything else in" in found.sentence


def test_without_a_classifier_the_distances_have_to_do() -> None:
    captions = row_of("captions", "other kinds", {**exact(FID=41.3), "unchanged": share(0.97)}, exact(FID=41.0))
    arm = arm_of("erased", [captions])
    assert verdict(report_of(arm), arm).sentence == (
        "97 % (94 to 100 %) of 100 pictures are bit for bit the bare model's; FID 41.30, bare model 41.00."
    )


def test_several_targets_are_named_up_to_three() -> None:
    for names, text in ((("a", "b"), "The targets (a and b) are found"), ("abcd", "The targets (4) are found")):
        arm = cat_erased().model_copy(update={"erasures": dict.fromkeys(names, "hash")})
        assert verdict(report_of(arm), arm).sentence.startswith(text)


def test_the_bare_model_is_called_so() -> None:
    rows = [row_of("cat", "target", {"found": share(1)})]
    arm = arm_of("bare model", rows, erasures={}, gate="", closed=0, summary={"UA": share(0)})
    found = verdict(report_of(arm), arm)
    assert found.sentence.startswith("On the bare model, the target (cat) is found in 100 % (97 to 100 %) of 100")
    assert found.notes == ()


def test_arms_of_several_are_short_and_those_carried_stand_beside_native_ones() -> None:
    native, carried = cat_erased(0.02, NATIVE + "x"), cat_erased(0.05, CARRIED + "x")
    report = report_of(native, carried)
    found = verdict(report, carried)
    assert found.arm == carried.name and found.lines[0].startswith(f"{carried.name}: The target is found in 5 %")
    assert "Compared with erasures made on this model, in points: IRA +0.0, UA -3.0." in found.notes
    assert not any("Compared" in note for note in verdict(report, native).notes)


def test_a_run_whose_closed_prompts_gave_other_pictures_is_not_to_be_trusted() -> None:
    arm = cat_erased().model_copy(update={"proof": Proof(checked=4, identical=3)})
    found = verdict(report_of(arm), arm)
    assert found.warning.startswith("Do not trust this run: 1 of 4 pictures") and found.lines[-1] == found.warning


def test_pictures_of_other_arms_do_not_count() -> None:
    arm = cat_erased().model_copy(update={"pictures": 60})
    assert verdict(report_of(arm, arm), arm).notes[-1].startswith("50 of 60 pictures are the bare model's")
    opened = arm.model_copy(update={"closed": 0})
    assert verdict(report_of(opened, opened), opened).notes[-1] == "Something opened for each of the 60 pictures."


def test_a_verdict_without_figures_is_an_error() -> None:
    arm = arm_of("empty", [row_of("x", "same kind", {})])
    with pytest.raises(ReportError, match="verdict on 'empty' cannot be computed"):
        verdict(report_of(arm), arm)


def test_prompts_without_pictures_are_noted() -> None:
    arm = cat_erased()
    ordinary = row_of("ordinary prompts", "not asked", {"opens": share(0, 1000)}, {}, pictures=0)
    arm = arm.model_copy(update={"rows": [*arm.rows, ordinary]})
    note = verdict(report_of(arm), arm).notes[0]
    assert note == "0 % (0 to 0.3 %) of 1,000 prompts that ask for something else open the erasures."
