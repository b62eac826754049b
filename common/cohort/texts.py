"""From an npz archive of counted words to inputs.

A text comes as how often it has each word of a hashed vocabulary (Weinberger et al. 2009, ICML):
which column a word is in follows from the word alone, so that no vocabulary is made of the texts,
which would be a release without a price. For the same reason no word is weighed by how many texts
have it (inverse document frequency): each text is encoded by itself, by which words it has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from common.cohort.images import check_names, one_each, read_archive
from common.cohort.records import Records, fingerprint
from common.cohort.schema import CohortSchema, Text
from common.cohort.split import content_ids
from common.errors import DataError

_MATRIX = ("data", "indices", "indptr", "shape")


def read_texts(path: Path, schema: CohortSchema, *, with_labels: bool = True) -> Records:
    """Read a matrix of counts, its labels and, where the study names one, the patients' array.

    Args:
        path: An npz archive as scipy.sparse.save_npz writes one of a CSR matrix, (records, words),
            counts (or weights) of 0 and above, with the labels and patients beside it, (records,)
            of any type.
        schema: Its text says what each record becomes.
        with_labels: Whether there must be labels; without, they are empty.

    Returns:
        The records; ids are of the counts' own content where the schema names no patients.

    Raises:
        DataError: the file is missing or malformed, an array is absent or of another shape, a count
            is below 0, or the words are not as many as the study's.
    """
    text = schema.text
    assert text is not None  # the caller reads counts for texts only
    names = [*_MATRIX, *([schema.label.column] if with_labels else [])]
    names += [schema.patient] if schema.patient else []

    def pick(archive: NDArray[np.void]) -> dict[str, NDArray[np.generic]]:
        check_names(path, archive, names)
        return {name: archive[name] for name in names}

    arrays = read_archive(path, pick)
    counts = _matrix(path, arrays, text)
    records = counts.shape[0]
    labels = [""] * records
    if with_labels:
        labels = one_each(
            path, schema.label.column, arrays[schema.label.column], records, what="text"
        )
    contents = [_content(counts, record) for record in range(records)]
    if schema.patient:
        patients = one_each(path, schema.patient, arrays[schema.patient], records, what="text")
    else:
        pairs = zip(contents, labels, strict=True)
        patients = content_ids(content + label.encode() for content, label in pairs)
    empty = int((np.diff(counts.indptr) == 0).sum())
    return Records(
        encode_texts(counts, text),
        labels,
        patients,
        [fingerprint(content) for content in contents],
        np.zeros(records, dtype=np.bool_),
        (f"texts: {empty} without a word",) if empty else (),
    )


def encode_texts(counts: csr_array, text: Text) -> NDArray[np.float32]:
    """Return the inputs of texts, (records, text.size), each of length 1, or 0 without a word.

    A column counts as 1 where the text has its word, however often. Column j is then added to one
    of `text.size` inputs, or taken from it, as a hash of j says: the sign lets words that meet
    cancel out on average.

    Args:
        counts: (records, text.words), of 0 and above.
        text: The study's.
    """
    from sklearn.utils import murmurhash3_32  # half a second, which only texts wait for

    hashed = murmurhash3_32(np.arange(text.words, dtype=np.int32), seed=0)
    signs = np.where(hashed < 0, -1.0, 1.0)
    places = np.abs(hashed.astype(np.int64)) % text.size
    folded = csr_array((signs, (np.arange(text.words), places)), shape=(text.words, text.size))
    x = ((counts > 0).astype(np.float64) @ folded).toarray()
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(length > 0, length, 1.0), dtype=np.float32)


def _matrix(path: Path, arrays: dict[str, NDArray[np.generic]], text: Text) -> csr_array:
    data, indices, indptr, shape = (arrays[name] for name in _MATRIX)
    if shape.shape != (2,) or shape[1] != text.words or not shape[0] > 0:
        raise DataError(
            f"cohort file {str(path)!r}: the matrix is of shape {shape.tolist()}, not of at least "
            f"one record by {text.words} words",
            remedy="count the words in as many columns as the study's cohort.text.words says",
        )
    try:
        counts = csr_array((data.astype(np.float64), indices, indptr), shape=tuple(shape.tolist()))
        counts.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"cohort file {str(path)!r} holds no whole CSR matrix: {error}",
            remedy="write it with scipy.sparse.save_npz, and the labels beside it",
        ) from None
    if not (np.isfinite(counts.data) & (counts.data >= 0)).all():
        raise DataError(
            f"cohort file {str(path)!r}: a count is below 0 or no number",
            remedy="give how often each word occurs",
        )
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


def _content(counts: csr_array, record: int) -> bytes:
    """Return a text's words and counts as bytes, the same in whatever types they were kept."""
    own = slice(counts.indptr[record], counts.indptr[record + 1])
    words, times = counts.indices[own].astype("<i8"), counts.data[own].astype("<f8")
    return bytes(words.tobytes() + times.tobytes())
