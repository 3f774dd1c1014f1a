"""Which labelled images a few-shot probe learns from: drawn by patient, nested, the same on every machine.

Images and patients are ordered by a hash of their ids, the seed and the finding, and the first ones are drawn. So a
draw depends on no order of rows and on no random generator's version, and a larger one contains the smaller ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from cxr_embed.types import counted


@dataclass(frozen=True)
class Order:
    """The images of one finding in the order in which they are drawn.

    Attributes:
        positive, negative: rows, `(P,)` and `(M,)`; k shots are the first k of each.
        positive_patients, negative_patients: how many come first that are of different patients. Later ones are
            second images, then third ones.
    """

    positive: np.ndarray
    negative: np.ndarray
    positive_patients: int
    negative_patients: int

    def shots(self, count: int) -> np.ndarray:
        """The rows of a draw: `count` positives, then as many negatives."""
        return np.concatenate([self.positive[:count], self.negative[:count]])

    def lacking(self, count: int) -> str:
        """Why no draw of this size is possible; empty where one is."""
        for word, rows, patients in (
            ("positive", self.positive, self.positive_patients),
            ("negative", self.negative, self.negative_patients),
        ):
            if len(rows) < count:
                whose = "of patients without the finding " if word == "negative" else ""
                return (
                    f"{counted(len(rows), f'{word} image')} {whose}({counted(patients, 'patient')}) in "
                    f"the training part, {count:,} needed"
                )
        return ""

    def repeats(self, count: int) -> bool:
        """Whether a draw of this size has several images of a patient, for want of patients."""
        return count > min(self.positive_patients, self.negative_patients)


def hashes(ids: np.ndarray) -> np.ndarray:
    """`(N,)` uint64 of strings."""
    unique, place = np.unique(ids, return_inverse=True)
    digests = [
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") for name in unique.tolist()
    ]
    return np.array(digests, np.uint64)[place]


def draw_order(images: np.ndarray, patients: np.ndarray, labels: np.ndarray, finding: str, seed: int) -> Order:
    """Orders a finding's images.

    A patient with a positive image gives positives only; negatives come from patients without any, so that none is on
    both sides.

    Args:
        images, patients: `(N,)` uint64, `hashes` of the ids.
        labels: `(N,)` of 1, 0 and NaN.
        finding: its name.
        seed: another one gives another draw.
    """
    key = hashes(np.array([f"{seed} {finding}"]))[0]
    image_key, patient_key = _mixed(images ^ key), _mixed(patients ^ key)
    with_finding = np.isin(patients, patients[labels == 1])
    positive, positive_patients = _by_rounds(np.flatnonzero(labels == 1), image_key, patient_key)
    negative, negative_patients = _by_rounds(np.flatnonzero((labels == 0) & ~with_finding), image_key, patient_key)
    return Order(positive, negative, positive_patients, negative_patients)


def draw_patients(patients: np.ndarray, seed: int) -> np.ndarray:
    """The order in which a training part's patients are drawn, for shares of them; a larger share contains a smaller.

    Args:
        patients: `(N,)` uint64, `hashes` of the images' patients.
        seed: another one gives another draw.

    Returns:
        `(N,)` int64, the place of each image's patient in the order: a draw of P patients is `order < P`.
    """
    key = hashes(np.array([f"{seed} fraction"]))[0]
    unique, place = np.unique(patients, return_inverse=True)
    mixed = _mixed(unique ^ key)
    return np.asarray(np.argsort(np.lexsort((unique, mixed)))[place])


def patients_of(fraction: float, patients: int) -> int:
    """How many patients a share of them is, rounded; 0 where that is less than half of one."""
    return int(fraction * patients + 0.5)


def patients_for_test(patients: np.ndarray, part: float, seed: int) -> np.ndarray:
    """`(N,)` bool: the images of a part of the patients, for data that nobody has split."""
    key = hashes(np.array([f"{seed} split"]))[0]
    mixed = _mixed(hashes(patients) ^ key)
    return np.asarray(mixed < np.uint64(int(part * 2**64)))


def _by_rounds(rows: np.ndarray, image_key: np.ndarray, patient_key: np.ndarray) -> tuple[np.ndarray, int]:
    """One image of every patient, then a second one, and so on; patients in the same order in each round."""
    if not len(rows):
        return rows, 0
    rows = rows[np.lexsort((image_key[rows], patient_key[rows]))]
    keys = patient_key[rows]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    turn = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    return rows[np.lexsort((keys, turn))], len(first)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): nearby values end up far apart."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
