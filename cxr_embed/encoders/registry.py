"""What is known of each encoder without loading it."""

from __future__ import annotations

import difflib
from dataclasses import replace

from cxr_embed.encoders.card import EncoderCard
from cxr_embed.encoders.hub import HubModel
from cxr_embed.encoders.repositories import known_facts
from cxr_embed.encoders.seen import Seen, seen_by_images, seen_by_labels, seen_by_weights, seen_with_reports
from cxr_embed.encoders.torchxrayvision_classes import OPERATING_POINTS
from cxr_embed.errors import EncoderError


def _densenet(name: str, trained_on: str, *saw: str) -> EncoderCard:
    return EncoderCard(
        name=name,
        module="cxr_embed.encoders.torchxrayvision",
        outputs={"features": (1024,), "scores": (len(OPERATING_POINTS[name]),), "map": (7, 7, 1024)},
        default_outputs=("features",),
        licence="Apache-2.0",
        framework="engines",
        trained_on=trained_on,
        saw=seen_by_weights(*saw),
    )


def _eva_x(size: str, width: int) -> EncoderCard:
    return EncoderCard(
        name=f"eva-x-{size}",
        module="cxr_embed.encoders.eva_x",
        outputs={"features": (width,)},
        licence="MIT",
        framework="torch",
        extra="torch",
        needs=("torch", "timm"),
        trained_on="NIH, CheXpert, MIMIC-CXR",
        saw=seen_by_images(
            "Yao et al., 2025, doi 10.1038/s41746-025-02032-z", "nih-chestxray14", "chexpert", "mimic-cxr-jpg"
        ),
        batch_size=(4, 64),
    )


