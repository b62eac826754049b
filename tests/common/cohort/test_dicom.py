"""DICOM files: what the header says is done, and what cannot be done is refused by name."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    BasicTextSRStorage,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

from common.cohort.image_files import read_image_file
from common.cohort.pixels import UnusableImage
from common.cohort.schema import Image

RULES = Image(size=28)
RAMP = np.arange(900).reshape(30, 30)  # 0 to 899


def dicom(pixels, *, bits=12, kind="MONOCHROME2", syntax=ExplicitVRLittleEndian, **header):
    """Return a file's dataset; a header value of None takes the element out."""
    pixels = np.asarray(pixels)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = kind
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.min() < 0)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    letter = "i" if dataset.PixelRepresentation else "u"
    dataset.PixelData = pixels.astype(f"{order}{letter}{dataset.BitsAllocated // 8}").tobytes()
    dataset["PixelData"].VR = "OB" if bits <= 8 else "OW"
    for name, value in header.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def raw(dataset):
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def read(dataset):
    return read_image_file(raw(dataset), RULES)


def shown(pixels=RAMP, **header):
    return read(dicom(pixels, **header))[..., 0]


def test_without_a_window_the_stored_bits_are_the_range():
    # Broken once: a stretch to the image's own range would put 899 at 255.
    found = shown()
    assert found.shape == (30, 30)
    assert found == pytest.approx(RAMP / 4095 * 255, abs=1e-3)
    assert shown(bits=10) == pytest.approx(RAMP / 1023 * 255, abs=1e-3)
    assert shown(RAMP % 256, bits=8) == pytest.approx(RAMP % 256, abs=1e-3)


def test_signed_values_have_their_own_range():
    found = shown(RAMP - 450)
    assert found == pytest.approx((RAMP - 450 + 2048) / 4095 * 255, abs=1e-3)


@pytest.mark.parametrize("slope", [2, 0.5])
def test_without_a_window_a_rescale_changes_units_and_nothing_else(slope):
    found = shown(RescaleSlope=slope, RescaleIntercept=-1024)
    assert found == pytest.approx(shown(), abs=1e-3)


def test_a_negative_slope_turns_black_into_white():
    found = shown(RescaleSlope=-1, RescaleIntercept=0)
    assert found == pytest.approx(255 - shown(), abs=1e-3)


def test_a_window_is_in_rescaled_units():
    # CT: stored minus 1024 is in Hounsfield units. Window centre -500, width 401: LINEAR runs from
    # -500.5 - 200 = -700.5 to -300.5 (PS3.3 C.11.2.1.2.1), so stored 323.5 to 723.5.
    header = {
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "WindowCenter": -500,
        "WindowWidth": 401,
    }
    expected = np.clip((RAMP - 323.5) / 400, 0, 1) * 255
    assert shown(**header) == pytest.approx(expected, abs=1e-3)
    exact = np.clip((RAMP - 1024 + 500) / 401 + 0.5, 0, 1) * 255
    assert shown(**header, VOILUTFunction="LINEAR_EXACT") == pytest.approx(exact, abs=1e-3)
    sigmoid = 255 / (1 + np.exp(-4 * (RAMP - 524) / 401))
    assert shown(**header, VOILUTFunction="SIGMOID") == pytest.approx(sigmoid, abs=1e-3)


def test_of_several_windows_the_first_counts():
    several = shown(WindowCenter=[400, 900], WindowWidth=[100, 10])
    assert np.array_equal(several, shown(WindowCenter=400, WindowWidth=100))


def test_a_window_of_one_is_a_threshold():
    found = shown(WindowCenter=400, WindowWidth=1)
    assert np.array_equal(found, np.where(RAMP > 399.5, 255, 0))


def test_monochrome1_is_inverted_after_its_window():
    # Broken once: lungs white in one hospital's files and black in another's.
    for header in ({}, {"WindowCenter": 400, "WindowWidth": 100}):
        assert shown(kind="MONOCHROME1", **header) == pytest.approx(255 - shown(**header), abs=1e-3)


def table(values, *, first=0, bits=8):
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = np.asarray(values, dtype="<u2").tobytes()
    item["LUTData"].VR = "OW"
    item["LUTDescriptor"].VR = "US"
    return [item]


def test_a_value_of_interest_table_maps_what_lies_outside_to_its_ends():
    # Broken once: pydicom keeps the index in 8 bits, where entry 256 reads entry 0.
    values = np.arange(400) // 2
    found = shown(VOILUTSequence=table(values, first=100))
    assert np.array_equal(found, values[np.clip(RAMP - 100, 0, 399)])


def test_a_modality_table_takes_the_rescales_place():
    found = shown(ModalityLUTSequence=table(np.arange(1024)[::-1], bits=10))
    assert found == pytest.approx((1023 - RAMP) / 1023 * 255, abs=1e-3)


COLOUR = np.random.default_rng(0).integers(0, 256, (30, 40, 3))


def test_rgb_stays_rgb():
    assert np.array_equal(read(dicom(COLOUR, bits=8, kind="RGB")), COLOUR)


def test_ybr_becomes_rgb():
    grey = np.full((30, 40, 3), 128)
    grey[..., 0] = np.arange(40) * 6
    found = read(dicom(grey, bits=8, kind="YBR_FULL"))
    assert found == pytest.approx(np.repeat(grey[..., :1], 3, axis=2), abs=1)
    red = np.full((30, 40, 3), (76, 85, 255))  # PS3.3 C.7.6.3.1.2: of (255, 0, 0)
    assert read(dicom(red, bits=8, kind="YBR_FULL"))[0, 0] == pytest.approx([255, 0, 0], abs=2)


