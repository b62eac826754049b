"""From counted words to inputs: hashing, logarithm, length, ids, and archives that are none."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.feature_extraction import FeatureHasher

from common.cohort.inputs import read_inputs, read_patients
from common.cohort.read import CohortSource, read_cohort
from common.cohort.schema import CohortSchema
from common.cohort.texts import encode_texts, read_texts
from common.errors import DataError

COUNTS = np.zeros((30, 40))
COUNTS[np.arange(30), np.arange(30)] = 1.0
COUNTS[:, 35] = np.arange(30) % 3
LABELS = np.arange(30) % 2


def schema(*, words=40, size=8, **values):
    label = {"column": "label", "classes": ["0", "1"]}
    text = {"words": words, "size": size}
    return CohortSchema.model_validate({"label": label, "text": text, **values})


@pytest.fixture
def archive(tmp_path):
    """Write counts with what lies beside them; return the file's path."""

    def write(counts=COUNTS, **changes):
        matrix = csr_array(counts)
        arrays = {name: getattr(matrix, name) for name in ("data", "indices", "indptr")}
        arrays |= {"shape": np.array(matrix.shape), "label": LABELS[: len(counts)]} | changes
        path = tmp_path / "cohort.npz"
        np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})
        return path

    return write


def test_a_text_becomes_its_hashed_words_of_length_one():
    """Held to scikit-learn's hasher, which hashes words as text and so is given the same bytes."""
    text = schema(words=3, size=2).text
    x = encode_texts(csr_array(np.array([[1.0, 0, 0], [0, 3, 0], [2, 0, 5], [0, 0, 0]])), text)
    assert x.dtype == np.float32
    keys = [bytes(np.array([j], dtype="<i4").tobytes()) for j in range(3)]
    hasher = FeatureHasher(2, input_type="pair")
    rows = [[(keys[0], 1)], [(keys[1], 1)], [(keys[0], 1), (keys[2], 1)], []]
    expected = hasher.transform(rows).toarray()
    length = np.linalg.norm(expected, axis=1, keepdims=True)
    assert x == pytest.approx(expected / np.where(length > 0, length, 1), abs=1e-6)
    assert np.linalg.norm(x, axis=1).tolist() == pytest.approx([1, 1, 1, 0])


def test_one_text_more_changes_no_other(archive):
    """Fault it is for: words weighed by how many texts have them, a statistic of the texts."""
    all_of_them = read_texts(archive(), schema())
    fewer = read_texts(archive(COUNTS[:20]), schema())
    assert np.array_equal(all_of_them.x[:20], fewer.x)
    assert all_of_them.patients[:20] == fewer.patients


def test_a_cohort_of_texts_is_read_parted_and_read_again_without_labels(archive):
    source = CohortSource("a", archive(), 30, b"0" * 16)
    cohort = read_cohort(source, schema())
    assert schema().input_shape == (8,)
    assert cohort.train.patients + cohort.holdout.patients == 30
    inputs = read_inputs(archive(label=None), schema())
    assert np.array_equal(inputs.x, read_texts(archive(), schema()).x)
    ids = np.array([f"p{i}" for i in range(30)])
    named = schema(patient="who")
    assert read_patients(archive(who=ids), named) == ids.tolist()


def test_texts_without_a_word_are_noted(archive):
    counts = COUNTS.copy()
    counts[:3] = 0
    found = read_texts(archive(counts), schema())
    assert found.notes == ("texts: 3 without a word",)
    assert len(set(found.patients)) == 30  # the same, and yet three patients


BAD = {
    "no matrix": ({"indptr": None}, "has no array 'indptr'"),
    "no labels": ({"label": None}, "has no array 'label'"),
    "other labels": ({"label": np.zeros(4)}, r"array 'label' is \(4,\) for 30 texts"),
    "other words": ({"shape": np.array([30, 41])}, r"shape \[30, 41\], not .* by 40 words"),
    "no record": ({"shape": np.array([0, 40])}, r"shape \[0, 40\]"),
    "a broken matrix": ({"indptr": np.arange(31)[::-1]}, "holds no whole CSR matrix"),
    "words out of range": ({"indices": np.full(50, 40)}, "holds no whole CSR matrix"),
    "below zero": ({"data": np.full(50, -1.0)}, "a count is below 0"),
    "no number": ({"data": np.full(50, np.nan)}, "a count is below 0 or no number"),
    "pickled": ({"label": np.array([None] * 30)}, "it holds pickled objects"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_archive_that_is_none_is_one_message(archive, case):
    changes, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        read_texts(archive(**changes), schema())
    assert caught.value.remedy


def test_a_text_is_one_kind_of_input_and_no_wider_than_its_words():
    with pytest.raises(ValueError, match="give one of"):
        schema(image={"size": 8})
    with pytest.raises(ValueError, match="size is 8 and words 4"):
        schema(words=4)


def test_a_table_where_texts_are_expected_is_one_message(tmp_path):
    (tmp_path / "cohort.csv").write_text("a,label\n1,0\n")
    with pytest.raises(DataError, match="not a readable npz archive"):
        read_texts(tmp_path / "cohort.csv", schema())
