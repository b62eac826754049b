"""The page of a meta-analysis and its pictures: whole, escaped, with text beside every picture."""

import copy
import xml.etree.ElementTree as ElementTree

import pytest

from common.meta.analysis import analyse
from common.report.figures_meta import MAX_STUDIES, cumulative, forest
from common.report.figures_meta_bias import funnel, influence
from common.report.meta_page import draw, meta_html, verdict
from common.report.meta_tables import answer, tables
from tests.meta_tables import given, table
from tests.page_reader import Reader

PICTURES = {"forest", "funnel", "cumulative", "baujat", "influence"}
HOSTILE = "<script>alert('x')</script> & $x_1$"


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    return analyse(table(tmp_path_factory.mktemp("bcg"), "bcg", "RR"), by="alloc")


@pytest.fixture(scope="module")
def drawn(values):
    return draw(values)


@pytest.fixture(scope="module")
def page(values, drawn):
    command = "grandrounds meta analyse bcg.csv"
    return meta_html(values, title="bcg", command=command, drawn=drawn)


def test_page_is_whole_and_fetches_nothing(page):
    read = Reader(page)
    assert not read.open
    assert not {"script", "link", "img"} & set(read.tags)
    assert len(read.ids) == len(set(read.ids))
    assert len(read.pictures) == len(PICTURES)
    assert "grandrounds meta analyse bcg.csv" in page


def test_every_picture_has_a_text_alternative(drawn):
    for name, svg in drawn.items():
        title, description = list(ElementTree.fromstring(svg))[:2]
        assert title.text, name
        assert description.text, name
    assert drawn.keys() == PICTURES


def test_the_forest_says_every_study_the_mean_and_the_prediction(drawn):
    svg = drawn["forest"]
    for said in ("Aronson 1948", "0.49 [0.34, 0.70]", "[0.15, 1.55]", "systematic", "10.2%"):
        assert said in svg, said


def test_the_funnel_shows_what_was_filled(values, drawn):
    assert "filled in by trim and fill" in drawn["funnel"]
    bare = copy.deepcopy(values)
    bare["trim_and_fill"]["studies"] = []
    assert "filled in by trim and fill" not in funnel(bare)


def test_influential_studies_are_named(values):
    changed = copy.deepcopy(values)
    changed["studies"][3]["influence"]["influential"] = True
    assert "Influential: Hart &amp; Sutherland 1977." in influence(changed)


def test_equal_values_draw_equal_bytes(values, drawn):
    assert forest(copy.deepcopy(values)) == drawn["forest"]


def test_names_and_notes_are_escaped(values):
    hostile = copy.deepcopy(values)
    hostile["studies"][0]["name"] = HOSTILE
    hostile["cumulative"][0]["name"] = HOSTILE
    hostile["notes"] = [HOSTILE]
    some = {"forest": forest(hostile), "cumulative": cumulative(hostile)}
    assert "<script" not in meta_html(hostile, title=HOSTILE, command=HOSTILE, drawn=some)
    assert "&lt;script" in some["forest"]


@pytest.mark.parametrize(
    ("rows", "measure", "missing"),
    [
        (".1,.04", "AUC", PICTURES - {"forest"}),
        (".1,.04\n.3,.02", "OR", {"funnel", "baujat", "influence"}),
        (".1,.04\n.1,.02\n.1,.02", "GEN", set()),
        pytest.param("1e-7,1e-12\n1.001e-7,1e-12\n2e-7,3e-12", "OR", set(), marks=pytest.mark.slow),
    ],
)
def test_few_or_equal_studies_are_drawn_as_far_as_they_go(tmp_path, rows, measure, missing):
    values = analyse(given(tmp_path, f"yi,vi\n{rows}\n", measure))
    drawn = draw(values)
    assert PICTURES - set(drawn) == missing
    assert not Reader(meta_html(values, title="few", command="x", drawn=drawn)).open
    assert verdict(values)


def test_many_studies_are_cut_to_those_of_most_weight(tmp_path):
    rows = "\n".join(f"s{i},{i / 100},{0.01 + 0.001 * i}" for i in range(MAX_STUDIES + 5))
    values = analyse(given(tmp_path, f"study,yi,vi\n{rows}\n"), method="FE")
    svg = forest(values)
    assert ">s0<" in svg
    assert f">s{MAX_STUDIES + 4}<" not in svg


def test_the_tables_are_as_the_values(values):
    shown = dict(answer(values))
    assert shown["Pooled risk ratio [95%]"] == "0.489 [0.344, 0.696]"
    assert shown["Prediction interval, t with k \N{MINUS SIGN} 2"] == "[0.134, 1.786]"
    names = [found["name"] for found in tables(values)]
    assert names == ["answer", "trust", "groups", "without"]