_CARDS = (
    EncoderCard(
        name="mini",
        module="cxr_embed.encoders.mini",
        outputs={"features": (256,), "contrastive": (64,), "map": (28, 28, 256)},
        licence="Apache-2.0",
        framework="engines",
        bundled=True,
        trained_on="NIH (835 images) and phantoms",
        saw=(
            Seen("nih-chestxray14", "from 835 of its images with their labels", "examples/train_mini/RESULTS.md"),
            Seen("phantoms", "from 6,000 other phantoms with their findings", "examples/train_mini/RESULTS.md"),
        ),
        text=True,
        default_outputs=("features", "contrastive"),
        batch_size=(8, 64),
        frontal=True,
    ),
    EncoderCard(
        name="hog",
        module="cxr_embed.encoders.hog",
        outputs={"features": (1764,)},
        licence="BSD-3-Clause",
        framework="numpy",
        has_weights=False,
        needs=("skimage",),
    ),
    EncoderCard(
        name="cxr-foundation",
        module="cxr_embed.encoders.cxr_foundation",
        outputs={"contrastive": (32, 128), "general": (32, 768), "elixr_c": (8, 8, 1376)},
        licence="HAI-DEF",
        framework="tensorflow",
        extra="cxr-foundation",
        needs=("tensorflow", "tensorflow_text"),
        # The revision that public scripts name; later ones would be another fingerprint.
        hub=HubModel(
            "google/cxr-foundation",
            "e5af8ea44a17bad5504f7e485388d6b05786860f",
            ("elixr-c-v2-pooled/*", "pax-elixr-b-text/*"),
            required=("elixr-c-v2-pooled/saved_model.pb", "pax-elixr-b-text/saved_model.pb"),
            gated=True,
        ),
        trained_on="hospitals in India and the USA, MIMIC-CXR",
        saw=seen_with_reports("Xu et al., 2023, arXiv 2308.01317", "mimic-cxr-jpg"),
        text=True,
        default_outputs=("contrastive", "general"),
        pixels=("notebook", "serving"),
        batch_size=(16, 16),
        frontal=True,
    ),
    EncoderCard(
        name="medsiglip-448",
        module="cxr_embed.encoders.transformers",
        outputs={"image": (1152,), "patches": (32, 32, 1152), "shared": (32, 32, 1152)},
        default_outputs=("image",),
        licence="HAI-DEF",
        framework="torch",
        extra="torch",
        needs=("torch", "transformers"),
        hub=HubModel("google/medsiglip-448", "9cea28a1a1195f665105faa6e8544c112fd960a4", gated=True),
        trained_on="MIMIC-CXR, other medical and natural images",
        saw=seen_with_reports("Sellergren et al., 2025, arXiv 2507.05201", "mimic-cxr-jpg"),
        text=True,
        pixels=("published", "processor", "pad"),
        batch_size=(4, 64),
    ),
    EncoderCard(
        name="rad-dino",
        module="cxr_embed.encoders.transformers",
        outputs={"pooled": (768,), "patches": (37, 37, 768)},
        default_outputs=("pooled",),
        licence="MIT",
        framework="torch",
        extra="torch",
        needs=("torch", "transformers"),
        hub=HubModel("microsoft/rad-dino", "110cbc18d5133582e320b43d53bf5c44e410c936"),
        trained_on="MIMIC-CXR, CheXpert, NIH, PadChest, BRAX",
        saw=seen_by_images(
            "Pérez-García et al., 2024, arXiv 2401.10815",
            *("mimic-cxr-jpg", "chexpert", "nih-chestxray14", "padchest", "brax"),
        ),
        batch_size=(4, 64),
    ),
    EncoderCard(
        name="biomedclip",
        module="cxr_embed.encoders.open_clip",
        outputs={"image": (512,), "shared": (14, 14, 512)},
        default_outputs=("image",),
        licence="MIT",
        framework="torch",
        extra="torch",
        needs=("torch", "open_clip", "transformers"),
        # Its figures show radiographs of public data sets too; which ones is not known, so it `saw` none by name.
        trained_on="figures and captions of PubMed Central's articles (PMC-15M)",
        text=True,
        batch_size=(4, 64),
    ),
    EncoderCard(
        name="biovil-t",
        module="cxr_embed.encoders.biovil_t",
        outputs={"features": (512,), "image": (128,), "shared": (14, 14, 128)},
        default_outputs=("features", "image"),
        licence="MIT",
        framework="torch",
        extra="torch",
        needs=("torch", "timm", "transformers"),
        # The commit that added its text weights as safetensors.
        hub=HubModel(
            "microsoft/BiomedVLP-BioViL-T",
            "692f09e9be1bfe5fdd5f3efdd0e1eca7d2c10b23",
            required=("config.json", "model.safetensors", "vocab.txt"),
        ),
        converted=True,
        trained_on="MIMIC-CXR",
        saw=seen_with_reports("Bannur et al., 2023, arXiv 2301.04558", "mimic-cxr-jpg"),
        text=True,
        batch_size=(4, 64),
    ),
    EncoderCard(
        name="medimageinsight",
        module="cxr_embed.encoders.medimageinsight",
        outputs={"image": (1024,), "shared": (15, 15, 1024)},
        default_outputs=("image",),
        licence="MIT",
        framework="torch",
        extra="torch",
        needs=("torch", "timm", "transformers"),
        # A copy of what its publisher gives out by another way.
        hub=HubModel(
            "lion-ai/MedImageInsights",
            "c3a1ea9b7cb791fdd810a3ee2540ec2e8aa9af4f",
            ("2024.09.27/*",),
            required=(
                "2024.09.27/config.yaml",
                "2024.09.27/vision_model/medimageinsigt-v1.0.0.pt",
                "2024.09.27/language_model/clip_tokenizer_4.16.2/vocab.json",
                "2024.09.27/language_model/clip_tokenizer_4.16.2/merges.txt",
            ),
        ),
        trained_on="MIMIC-CXR, NIH, CheXpert, other medical images",
        saw=(
            *seen_with_reports("Codella et al., 2024, arXiv 2410.06542, and its config.yaml", "mimic-cxr-jpg"),
            *seen_by_labels(
                "Codella et al., 2024, arXiv 2410.06542, and its config.yaml", "nih-chestxray14", "chexpert"
            ),
        ),
        text=True,
        batch_size=(2, 32),
    ),
    EncoderCard(
        name="hf:ORG/NAME",
        module="cxr_embed.encoders.transformers",
        outputs={},
        on_request=("patches", "shared"),
        licence="its own",
        framework="torch",
        extra="torch",
        needs=("torch", "transformers"),
        text=True,
        batch_size=(4, 64),
    ),
    EncoderCard(
        name="open_clip:ORG/NAME",
        module="cxr_embed.encoders.open_clip",
        outputs={},
        on_request=("shared",),
        licence="its own",
        framework="torch",
        extra="torch",
        needs=("torch", "open_clip", "transformers"),
        text=True,
        batch_size=(4, 64),
    ),
    EncoderCard(
        name="timm:NAME",
        module="cxr_embed.encoders.timm",
        outputs={"features": ()},
        on_request=("map", "patches"),
        licence="its own",
        framework="torch",
        extra="torch",
        needs=("torch", "timm"),
        batch_size=(4, 64),
    ),
    EncoderCard(
        name="monai:FOLDER",
        module="cxr_embed.encoders.monai",
        outputs={"features": (), "scores": ()},
        default_outputs=("features",),
        licence="its own",
        framework="torch",
        extra="monai",
        needs=("torch", "monai"),
        pixels=("bundle", "imagenet", "grey"),
        batch_size=(4, 64),
    ),
    _densenet(
        "densenet121",
        "NIH, PadChest, CheXpert, MIMIC-CXR, Google, OpenI, RSNA",
        *("nih-chestxray14", "padchest", "chexpert", "mimic-cxr-jpg", "open-i", "rsna-pneumonia"),
    ),
    _densenet("densenet121-nih", "NIH", "nih-chestxray14"),
    _densenet("densenet121-pc", "PadChest", "padchest"),
    _densenet("densenet121-chex", "CheXpert", "chexpert"),
    _densenet("densenet121-rsna", "RSNA pneumonia", "rsna-pneumonia"),
    _densenet("densenet121-mimic_nb", "MIMIC-CXR (NegBio labels)", "mimic-cxr-jpg"),
    _densenet("densenet121-mimic_ch", "MIMIC-CXR (CheXpert labels)", "mimic-cxr-jpg"),
    EncoderCard(
        name="resnet50",
        module="cxr_embed.encoders.torchxrayvision",
        outputs={"features": (2048,), "scores": (len(OPERATING_POINTS["resnet50"]),), "map": (16, 16, 2048)},
        default_outputs=("features",),
        licence="Apache-2.0",
        framework="engines",
        trained_on="PadChest, NIH, RSNA, SIIM, VinDr",
        saw=seen_by_weights("padchest", "nih-chestxray14", "rsna-pneumonia", "siim-pneumothorax", "vindr-cxr"),
    ),
    EncoderCard(
        name="chexnet",
        module="cxr_embed.encoders.chexnet",
        outputs={"features": (1024,), "scores": (), "map": (7, 7, 1024)},
        default_outputs=("features",),
        licence="its own",
        framework="engines",
        trained_on="NIH; another DenseNet-121's own",
        saw=seen_by_labels("Rajpurkar et al., 2017, arXiv 1711.05225", "nih-chestxray14"),
    ),
    EncoderCard(
        name="chexzero",
        module="cxr_embed.encoders.chexzero",
        outputs={"image": (512,), "shared": (7, 7, 512)},
        default_outputs=("image",),
        licence="MIT",
        framework="torch",
        extra="torch",
        needs=("torch", "transformers", "open_clip"),
        trained_on="MIMIC-CXR",
        saw=seen_with_reports("Tiu et al., 2022, doi 10.1038/s41551-022-00936-9", "mimic-cxr-jpg"),
        text=True,
        batch_size=(4, 64),
    ),
    *(_eva_x(*size) for size in (("tiny", 192), ("small", 384), ("base", 768))),
    EncoderCard(
        name="ark-plus",
        module="cxr_embed.encoders.ark",
        outputs={"projected": (1376,), "features": (1536,)},
        default_outputs=("projected",),
        licence="ASU, non-commercial",
        terms=(
            "Arizona State University's licence binds: for academic and other non-commercial research only, "
            "patent pending (https://github.com/jlianglab/Ark)"
        ),
        framework="torch",
        extra="torch",
        needs=("torch", "timm"),
        trained_on="MIMIC-CXR, CheXpert, NIH, RSNA, VinDr, Shenzhen",
        saw=seen_by_labels(
            "its authors' own list, https://github.com/jlianglab/Ark",
            *("mimic-cxr-jpg", "chexpert", "nih-chestxray14", "rsna-pneumonia", "vindr-cxr", "shenzhen"),
        ),
        batch_size=(1, 16),
    ),
)
ENCODERS: dict[str, EncoderCard] = {card.name: card for card in _CARDS}
_FAMILIES = {card.name.partition(":")[0]: card for card in _CARDS if card.is_family}


def encoder_card(name: str) -> EncoderCard:
    """The row of an encoder, or of its family (`hf:ORG/NAME`, `timm:NAME`) with what is known of that checkpoint.

    Raises:
        EncoderError: for an unknown name, with the nearest known ones.
    """
    prefix, colon, rest = name.partition(":")
    if colon and rest and prefix in _FAMILIES:
        return replace(_FAMILIES[prefix], **known_facts(rest))
    if name in ENCODERS and not ENCODERS[name].is_family:
        return ENCODERS[name]
    near = difflib.get_close_matches(name, ENCODERS, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise EncoderError(f"no encoder is named {name!r}; {hint}`cxr-embed encoders` lists them")


def is_own(name: str) -> bool:
    """Whether the name is a user's `package.module:function`."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix not in _FAMILIES
