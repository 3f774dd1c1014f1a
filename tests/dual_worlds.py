"""BioViL-T and MedImageInsight as their publishers give them out, of numbers that a recipe draws from the names.

`golden_dual.json` has what the authors' own code gives for these weights, pictures and prompts. It was recorded once:

* BioViL-T, by microsoft/hi-ml at b67c1d27: `ImageModel("resnet50_multi_image", 128)` with `drawn` numbers in every
  tensor, on PNG files of `PICTURES` read by its `load_image` and `create_chest_xray_transform_for_inference(512, 448)`;
  `CXRBertModel` of `BERT`, by `TextInferenceEngine.get_embeddings_from_prompt(PROMPTS, normalize=False)`.
* MedImageInsight, by visual-layer/MedImageInsight at e31cae3a: `build_unicl_model` of `MEDIMAGEINSIGHT`, `encode_image`
  and `encode_text` with `norm=False`, on `build_transforms` of `PICTURES` as 8 bits.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from safetensors.torch import save_file

from cxr_embed.types import CxrImage

GOLDEN: dict[str, dict[str, list[list[float]]]] = json.loads(Path(__file__).with_name("golden_dual.json").read_text())
PROMPTS = ["No pleural effusion.", "a chest radiograph of a LARGE pneumothorax", "Heart size is normal"]
NOTE = "numbers that a test drew: not a trained model"
_WORDS = [
    "no",
    "small",
    "large",
    "pleural",
    "effusion",
    "pneumothorax",
    "a",
    "chest",
    "radiograph",
    "of",
    "normal",
    "heart",
    "size",
    "is",
]
_PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] no small large pleural effusion pneumo ##thorax a chest radiograph of normal"
VOCABULARY = [*_PIECES.split(), "heart", "size", "is", ".", ",", "the"]
BERT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": len(VOCABULARY),
    "max_position_embeddings": 24,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
# The published config.yaml in small.
MEDIMAGEINSIGHT: dict[str, Any] = {
    "IMAGE_ENCODER": {
        "NAME": "davit_v1",
        "IMAGE_SIZE": [96, 96],
        "IMAGE_MEAN": [0.485, 0.456, 0.406],
        "IMAGE_STD": [0.229, 0.224, 0.225],
        "SPEC": {
            "PATCH_SIZE": [7, 3, 3, 3],
            "PATCH_STRIDE": [4, 2, 2, 2],
            "PATCH_PADDING": [3, 1, 1, 1],
            "PATCH_PRENORM": [False, True, True, True],
            "DIM_EMBED": [16, 32, 64, 64],
            "NUM_HEADS": [2, 4, 8, 8],
            "NUM_GROUPS": [2, 4, 8, 8],
            "DEPTHS": [1, 1, 2, 1],
            "WINDOW_SIZE": 12,
        },
    },
    "LANG_ENCODER": {
        "NAME": "transformer",
        "TOKENIZER": "clip",
        "CONTEXT_LENGTH": 16,
        "WIDTH": 32,
        "HEADS": 4,
        "LAYERS": 2,
        "AUTOGRESSIVE": False,
    },
    "UNICL_MODEL": {"DIM_PROJECTION": 24},
    "AUG": {"INTERPOLATION": "bicubic"},
    "TEST": {"CENTER_CROP": False},
}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor's numbers by its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        values = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(1.3 / np.prod(shape[1:])))
    elif name.endswith(("weight", "running_var")):
        values = rng.uniform(0.8, 1.2, shape)
    else:
        values = rng.normal(0, 0.02, shape)
    return np.asarray(values, np.float32)


def _picture(height: int, width: int, largest: int, waves: tuple[float, float, float]) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 100
    values = np.sin(waves[0] * x) * np.cos(waves[1] * y) + 0.4 * np.sin(waves[2] * x * y) + 0.2 * x
    share = (values - values.min()) / np.ptp(values)
    return np.round(share * largest * 0.9 + largest * 0.05).astype(np.uint8 if largest == 255 else np.uint16)


PICTURES = [_picture(600, 530, 255, (3, 1, 0.3)), _picture(470, 640, 4095, (30, 2, 9))]


def images() -> list[CxrImage]:
    """The pictures, of 8 and of 12 bits."""
    return [
        CxrImage(pixels=picture, bits=8 if picture.dtype == np.uint8 else 12, content_id="", source="png")
        for picture in PICTURES
    ]


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these names and shapes."""
    return {name: torch.from_numpy(drawn(name, shape)) for name, shape in shapes.items()}


def biovil_t_state() -> dict[str, torch.Tensor]:
    """The published image tower, by torchvision's names for its ResNet-50."""
    import torchvision

    wide: dict[str, tuple[int, ...]] = {
        "encoder.backbone_to_vit.weight": (256, 2048, 1, 1),
        "encoder.missing_previous_emb": (1, 256, 1, 1),
        "encoder.vit_pooler.type_embed": (2, 1, 256),
        "projector.model.0.weight": (128, 512, 1, 1),
        "projector.model.3.weight": (128, 128, 1, 1),
        "projector.model.3.bias": (128,),
    }
    for part in ("weight", "bias", "running_mean", "running_var"):
        wide[f"projector.model.1.{part}"] = (128,)
    for part in ("weight", "bias"):
        wide[f"encoder.vit_pooler.norm_post.{part}"] = (256,)
    for block in range(3):
        at = f"encoder.vit_pooler.blocks.{block}"
        for layer in ("attn.proj_q", "attn.proj_k", "attn.proj_v", "attn.proj", "mlp.fc1", "mlp.fc2"):
            wide[f"{at}.{layer}.weight"] = (256, 256)
        for layer in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            wide[f"{at}.{layer}"] = (256,)
        for layer in ("attn.proj", "mlp.fc1", "mlp.fc2"):
            wide[f"{at}.{layer}.bias"] = (256,)
    with torch.device("meta"):
        resnet = torchvision.models.resnet50().state_dict()
    counters = {name: torch.tensor(7) for name in resnet if name.endswith("num_batches_tracked")}
    wide |= {f"encoder.encoder.{name}": tuple(v.shape) for name, v in resnet.items() if name not in counters}
    counted = {f"encoder.encoder.{name}": value for name, value in counters.items()}
    return {**filled(wide), **counted, "projector.model.1.num_batches_tracked": torch.tensor(7)}


