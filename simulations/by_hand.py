"""The public data sets that are made of their originals by hand: where these are, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HandState = Literal["present", "missing"]


@dataclass(frozen=True)
class ByHand:
    """A public data set that is made of its originals by hand, so that no checksum is published.

    Attributes:
        home: The page that describes it.
        cite: The DOI to cite.
        count: How many of `unit` it holds.
        unit: What one row or picture is.
        paths: Where the studies look for its files, below the data folder.
        how: How to make them, a step each.
    """

    name: str
    title: str
    licence: str
    home: str
    cite: str
    count: int
    unit: str
    paths: tuple[str, ...]
    how: tuple[str, ...]


_RESIZED = (
    "make each file grey, resize it to 28x28 (for the studies of 64 pixels, to 64x64), and "
    "save one archive with numpy.savez_compressed, an entry a file in each array:",
    "  images: (files, 28, 28), whole numbers 0 to 255 (uint8)",
)

BY_HAND: tuple[ByHand, ...] = (
    ByHand(
        name="brain_mri",
        title="Brain tumours on MRI slices (Bhuvaji et al. 2020)",
        licence="MIT",
        home="https://www.kaggle.com/datasets/sartajbhuvaji/brain-tumor-classification-mri",
        cite="10.34740/kaggle/dsv/1183165",
        count=3264,
        unit="images",
        paths=("brain_mri/brain_mri_28.npz", "brain_mri/brain_mri_64.npz"),
        how=(
            "download and unpack it: JPEG files in folders Training and Testing; take all of them",
            *_RESIZED,
            "  labels: 0 for glioma_tumor, 1 for meningioma_tumor, 2 for no_tumor, 3 for "
            "pituitary_tumor",
        ),
    ),
    ByHand(
        name="busi",
        title="Breast ultrasound (Al-Dhabyani et al. 2020)",
        licence="CC0",
        home="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        cite="10.1016/j.dib.2019.104863",
        count=780,
        unit="images",
        paths=("busi/busi_28.npz", "busi/busi_64.npz"),
        how=(
            "download and unpack it: PNG files in folders benign, malignant and normal; leave out "
            "those whose name says mask",
            *_RESIZED,
            "  labels: 0 for benign, 1 for malignant, 2 for normal",
        ),
    ),
    ByHand(
        name="chestxray",
        title="Chest X-rays of children, with patient ids (Kermany et al. 2018)",
        licence="CC BY 4.0",
        home="https://data.mendeley.com/datasets/rscbjbr9sj",
        cite="10.17632/rscbjbr9sj",
        count=5856,
        unit="images",
        paths=("chestxray/chestxray_28.npz", "chestxray/chestxray_64.npz"),
        how=(
            "download the chest X-ray archive from that page and unpack it: JPEG files in folders "
            "NORMAL and PNEUMONIA, for training and for testing; take all of them",
            *_RESIZED,
            "  labels: 0 for NORMAL, 1 where the file's name says bacteria, 2 where it says virus",
            "  patient: the start of the file's name, 'person17', 'IM-0115' or "
            "'NORMAL2-IM-1028', as text: who shares it counts as one patient",
        ),
    ),
    ByHand(
        name="indo_rct",
        title="Indomethacin after ERCP, four trial centres (medicaldata)",
        licence="MIT",
        home="https://higgi13425.github.io/medicaldata/",
        cite="10.1056/NEJMoa1111103",
        count=602,
        unit="patients",
        paths=("indo_rct/indo_rct.csv",),
        how=(
            "in R: install.packages('medicaldata')",
            "in R: write.csv(medicaldata::indo_rct, 'indo_rct.csv', row.names = FALSE, na = '')",
        ),
    ),
    ByHand(
        name="lung_ct",
        title="Lung cancer on CT slices (IQ-OTH/NCCD)",
        licence="CC BY 4.0",
        home="https://data.mendeley.com/datasets/bhmdr45bh2",
        cite="10.17632/bhmdr45bh2",
        count=1097,
        unit="images",
        paths=("lung_ct/lung_ct_28.npz", "lung_ct/lung_ct_64.npz"),
        how=(
            "download and unpack it: JPEG files in folders Normal cases, Bengin cases and "
            "Malignant cases; take all of them",
            *_RESIZED,
            "  labels: 0 for normal, 1 for benign, 2 for malignant",
        ),
    ),
    ByHand(
        name="messidor_dr",
        title="Findings on eye fundus photographs (UCI)",
        licence="CC BY 4.0",
        home="https://archive.ics.uci.edu/dataset/329/diabetic+retinopathy+debrecen",
        cite="10.24432/C5XP4P",
        count=1151,
        unit="eyes",
        paths=("messidor_dr/messidor_features.arff",),
        how=(
            "download and unpack it",
            "name the attributes V0, V1, ..., V18 and Class, in the file's order, and make V0, V1, "
            "V18 and Class nominal: @attribute V0 {0,1}",
        ),
    ),
    ByHand(
        name="omniglot",
        title="Drawn characters of many alphabets (Lake et al. 2015)",
        licence="MIT",
        home="https://github.com/brendenlake/omniglot",
        cite="10.1126/science.aab3050",
        count=5840,
        unit="drawings",
        paths=(
            "omniglot/images_background_small1_28.npz",
            "omniglot/images_background_small2_28.npz",
        ),
        how=(
            "download images_background_small1.zip and images_background_small2.zip from its "
            "folder python and unpack them: a PNG file a drawing, in ALPHABET/CHARACTER",
            "resize each to 28x28 and save an archive of each set with numpy.savez_compressed:",
            "  images: (drawings, 28, 28), whole numbers 0 (ink) to 255 (uint8)",
            "  labels: (drawings,), the number of each drawing's class, from 0",
            "  classes: (classes,), their names, 'Greek/character01'",
        ),
    ),
    ByHand(
        name="physionet2012",
        title="Two days in intensive care (PhysioNet/CinC 2012)",
        licence="ODC-By 1.0",
        home="https://physionet.org/content/challenge-2012/1.0.0/",
        cite="10.1161/01.CIR.101.23.e215",
        count=4000,
        unit="stays",
        paths=("physionet2012/seta_features.csv",),
        how=(
            "download set-a and Outcomes-a.txt, and make one table with a row a stay:",
            "  RecordID, Age, Gender, Height and ICUType as given there; -1 is missing",
            "  of each other variable its values' mean, last, least and largest, as HR_mean, "
            "HR_last, HR_min, HR_max; empty where there is none",
            "  the columns of Outcomes-a.txt for the same RecordID",
        ),
    ),
    ByHand(
        name="screening",
        title="Abstracts screened for fourteen reviews (Cohen et al. 2006)",
        licence="labels public",
        home="https://dmice.ohsu.edu/cohenaa/systematic-drug-class-review-data.html",
        cite="10.1197/jamia.M1929",
        count=15268,
        unit="abstracts",
        paths=("screening/cohen2006_hashed.npz",),
        how=(
            "download the list of labels and, from PubMed, title and abstract of each entry",
            "count their words in 2^14 columns by scikit-learn's HashingVectorizer (n_features = "
            "2 ** 14, alternate_sign = False), which divides each row by its length",
            "save with numpy.savez_compressed the matrix as data, indices, indptr and shape (CSR), "
            "and beside it, an entry an abstract:",
            "  label: 1 where the review included the abstract, else 0",
            "  review: the review's name, 'ACEInhibitors'",
        ),
    ),
    ByHand(
        name="tcga_brca",
        title="Survival with breast cancer, six regions (TCGA, by FLamby)",
        licence="TCGA open access",
        home="https://github.com/owkin/FLamby",
        cite="10.48550/arXiv.2210.04620",
        count=1088,
        unit="patients",
        paths=("tcga_brca/brca.csv", "tcga_brca/centers.csv", "tcga_brca/train_test_split.csv"),
        how=(
            "take brca.csv and centers.csv from its folder flamby/datasets/fed_tcga_brca, and "
            "train_test_split.csv from dataset_creation_scripts below it",
        ),
    ),
)


def hand_state(path: str, folder: Path) -> HandState:
    """Tell whether a file that was made by hand is below a data folder; its bytes may differ."""
    return "present" if (folder / path).is_file() else "missing"
