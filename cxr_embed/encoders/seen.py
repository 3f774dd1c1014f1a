"""Which public data sets an encoder learned from: results on them are not a clean test.

Data sets go by the names of their recipes. Some are made of another one's radiographs: who learned from one of them saw
pictures of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

_TORCHXRAYVISION = "Cohen et al., 2022, arXiv 2111.00595, and its list of weights"
# Data set to the one whose radiographs it is made of.
SAME_PICTURES = {
    "rsna-pneumonia": ("nih-chestxray14", "Shih et al., 2019, doi 10.1148/ryai.2019180041"),
    "siim-pneumothorax": ("nih-chestxray14", "the challenge's own description, 2019"),
    "chestx-det": ("nih-chestxray14", "Lian et al., 2021, arXiv 2104.10326"),
    "covidx": ("nih-chestxray14", "by way of RSNA's: Wang et al., 2020, doi 10.1038/s41598-020-76550-z"),
    "nih-chestxray14-sample": ("nih-chestxray14", "its publisher's own description: a random sample of it"),
    "vindr-cxr-kaggle": ("vindr-cxr", "the challenge's own description, 2020"),
}
_TITLES = {
    "nih-chestxray14": "NIH ChestX-ray14",
    "rsna-pneumonia": "RSNA pneumonia",
    "siim-pneumothorax": "SIIM pneumothorax",
    "chestx-det": "ChestX-Det",
    "covidx": "COVIDx",
    "nih-chestxray14-sample": "the sample of NIH ChestX-ray14",
    "vindr-cxr": "VinDr-CXR",
    "vindr-cxr-kaggle": "VinBigData's challenge",
}


@dataclass(frozen=True)
class Seen:
    """A data set that an encoder learned from.

    Attributes:
        data: the name of its recipe.
        how: in words that go on from 'learned'.
        source: where that is said.
    """

    data: str
    how: str
    source: str


def seen_by_labels(source: str, *data: str) -> tuple[Seen, ...]:
    """Data sets that an encoder learned from with their labels; which images is not known."""
    return tuple(Seen(name, "from its images with their labels; which of them is not known", source) for name in data)


def seen_by_images(source: str, *data: str) -> tuple[Seen, ...]:
    """Data sets that an encoder learned from without labels."""
    return tuple(Seen(name, "from its images without labels; which of them is not known", source) for name in data)


def seen_with_reports(source: str, *data: str) -> tuple[Seen, ...]:
    """Data sets that an encoder learned from with their reports."""
    return tuple(Seen(name, "from its images with their reports; which of them is not known", source) for name in data)


def seen_by_weights(*data: str) -> tuple[Seen, ...]:
    """Data sets behind weights of TorchXRayVision."""
    return seen_by_labels(_TORCHXRAYVISION, *data)


def words_on(saw: tuple[Seen, ...], recipe: str) -> str:
    """How an encoder saw a data set, in words; blank where nothing of the kind is known."""
    for seen in saw:
        if seen.data == recipe:
            return f"learned {seen.how}"
    family = _pictures(recipe)
    for seen in saw:
        if family and _pictures(seen.data) == family:
            title = _TITLES.get(seen.data, seen.data)
            return f"learned from {title}, which has radiographs in common: {seen.how}"
    return ""


def _pictures(recipe: str) -> str:
    """The data set whose radiographs they are."""
    return SAME_PICTURES[recipe][0] if recipe in SAME_PICTURES else recipe
