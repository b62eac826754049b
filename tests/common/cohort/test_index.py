"""An index of image files: PNG, JPEG and DICOM side by side, and what cannot be read, by name."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from common.cohort.index import read_index
from common.cohort.read import CohortSource, read_cohort
from common.errors import DataError
from common.study import CohortSchema

RNG = np.random.default_rng(0)


def schema(*, image=None, **values):
    label = {"column": "y", "classes": ["no", "yes"]}
    image = {"size": 28, **(image or {})}
    return CohortSchema.model_validate({"label": label, "image": image, **values})


def write_dicom(path, values, bits):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)


def png(folder, name, shape=(28, 28)):
    values = RNG.integers(0, 256, shape).astype(np.uint8)
    folder.mkdir(exist_ok=True)
    Pillow.fromarray(values).save(folder / name)
    return values


def index(folder, rows, header="file,y,id"):
    path = folder / "index.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_kinds_sizes_and_depths_may_be_mixed(tmp_path):
    # The same grey square in four formats, at each format's own full range: 51 of 255 is a fifth.
    Pillow.fromarray(np.full((28, 28), 51, np.uint8)).save(tmp_path / "a.png")
    Pillow.fromarray(np.full((64, 64), 13107, np.uint16)).save(tmp_path / "b.png")
    Pillow.fromarray(np.full((99, 99, 3), 51, np.uint8)).save(tmp_path / "c.jpg", quality=95)
    write_dicom(tmp_path / "d", np.full((200, 200), 819), bits=12)
    rows = [("a.png", "no", 1), ("b.png", "yes", 1), ("c.jpg", "no", 2), ("d", "yes", 3)]
    found = read_index(index(tmp_path, rows), schema(patient="id"))
    assert found.x.shape == (4, 1, 28, 28)
    assert found.x == pytest.approx(2 * 51 / 255 - 1, abs=0.01)
    assert found.labels == ["no", "yes", "no", "yes"]
    assert found.patients == ["1", "1", "2", "3"]


def test_files_lie_beside_the_index_or_where_an_absolute_name_says(tmp_path):
    inside = png(tmp_path / "scans", "a.png")
    outside = png(tmp_path / "archive", "b.png")
    (tmp_path / "site").mkdir()
    (tmp_path / "scans").rename(tmp_path / "site" / "scans")
    rows = [("scans/a.png", "no", 1), (tmp_path / "archive" / "b.png", "yes", 2)]
    found = read_index(index(tmp_path / "site", rows), schema())
    values = np.stack([inside, outside]) / 127.5 - 1
    assert found.x[:, 0] == pytest.approx(values, abs=1e-6)


def test_the_column_of_files_is_the_studys_and_the_index_may_be_parquet(tmp_path):
    values = png(tmp_path, "a.png")
    pq.write_table(pa.table({"y": ["no"], "scan": ["a.png"]}), tmp_path / "index.parquet")
    found = read_index(tmp_path / "index.parquet", schema(image={"file": "scan"}))
    assert found.x[0, 0] == pytest.approx(values / 127.5 - 1, abs=1e-6)


def test_maps_and_channels_are_the_studys(tmp_path):
    png(tmp_path, "a.png")
    path = index(tmp_path, [("a.png", "no", 1)])
    assert read_index(path, schema(image={"channels": 3})).x.shape == (1, 3, 28, 28)
    maps = [{"kind": "hog"}, {"kind": "pixels", "size": 7}]
    assert read_index(path, schema(image={"maps": maps})).x.shape == (1, 177)


def test_a_copied_file_is_known_and_kept_on_one_side_by_the_research_split(tmp_path):
    for number in range(20):
        png(tmp_path, f"{number}.png")
        (tmp_path / f"copy-{number}.png").write_bytes((tmp_path / f"{number}.png").read_bytes())
    rows = [(f"{c}{n}.png", "no", f"{c}{n}") for n in range(20) for c in ("", "copy-")]
    source = CohortSource("a", index(tmp_path, rows), 40, b"key", "stratified")
    for rules in (schema(), schema(patient="id")):
        cohort = read_cohort(source, rules)
        assert cohort.train.patients == 2 * 14
        assert cohort.notes[-1].startswith("copies: 40 exact ones in 20 groups; 0 of them straddle")


def test_one_record_more_leaves_the_others_ids_as_they_were(tmp_path):
    for name in "abc":
        png(tmp_path, f"{name}.png")
    rows = [(f"{name}.png", "no", 0) for name in "abc"]
    all_three = read_index(index(tmp_path, rows), schema()).patients
    assert read_index(index(tmp_path, rows[1:]), schema()).patients == all_three[1:]


def cut_png():
    file = io.BytesIO()
    Pillow.fromarray(RNG.integers(0, 256, (28, 28)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()[:-60]


BAD_ROWS = {  # the second record's file, and what the message must say
    "missing": ("none.png", r"image '.*none\.png' does not exist"),
    "blank": ("", "record 2: names no file"),
    "a folder": ("scans", r"image '.*scans' is a folder"),
    "above": ("../a.png", r"image '\.\./a\.png' leads out of its folder by '\.\.'"),
    "above, hidden": ("scans/../../a.png", "leads out of its folder"),
    "cut off": ("cut.png", r"image '.*cut\.png' cannot be decoded: .*truncated"),
    "encrypted": ("locked.dcm", "does not begin as a PNG, JPEG or DICOM file does"),
    "small": ("small.png", "is 27x28 pixels; sides of 28 to 8192"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_file_that_cannot_be_used_is_named_with_its_record(tmp_path, case):
    name, message = BAD_ROWS[case]
    png(tmp_path, "a.png")
    png(tmp_path, "small.png", (27, 28))
    (tmp_path / "scans").mkdir()
    (tmp_path / "cut.png").write_bytes(cut_png())
    (tmp_path / "locked.dcm").write_bytes(b"Salted__" + RNG.bytes(4000))
    path = index(tmp_path, [("a.png", "no", 1), (name, "no", 2)])
    with pytest.raises(DataError, match=message) as caught:
        read_index(path, schema())
    assert "index.csv', record 2: " in caught.value.message
    assert caught.value.remedy


def test_all_names_are_checked_before_the_first_image_is_read(tmp_path):
    # An hour of decoding should not end at a misspelt name.
    (tmp_path / "bad.png").write_bytes(b"not an image")
    path = index(tmp_path, [("bad.png", "no", 1), ("none.png", "no", 2)])
    with pytest.raises(DataError, match=r"record 2: .*does not exist"):
        read_index(path, schema())


@pytest.mark.parametrize("absent", ["file", "y", "id"])
def test_a_missing_column_is_named(tmp_path, absent):
    header = ",".join(c for c in ("file", "y", "id") if c != absent)
    path = index(tmp_path, [("a.png", "no")], header=header)
    with pytest.raises(DataError, match=f"has no column '{absent}'") as caught:
        read_index(path, schema(patient="id"))
    assert "image.file" in caught.value.remedy


def test_blank_ids_are_refused(tmp_path):
    png(tmp_path, "a.png")
    path = index(tmp_path, [("a.png", "no", 1), ("a.png", "no", " ")])
    with pytest.raises(DataError, match="record 2 has no patient id in column 'id'"):
        read_cohort(CohortSource("a", path, 40, b"key"), schema(patient="id"))


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    png(tmp_path, "a.png")
    path = index(tmp_path, [("a.png", "no", 1)])

    def locked(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", locked)
    with pytest.raises(DataError, match=r"record 1: image '.*a\.png' .*Permission denied"):
        read_index(path, schema())
