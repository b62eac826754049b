"""Tables read as effects: whose names are known, what is left out, what is refused."""

import math

import numpy as np
import pytest

from common.errors import DataError
from common.meta.models import pool
from common.meta.tables import check_effects
from tests.meta_tables import TABLES, given, table

BLANK = "study,yi,vi\na,.1,.02\nb,,.03\nc,.3,NA\nd,.2,.02\n"


@pytest.mark.parametrize(
    ("header", "measure"),
    [
        ("ai,bi,ci,di", None),
        ("tpos,tneg,cpos,cneg", "OR"),
        ("Events 1,Nonevents 1,Events 2,Nonevents 2", "OR"),
    ],
)
def test_two_by_two_tables_are_known_by_metafors_and_revmans_names(tmp_path, header, measure):
    found = given(tmp_path, f"{header}\n10,20,5,20\n", measure)
    assert found.measure == "OR"
    assert math.exp(found.y[0]) == pytest.approx(2.0)
    assert found.labels == ("study 1",)
    assert header.split(",")[0] in found.notes[0]


def test_totals_in_place_of_the_others_come_to_the_same(tmp_path):
    cells = given(tmp_path, "ai,bi,ci,di\n10,20,5,20\n", "RR")
    for header in ("ai,n1i,ci,n2i", "event.e,n.e,event.c,n.c", "Events 1,Total 1,Events 2,Total 2"):
        totals = given(tmp_path, f"{header}\n10,30,5,25\n", "RR")
        assert (totals.y[0], totals.v[0]) == (cells.y[0], cells.v[0])


@pytest.mark.parametrize(
    ("text", "v"),
    [
        ("yi,vi\n.5,.04\n", 0.04),
        ("yi,sei\n.5,.2\n", 0.04),
        ("TE,seTE\n.5,.2\n", 0.04),
        ("estimate,ci.low,ci.high\n.5,.1080072,.8919928\n", 0.04),
        ("or,or.lb,or.ub\n1.6487213,1.1140557,2.4399867\n", 0.04),
    ],
)
def test_estimates_with_their_error_are_known(tmp_path, text, v):
    found = given(tmp_path, text, "OR")
    assert found.y[0] == pytest.approx(0.5)
    assert found.v[0] == pytest.approx(v, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "measure"),
    [
        ("auc,auc_low,auc_high\n.8,.7,.87\n", "AUC"),
        ("auc,se_auc\n.8,.04\n", "AUC"),
        ("auc,cases,controls\n.8,40,60\n", "AUC"),
        ("o,e,n\n20,18,100\n", "OE"),
        ("observed,expected\n20,18\n", "OE"),
        ("n1i,m1i,sd1i,n2i,m2i,sd2i\n10,1,2,12,2,3\n", "SMD"),
        ("yi,vi\n.1,.2\n", "GEN"),
    ],
)
def test_the_measure_follows_from_the_columns(tmp_path, text, measure):
    assert given(tmp_path, text).measure == measure


def test_ratios_with_intervals_agree_with_the_logarithms_beside_them(tmp_path):
    text = TABLES["hackshaw1998"].splitlines()
    header = text[0].replace("yi,vi", "a,b")  # now only or, or.lb and or.ub say the effect
    found = given(tmp_path, "\n".join([header, *text[1:]]), "OR")
    beside = table(tmp_path, "hackshaw1998", "OR")
    assert found.y == pytest.approx(beside.y)
    assert found.v == pytest.approx(beside.v)


def test_columns_of_any_name_can_be_pointed_at(tmp_path):
    text = "who,dead,all,dead0,all0\nx,10,30,5,25\n"
    named = {"ai": "dead", "n1i": "all", "ci": "dead0", "n2i": "all0", "study": "who"}
    found = given(tmp_path, text, "OR", **named)
    assert math.exp(found.y[0]) == pytest.approx(2.0)
    assert found.labels == ("x",)
    assert found.columns["ai"] == "dead"