def test_a_palette_becomes_its_colours():
    header = {}
    for number, name in enumerate(("Red", "Green", "Blue")):
        header[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        entries = (np.arange(256) * (number + 1) % 256 * 257).astype("<u2")
        header[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    pixels = RAMP % 256
    found = read(dicom(pixels, bits=8, kind="PALETTE COLOR", **header))
    expected = np.stack([pixels * k % 256 for k in (1, 2, 3)], axis=2)
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, RLELossless, JPEG2000Lossless])
def test_other_syntaxes_hold_the_same_image(syntax):
    is_big = syntax == ExplicitVRBigEndian
    dataset = dicom(RAMP, syntax=syntax if is_big else ExplicitVRLittleEndian)
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    elif syntax == JPEG2000Lossless:
        file = io.BytesIO()
        Pillow.fromarray(RAMP.astype(np.uint16)).save(file, "JPEG2000", no_jp2=True)
        dataset.PixelData = encapsulate([file.getvalue()])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.file_meta.TransferSyntaxUID = syntax
    full = 65535 if syntax == JPEG2000Lossless else 4095
    assert read(dataset)[..., 0] == pytest.approx(RAMP / full * 255, abs=1e-3)


def test_a_compressed_colour_image_is_rgb():
    smooth = np.zeros((32, 32, 3), np.uint8)
    smooth[..., 0], smooth[..., 1] = 200, np.arange(32) * 4
    file = io.BytesIO()
    Pillow.fromarray(smooth).save(file, "JPEG", quality=98)
    dataset = dicom(smooth, bits=8, kind="YBR_FULL_422")
    dataset.PixelData = encapsulate([file.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert read(dataset) == pytest.approx(smooth.astype(float), abs=6)


REFUSED = {
    "frames": (dicom(RAMP, NumberOfFrames=24), "has 24 frames, and a record is one image"),
    "no pixels": (
        dicom(RAMP, PixelData=None),
        r"without its pixels \(it is a CT Image Storage\)",
    ),
    "a float map": (
        dicom(RAMP, PixelData=None, FloatPixelData=b"\0" * 3600),
        "without pixels of whole numbers",
    ),
    "a report": (
        dicom(RAMP, PixelData=None, SOPClassUID=BasicTextSRStorage),
        r"without pixels of whole numbers \(it is a Basic Text SR",
    ),
    # Broken once: pydicom refused it first, in words of its own.
    "colour model": (
        dicom(COLOUR, bits=8, kind="HSV"),
        "^has photometric interpretation 'HSV', which is not known$",
    ),
    "small": (dicom(RAMP[:20]), "is 20x30 pixels; sides of 28 to 8192"),
    "no window": (dicom(RAMP, WindowCenter=1, WindowWidth=0), "has a window 0 wide"),
    "odd window": (
        dicom(RAMP, WindowCenter=1, WindowWidth=9, VOILUTFunction="CUBIC"),
        "window of the unknown kind 'CUBIC'",
    ),
    "no slope": (dicom(RAMP, RescaleSlope=0, RescaleIntercept=1), "a rescale slope of 0"),
    "no rows": (dicom(RAMP, Rows=None), "header lacks Rows$"),
    "no bits": (dicom(RAMP, BitsStored=None), "header lacks BitsStored$"),
    "no colour model": (
        dicom(RAMP, PhotometricInterpretation=None),
        "header lacks PhotometricInterpretation$",
    ),
    "too few pixels": (dicom(RAMP, PixelData=b"\0" * 100), "cannot be decoded"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_one_plain_image_is_refused_with_the_reason(case):
    dataset, message = REFUSED[case]
    with pytest.raises(UnusableImage, match=message) as caught:
        read(dataset)
    assert caught.value.remedy


def test_a_file_cut_in_its_header_says_so():
    """Fault it is for: "unpack requires a buffer of 4 bytes", or "name an image, not a report"."""
    whole = raw(dicom(RAMP))
    for end in (140, 153, 300, 400):
        with pytest.raises(UnusableImage, match=r"ends in its header|without its pixels") as caught:
            read_image_file(whole[:end], RULES)
        assert "cut off" in caught.value.remedy
        assert "report" not in caught.value.remedy


def test_a_compression_that_cannot_be_decoded_is_named():
    dataset = dicom(RAMP)
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    for syntax, name in ((JPEGLosslessSV1, "JPEG Lossless"), (MPEG2MPML, "MPEG2 Main Profile")):
        dataset.file_meta.TransferSyntaxUID = syntax
        with pytest.raises(UnusableImage, match=f"is compressed as '{name}.*cannot be decoded"):
            read(dataset)


def test_a_cut_off_or_damaged_file_is_read_or_refused_and_nothing_else():
    whole, refused = raw(dicom(RAMP, WindowCenter=400, WindowWidth=100)), 0
    for end in range(140, len(whole) - 1, 61):
        with pytest.raises(UnusableImage):
            read_image_file(whole[:end], RULES)
    for at in range(132, 700, 3):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        try:
            found = read_image_file(bytes(damaged), RULES)
        except UnusableImage:
            refused += 1
        else:
            assert 0 <= found.min() <= found.max() <= 255
    assert refused