def save_cxr_bert(folder: Path) -> None:
    """The published text tower in small, its code beside it."""
    with torch.device("meta"):
        bert = transformers.BertModel(transformers.BertConfig(**BERT), add_pooling_layer=False).state_dict()
    shapes = {f"bert.{name}": tuple(values.shape) for name, values in bert.items()}
    shapes |= {
        "cls_projection_head.dense_to_hidden.weight": (128, 32),
        "cls_projection_head.dense_to_hidden.bias": (128,),
        "cls_projection_head.LayerNorm.weight": (128,),
        "cls_projection_head.LayerNorm.bias": (128,),
        "cls_projection_head.dense_to_output.weight": (128, 128),
        "cls_projection_head.dense_to_output.bias": (128,),
        "cls.predictions.bias": (len(VOCABULARY),),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(filled(shapes), folder / "model.safetensors")
    own = {"auto_map": {"AutoModel": "modeling_cxrbert.CXRBertModel"}, "projection_size": 128}
    (folder / "config.json").write_text(json.dumps({**BERT, **own}))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    settings = {"tokenizer_class": "CXRBertTokenizer", "auto_map": {"AutoTokenizer": ["modeling_cxrbert.Words", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "modeling_cxrbert.py").write_text("import os\nos.mkdir('ran')\n")
    (folder / "SOURCE").write_text(NOTE)


def medimageinsight_shapes(words: int) -> dict[str, tuple[int, ...]]:
    """Of the published tensors in small, by their published names."""
    spec, text = MEDIMAGEINSIGHT["IMAGE_ENCODER"]["SPEC"], MEDIMAGEINSIGHT["LANG_ENCODER"]
    shared, wide, sizes = 24, text["WIDTH"], spec["DIM_EMBED"]
    shapes: dict[str, tuple[int, ...]] = {
        "lang_projection": (wide, shared),
        "image_projection": (sizes[-1], shared),
        "logit_scale": (),
        "lang_encoder.positional_embedding": (text["CONTEXT_LENGTH"], wide),
        "lang_encoder.token_embedding.weight": (words, wide),
    }

    def layer(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    for at in (f"lang_encoder.resblocks.{number}" for number in range(text["LAYERS"])):
        shapes |= {f"{at}.attn.in_proj_weight": (3 * wide, wide), f"{at}.attn.in_proj_bias": (3 * wide,)}
        layer(f"{at}.attn.out_proj", wide, wide)
        layer(f"{at}.ln_1", wide)
        layer(f"{at}.mlp.c_fc", 4 * wide, wide)
        layer(f"{at}.mlp.c_proj", wide, 4 * wide)
        layer(f"{at}.ln_2", wide)
    layer("lang_encoder.ln_final", wide)
    for stage, (size, depth) in enumerate(zip(sizes, spec["DEPTHS"], strict=True)):
        before, side = (sizes[stage - 1], 3) if stage else (3, 7)
        layer(f"image_encoder.convs.{stage}.proj", size, before, side, side)
        layer(f"image_encoder.convs.{stage}.norm", before if stage else size)
        for number in range(depth):
            for kind, attention in (("spatial_block", "window_attn"), ("channel_block", "channel_attn")):
                at = f"image_encoder.blocks.{stage}.{number}.{kind}"
                layer(f"{at}.conv1.fn.dw", size, 1, 3, 3)
                layer(f"{at}.{attention}.norm", size)
                layer(f"{at}.{attention}.fn.qkv", 3 * size, size)
                layer(f"{at}.{attention}.fn.proj", size, size)
                layer(f"{at}.conv2.fn.dw", size, 1, 3, 3)
                layer(f"{at}.ffn.norm", size)
                layer(f"{at}.ffn.fn.net.fc1", 4 * size, size)
                layer(f"{at}.ffn.fn.net.fc2", size, 4 * size)
    layer("image_encoder.norms", sizes[-1])
    return shapes


def save_clip_words(folder: Path) -> int:
    """CLIP's tokenizer in small, of all letters and a few words; the tokens that it knows."""
    letters = [chr(code) for code in range(97, 123)]
    tokens, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in _WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts[:2] = ["".join(parts[:2])]
            tokens.append(parts[0])
    known = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(known)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    return len(known)


def save_medimageinsight(folder: Path) -> None:
    """A folder as it is published, in small."""
    words = save_clip_words(folder / "language_model" / "clip_tokenizer_4.16.2")
    (folder / "vision_model").mkdir()
    save_file(filled(medimageinsight_shapes(words)), folder / "vision_model" / "medimageinsigt-v1.0.0.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(MEDIMAGEINSIGHT))
    (folder / "SOURCE").write_text(NOTE)
