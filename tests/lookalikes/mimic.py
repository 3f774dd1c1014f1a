"""MIMIC-CXR-JPG 2.0.0 and 2.1.0: a tree of files, and tables by image and by study."""

from __future__ import annotations

from pathlib import Path

from lookalikes import CHEXPERT, Cells, findings, picture, plain, table

FINDINGS = sorted(CHEXPERT)
RADIOLOGIST = [*FINDINGS]  # the order is of no account; what is called otherwise is renamed in `write`
META = [
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
]


def dicom_id(number: int) -> str:
    """An id that looks like the published ones."""
    return "-".join(f"{0xABC000 + 7 * number + place:08x}" for place in range(5))


# Patient, study, view as published, date as published and as it has to come out, part.
IMAGES = [
    ("19999901", "59999101", "PA", "21800506", "2180-05-06", "train"),
    ("19999901", "59999101", "LATERAL", "21800506", "2180-05-06", "train"),
    ("19999901", "59999102", "", "21800702", "2180-07-02", "train"),
    ("19999902", "59999103", "AP", "21110131", "2111-01-31", "validate"),
    ("19999903", "59999104", "LL", "21991224", "2199-12-24", "test"),
    ("19999903", "59999105", "AP", "21991225", "2199-12-25", "test"),
    # Eight published studies could not be labelled: they stand in no table of labels.
    ("19999904", "59999106", "PA", "21500101", "2150-01-01", "train"),
]
CHEXPERT_LABELS = {
    "59999101": findings(FINDINGS, No_Finding="1.0"),
    "59999102": findings(FINDINGS, Edema="-1.0", Support_Devices="1.0"),
    "59999103": findings(FINDINGS, Atelectasis="1.0", Cardiomegaly="0.0"),
    "59999104": findings(FINDINGS, Pneumonia="1.0", Lung_Opacity="1.0"),
    "59999105": findings(FINDINGS, Pleural_Effusion="1.0"),
}
NEGBIO = {
    **CHEXPERT_LABELS,
    "59999102": findings(FINDINGS, Edema="1.0"),
    "59999104": findings(FINDINGS, Pneumonia="-1.0"),
}
# One of the two studies of the test part; blank is what its report does not mention.
RADIOLOGISTS = {"59999104": findings(FINDINGS, Pneumonia="0.0", Lung_Opacity="-1.0", Edema="1.0")}


def path_of(number: int) -> str:
    """Where an image lies."""
    subject, study = IMAGES[number][:2]
    return f"files/p{subject[:2]}/p{subject}/s{study}/{dicom_id(number)}.jpg"


def write(root: Path, *, version: str = "2.1.0", packed: bool = True) -> Path:
    """The data set."""
    end = ".csv.gz" if packed else ".csv"
    for number in range(len(IMAGES)):
        picture(root / path_of(number))
    meta, splits = [], []
    for number, (subject, study, view, date, _, part) in enumerate(IMAGES):
        meta.append([dicom_id(number), subject, study, "CHEST (PA AND LAT)", view, "3056", "2544", date, "213014.531"])
        meta[-1] += ["CHEST (PA AND LAT)", "postero-anterior", "Erect"]
        splits.append([dicom_id(number), study, subject, part])
    table(root / f"mimic-cxr-2.0.0-metadata{end}", META, meta)
    table(root / f"mimic-cxr-2.0.0-split{end}", ["dicom_id", "study_id", "subject_id", "split"], splits)
    patients = {study: subject for subject, study, *_ in IMAGES}
    for name, labels in {"chexpert": CHEXPERT_LABELS, "negbio": NEGBIO}.items():
        rows = [[patients[study], study, *cells.values()] for study, cells in labels.items()]
        table(root / f"mimic-cxr-2.0.0-{name}{end}", ["subject_id", "study_id", *FINDINGS], rows)
    if version == "2.1.0":
        header = ["Airspace Opacity" if name == "Lung Opacity" else name for name in RADIOLOGIST]
        rows = [[study, *(cells[name] for name in RADIOLOGIST)] for study, cells in RADIOLOGISTS.items()]
        table(root / "mimic-cxr-2.1.0-test-set-labeled.csv", ["study_id", *header], rows)
    return root


def expected(*, version: str = "2.1.0", labels: str = "chexpert") -> Cells:
    """The cells of a scan."""
    cells: Cells = {}
    for number, (subject, study, view, _, date, part) in enumerate(IMAGES):
        known = {"chexpert": CHEXPERT_LABELS, "negbio": NEGBIO, "radiologists": RADIOLOGISTS}[labels]
        if version == "2.1.0" and part == "test" and study in RADIOLOGISTS:
            known = RADIOLOGISTS
        cells[path_of(number)] = {
            "image_id": dicom_id(number),
            "patient_id": f"mimic-{subject}",
            "study_id": study,
            "view": view,
            "study_date": date,
            "split": part,
            **plain(known.get(study) or findings(FINDINGS)),
        }
    return cells