def test_studies_are_called_by_author_and_year_and_never_alike(tmp_path):
    teachers = table(tmp_path, "raudenbush1985")
    assert teachers.labels[3:5] == ("Pellegrini & Hicks 1972", "Pellegrini & Hicks 1972 (2)")
    assert len(set(teachers.labels)) == len(teachers.labels) == 19
    assert table(tmp_path, "normand1999").labels[0] == "Edinburgh"


def test_blank_cells_leave_a_study_out_and_say_so(tmp_path):
    found = given(tmp_path, BLANK)
    assert found.labels == ("a", "d")
    assert found.table["study"].tolist() == ["a", "d"]
    assert "b, c: left out" in " ".join(found.notes)


def test_empty_cells_are_told(tmp_path):
    text = "study,ai,n1i,ci,n2i\na,0,10,0,10\nb,0,10,3,10\nc,2,10,3,10\n"
    found = given(tmp_path, text, "OR")
    assert found.labels == ("b", "c")
    said = " ".join(found.notes)
    assert "a: left out, both groups have no event" in said
    assert "b: an empty cell, so 1/2 was added" in said
    assert given(tmp_path, text, "RD").labels == ("a", "b", "c")
    with pytest.raises(DataError, match="no study of the table can be used"):
        given(tmp_path, "ai,n1i,ci,n2i\n0,10,0,10\n", "RR")


def test_magnesium_has_one_corrected_trial(tmp_path):
    magnesium = table(tmp_path, "egger2001", "OR")
    assert next(note for note in magnesium.notes if "1/2" in note).startswith("Bertschat 1989:")
    # ISIS-4 alone nearly is the fixed effect: 2216 / 29011 against 2103 / 29039.
    assert math.exp(pool(magnesium.y, magnesium.v, method="FE").mean) == pytest.approx(
        1.015, abs=5e-4
    )


REFUSED = {
    "yi,vi\n.1,-.02\n": r"vi of 'study 1' \(row 1\) is -0.02",
    "yi,sei\n.1,0\n": "sei of",
    "yi,vi\nx,.02\n": r"column 'yi' \(yi\), row 1: 'x' is no number",
    "yi,vi\ninf,.02\n": "'inf' is no number",
    "yi\n.1\n": "lacks columns",
    "ai,bi,ci,di\n-1,2,3,4\n": "ai of",
    "ai,n1i,ci,n2i\n12,10,3,10\n": "ai of 'study 1' .* is 12",
    "ai,n1i,ci,n2i\n0,0,3,10\n": "n1i of",
    "auc,se_auc\n1.2,.1\n": "auc of",
    "auc,auc_low,auc_high\n.8,.85,.9\n": "auc of",
    "estimate,low,high\n.8,.85,.9\n": "yi of",
    "o,e,n\n20,18,20\n": "observed of",
    "o,e\n20,0\n": "expected of",
    "n1i,m1i,sd1i,n2i,m2i,sd2i\n1,1,2,12,2,3\n": "n1i of",
    "yi,vi\n": "no rows",
    "": "no rows",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_no_study_can_have_is_refused_by_name(tmp_path, text):
    with pytest.raises(DataError, match=REFUSED[text]) as refused:
        given(tmp_path, text)
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("measure", "columns", "said"),
    [
        ("XY", {}, "measure is 'XY'"),
        ("AUC", {}, "lacks columns for AUC"),
        (None, {"foo": "yi"}, "'foo'"),
        (None, {"yi": "foo"}, "no column 'foo'"),
    ],
)
def test_unknown_names_are_refused(tmp_path, measure, columns, said):
    with pytest.raises(DataError, match=said):
        given(tmp_path, "y,vi\n.1,.2\n", measure, **columns)


@pytest.mark.parametrize(
    ("text", "said"),
    [("yi,vi\n.1,1e-18\n.2,.04\n", "beside another's"), ("yi,vi\n80,.1\n", "beyond all sense")],
)
def test_effects_on_a_wrong_scale_are_refused(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        check_effects(given(tmp_path, text, "OR"))


def test_effects_without_a_finite_variance_are_refused():
    from common.meta.tables import Effects

    with pytest.raises(DataError, match="'a' has the effect"):
        check_effects(Effects("GEN", np.array([np.nan]), np.array([1.0]), ("a",)))
