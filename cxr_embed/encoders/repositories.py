"""What is known of checkpoints of `hf:`, `timm:` and `open_clip:` by name: terms that bind, what they learned from.

Found by the name as it is on the Hub, in a folder's name too. A checkpoint that is not here is as its own card says.
"""

from __future__ import annotations

import re
from typing import Any

from cxr_embed.encoders.licences import DINOV3, MSRLA, words_on_licence
from cxr_embed.encoders.seen import seen_by_images

_RAD_DINO_DATA = ("mimic-cxr-jpg", "chexpert", "nih-chestxray14", "padchest", "brax")
# Name to fields of a row of the encoder table. What XrayCLIP and XraySigLIP saw is said by CheXagent's paper alone
# (arXiv 2401.12208), which was not at hand: their results are marked by a plan's `saw` only.
_KNOWN: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        r"xray(clip|siglip)__",
        {
            "licence": "CC-BY-NC-4.0",
            "terms": words_on_licence("cc-by-nc-4.0"),
            "trained_on": "CheXagent's radiographs and reports (arXiv 2401.12208)",
        },
    ),
    (
        r"rad-dino-maira-2($|@)",
        {
            "licence": "MSRLA",
            "terms": MSRLA,
            "trained_on": "MIMIC-CXR, CheXpert, NIH, PadChest, BRAX, a private set",
            "saw": seen_by_images("its model card; Pérez-García et al., 2024, arXiv 2401.10815", *_RAD_DINO_DATA),
        },
    ),
    (
        r"(^|[/_.-])dinov3",
        {"licence": "DINOv3 License", "terms": DINOV3, "trained_on": "photographs of the web (LVD-1689M, SAT-493M)"},
    ),
    (r"biomedclip", {"licence": "MIT", "trained_on": "figures and captions of PubMed Central's articles (PMC-15M)"}),
    (r"(^|/|_)pe-core-", {"licence": "Apache-2.0", "trained_on": "pictures, videos and captions of the web"}),
    (r"(^|[/_-])siglip2($|[-@])", {"trained_on": "pictures and captions of the web (WebLI)"}),
)


def known_facts(name: str) -> dict[str, Any]:
    """Fields of the encoder's row that its name decides; none for a name that is not known.

    Args:
        name: behind `hf:`, `timm:` or `open_clip:`, or a folder's name.
    """
    lower = name.lower()
    return next((facts for pattern, facts in _KNOWN if re.search(pattern, lower)), {})
