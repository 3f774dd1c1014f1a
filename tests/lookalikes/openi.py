"""Open-i's chest radiographs: PNG files, and reports as XML that name them."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from lookalikes import Cells, named, picture

# Report; its sections; terms by hand and by a program; images; the findings that are there, or None: nobody knows.
REPORTS: list[tuple[str, dict[str, str], list[str], list[str], list[str], list[str] | None]] = [
    (
        "CXR9001",
        {"COMPARISON": "None.", "INDICATION": "XXXX-year-old", "FINDINGS": "Clear.", "IMPRESSION": "Normal chest."},
        ["normal"],
        [],
        ["CXR9001_1_IM-0001-3001", "CXR9001_1_IM-0001-4001"],
        [],
    ),
    (
        "CXR9002",
        {"FINDINGS": "Heart is large & 'full' <1.\n  Scar.", "IMPRESSION": ""},
        ["Cardiomegaly/mild", "Pulmonary Disease, Chronic Obstructive", "Hernia, Hiatal/large", "Lung/hypoinflation"],
        ["Cardiomegaly", "hernia"],
        ["CXR9002_IM-0652-1001"],
        ["Cardiomegaly", "Pulmonary Disease, Chronic Obstructive", "Hernia, Hiatal"],
    ),
    ("CXR9003", {}, ["Spine/degenerative"], [], ["CXR9003_IM-0700-1001"], []),
    ("CXR9004", {}, ["No Indexing"], [], ["CXR9004_IM-0701-1001"], None),
    (
        "CXR9005",
        {},
        ["Technical Quality of Image Unsatisfactory \t", "Opacity/base"],
        [],
        ["CXR9005_IM-0702-1001"],
        None,
    ),
    ("CXR9006", {}, [], [], ["CXR9006_IM-0703-1001-0001"], None),
    ("CXR9007", {"IMPRESSION": "A report without an image."}, ["normal"], [], [], []),
]


def _xml(report: str, sections: dict[str, str], major: list[str], automatic: list[str], images: list[str]) -> str:
    texts = "".join(f'<AbstractText Label="{name}">{escape(text)}</AbstractText>' for name, text in sections.items())
    terms = "".join(f"<major>{escape(term)}</major>" for term in major)
    terms += "".join(f"<automatic>{escape(term)}</automatic>" for term in automatic)
    pictures = "".join(
        f'<parentImage id="{image}"><figureId>F{number}</figureId><caption>Xray Chest PA and Lateral</caption>'
        f'<panel type="single"><url>/made/up/{image}.jpg</url></panel></parentImage>'
        for number, image in enumerate(images, 1)
    )
    article = f"<Article><Abstract>{texts}</Abstract></Article>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<eCitation>\n'
        f'<meta type="rr"/><uId id="{report}"/><pmcId id="9"/>\n'
        f"<MedlineCitation>{article}</MedlineCitation>\n<MeSH>{terms}</MeSH>\n{pictures}\n</eCitation>\n"
    )


def write(root: Path, *, reports: str = "ecgen-radiology", images: str = "NLMCXR_png") -> Path:
    """The data set."""
    (root / reports).mkdir(parents=True, exist_ok=True)
    for number, (report, sections, major, automatic, pictures, _) in enumerate(REPORTS, 1):
        (root / reports / f"{number}.xml").write_text(_xml(report, sections, major, automatic, pictures))
        for image in pictures:
            picture(root / images / f"{image}.png")
    return root


def expected(names: list[str], *, images: str = "NLMCXR_png") -> Cells:
    """The cells of a scan."""
    return {
        f"{images}/{image}.png": {
            "image_id": image,
            "patient_id": f"openi-{report}",
            "study_id": report,
            "mesh": "|".join(term.strip() for term in major),
            "mesh_automatic": "|".join(automatic),
            **{
                f"report_{name.lower()}": " ".join(sections.get(name, "").split())
                for name in ("INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION")
            },
            **named(names, there or [], "" if there is None else "0"),
        }
        for report, sections, major, automatic, pictures, there in REPORTS
        for image in pictures
    }
