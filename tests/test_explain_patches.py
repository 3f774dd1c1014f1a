"""`patch`: patches in the space of the vector by the encoder's own weights, and maps of what each of them answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import row
from PIL import Image

import cxr_embed as cx
from cxr_embed.encoders import ENCODERS, CheckedEncoder, load_encoder
from cxr_embed.encoders.weights import save_weights
from cxr_embed.errors import CxrEmbedError, EncoderError
from cxr_embed.images import read_image
from cxr_embed.store import Store, StoreWriter, open_store

torch = pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")
pytest.importorskip("open_clip", reason="needs open_clip: pip install 'cxr-embed[torch]'")

from dual_worlds import GOLDEN, NOTE, biovil_t_state, images, save_cxr_bert, save_medimageinsight  # noqa: E402
from tiny_checkpoints import VISION, loud, save_dual, save_processor  # noqa: E402
from tiny_open_clip import made, save_open_clip, settings_of  # noqa: E402

PROMPTS = ["large pleural effusion", "normal heart"]
SIZE = (96, 80)  # rows, columns


@pytest.fixture(scope="module")
def files(chest: Callable[..., np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    for number in range(6):
        pixels = (chest(number, SIZE[0])[:, : SIZE[1]] >> 4).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"case{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CLIP and a SigLIP of two layers that see 4 x 4 patches."""
    found = {kind: tmp_path_factory.mktemp("dual") / kind for kind in ("clip", "siglip")}
    for kind, folder in found.items():
        save_dual(folder, kind, image_size=64, num_hidden_layers=2)
    return found


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dino")
    small = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    config = transformers.Dinov2Config(**{**small, "image_size": 64, "num_hidden_layers": 2})
    loud(transformers.Dinov2Model(config)).save_pretrained(folder)
    save_processor(folder, 64)
    return folder


def answers(encoder: CheckedEncoder, files: Sequence[Path]) -> dict[str, np.ndarray]:
    return encoder.embed(np.stack([encoder.preprocess(read_image(path)) for path in files]))


def direct_pixels(encoder: CheckedEncoder, files: Sequence[Path]) -> Any:
    return torch.from_numpy(np.stack([encoder.preprocess(read_image(path)) for path in files]))


def value_alone(block: Any, tokens: Any) -> Any:
    """What MaskCLIP's paper writes down, on transformers' layer: the values' path, the residuals, the network."""
    attention = block.self_attn
    seen = tokens + attention.out_proj(attention.v_proj(block.layer_norm1(tokens)))
    return seen + block.mlp(block.layer_norm2(seen))


def unit(vectors: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / length


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_patches_of_transformers_are_read_as_if_alone(kind: str, dual: dict[str, Path], files: list[Path]) -> None:
    encoder = load_encoder("hf:tiny", weights=dual[kind], outputs=["image", "patches", "shared"])
    found = answers(encoder, files[:2])
    plain = answers(load_encoder("hf:tiny", weights=dual[kind]), files[:2])
    np.testing.assert_allclose(found["image"], plain["image"], atol=1e-5)
    model = transformers.AutoModel.from_pretrained(dual[kind]).eval()
    with torch.no_grad():
        output = model.vision_model(direct_pixels(encoder, files[:2]), output_hidden_states=True)
        if kind == "clip":
            tokens = value_alone(model.vision_model.encoder.layers[-1], output.hidden_states[-2][:, 1:])
            want = model.visual_projection(model.vision_model.post_layernorm(tokens))
        else:
            head = model.vision_model.head
            weight, bias = (part.chunk(3)[2] for part in (head.attention.in_proj_weight, head.attention.in_proj_bias))
            tokens = head.attention.out_proj(output.last_hidden_state @ weight.T + bias)
            want = tokens + head.mlp(head.layernorm(tokens))
    width = found["image"].shape[1]
    assert found["shared"].shape == (2, 4, 4, width)
    np.testing.assert_allclose(found["shared"].reshape(2, 16, width), want.numpy(), atol=1e-5)
    assert np.ptp(found["shared"], axis=(1, 2)).max() > 0.05
    assert encoder.engine.startswith("openvino")  # what is read alone is traced too
    assert encoder.spaces == {"shared": "image"}
    assert encoder.spec.grids["shared"] == encoder.spec.grids["patches"]


@pytest.mark.parametrize("kind", ["clip", "bert", "map"])
def test_patches_of_open_clip_are_read_as_if_alone(kind: str, tmp_path: Path, files: list[Path]) -> None:
    settings = settings_of("bert" if kind == "bert" else "clip")["model_cfg"]["vision_cfg"]
    vision = {**settings, "layers": 2} if kind == "clip" else settings
    if kind == "map":  # as timm's SigLIPs and PE-Core end
        vision = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": None, "image_size": 160}
    save_open_clip(tmp_path, "bert" if kind == "bert" else "clip", vision_cfg=vision)
    encoder = load_encoder("open_clip:tiny", weights=tmp_path, outputs=["image", "shared"])
    found = answers(encoder, files[:1])
    visual = made(tmp_path).visual.eval()
    from safetensors.torch import load_file

    state = load_file(tmp_path / "open_clip_model.safetensors")
    visual.load_state_dict({name[7:]: value for name, value in state.items() if name.startswith("visual.")})
    with torch.no_grad():
        pixels = encoder.encoder.normalised(direct_pixels(encoder, files[:1]))
        want_image, want = visual(pixels), open_clip_by_hand(kind, visual, pixels)
    np.testing.assert_allclose(found["image"], want_image.numpy(), atol=1e-4 * np.abs(want_image.numpy()).max())
    rows, columns, width = encoder.spec.outputs["shared"]
    assert (rows, columns) == ((4, 4) if kind == "clip" else (10, 10))
    assert width == found["image"].shape[1]
    shared = want.numpy().reshape(1, rows, columns, width)
    np.testing.assert_allclose(found["shared"], shared, atol=1e-4 * np.abs(shared).max())
    assert encoder.spec.grids["shared"].fit == "inside"


def open_clip_by_hand(kind: str, visual: Any, pixels: Any) -> Any:
    if kind == "clip":
        block, tokens = visual.transformer.resblocks[-1], visual._embeds(pixels)
        for other in visual.transformer.resblocks[:-1]:
            tokens = other(tokens)
        weight, bias = (part.chunk(3)[2] for part in (block.attn.in_proj_weight, block.attn.in_proj_bias))
        tokens = tokens[:, 1:] + block.attn.out_proj(block.ln_1(tokens[:, 1:]) @ weight.T + bias)
        return visual.ln_post(tokens + block.mlp(block.ln_2(tokens))) @ visual.proj
    trunk = visual.trunk
    if kind == "bert":
        block = trunk.blocks[-1]
        tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pixels)))
        for other in trunk.blocks[:-1]:
            tokens = other(tokens)
        values = block.attn.qkv(block.norm1(tokens)).chunk(3, dim=-1)[2]
        tokens = tokens + block.ls1(block.attn.proj(values))
        tokens = (tokens + block.ls2(block.mlp(block.norm2(tokens))))[:, trunk.num_prefix_tokens :]
        return visual.head(trunk.head(trunk.fc_norm(trunk.norm(tokens))))
    pool = trunk.attn_pool
    tokens = trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]
    tokens = pool.proj(pool.kv(tokens).chunk(2, dim=-1)[1])
    return visual.head(trunk.head(trunk.fc_norm(tokens + pool.mlp(pool.norm(tokens)))))


def test_chexzero_has_its_patches_on_the_square_around_the_picture(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxr_embed.encoders import chexzero

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setattr(chexzero, "VISION", {**small, "patch_size": 32})
    monkeypatch.setattr(chexzero, "TEXT", small)
    model = loud(chexzero.make_clip()).eval()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    save_weights(tmp_path / "c.safetensors", state, "numbers that a test drew: not a trained model")
    encoder = load_encoder("chexzero", weights=tmp_path / "c.safetensors", outputs=["image", "shared"])
    found = answers(encoder, files[:1])
    vision = model.vision_model
    with torch.no_grad():
        output = vision(direct_pixels(encoder, files[:1]), output_hidden_states=True)
        tokens = value_alone(vision.encoder.layers[-1], output.hidden_states[-2][:, 1:])
        want = model.visual_projection(vision.post_layernorm(tokens)).numpy()
    np.testing.assert_allclose(found["shared"].reshape(want.shape), want, atol=1e-4 * np.abs(want).max())
    assert found["shared"].shape[1:] == ENCODERS["chexzero"].outputs["shared"] == (7, 7, 512)
    assert encoder.spec.grids["shared"].on(*SIZE) == (0, -8, 96, 88)
    alone = load_encoder("chexzero", weights=tmp_path / "c.safetensors", outputs=["shared"])
    np.testing.assert_allclose(answers(alone, files[:1])["shared"], found["shared"], atol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_prompt_s_map_is_its_cosine_with_each_patch(
    kind: str, dual: dict[str, Path], files: list[Path], tmp_path: Path
) -> None:
    made = cx.explain(files[:2], prompt=PROMPTS, encoder="hf:tiny", weights=dual[kind], out=tmp_path / "out")
    about = made.folder.about
    assert (about["method"], about["layer"], about["output"]) == ("patch", "shared", "image")
    assert about["words"] == "patch, layer shared (4 x 4 cells), less the picture's mean"
    encoder = load_encoder("hf:tiny", weights=dual[kind], outputs=["image", "shared"])
    found, words = answers(encoder, files[:2]), unit(encoder.embed_text(PROMPTS))
    cosines = unit(found["shared"]) @ words.T  # (2, 4, 4, 2)
    for number, record in enumerate(made.folder.maps):
        image, prompt = divmod(number, 2)
        values = made.folder.load(record)
        want = cosines[image, ..., prompt] - cosines[image, ..., prompt].mean()
        np.testing.assert_allclose(values, want, atol=1e-5)
        assert np.ptp(values) > 1e-3
        assert record.area == (0, 0, SIZE[1], SIZE[0])
        assert record.score == pytest.approx(float(unit(found["image"])[image] @ words[prompt]), abs=1e-5)
        assert "intercept" not in record.more
        assert record.more["without_region"] is not None
        assert record.more["line"].endswith("less the picture's mean; not measured")


def test_likeness_to_a_case_is_its_vector_s_cosine_with_each_patch(
    dual: dict[str, Path], dino: Path, files: list[Path], tmp_path: Path
) -> None:
    made = cx.explain(files[:1], like=files[1], encoder="hf:dino", weights=dino, method="patch", out=tmp_path / "d")
    assert (made.folder.about["layer"], made.folder.about["output"]) == ("patches", "pooled")
    encoder = load_encoder("hf:dino", weights=dino, outputs=["pooled", "patches"])
    found = answers(encoder, files[:2])
    cosines = unit(found["patches"][0]) @ unit(found["pooled"])[1]
    np.testing.assert_allclose(made.folder.load(made.folder.maps[0]), cosines - cosines.mean(), atol=1e-5)
    own = {"encoder": "hf:tiny", "weights": dual["siglip"]}
    alike = cx.explain(files[:1], like=files[0], maps_only=True, out=tmp_path / "s", **own)  # type: ignore[arg-type]
    assert (alike.folder.about["method"], alike.folder.maps[0].score) == ("patch", pytest.approx(1, abs=1e-6))


def stored(path: Path, encoder: CheckedEncoder, files: Sequence[Path]) -> Store:
    vectors = answers(encoder, files)
    with StoreWriter(path, encoder.spec, dtype="float32") as writer:
        for number, file in enumerate(files):
            one = {output: found[number] for output, found in vectors.items()}
            writer.add_vector(replace(row(number), image_id=file.stem, patient_id=file.stem), one)
        writer.flush("here")
    return open_store(path)


def probe_of(path: Path, encoder: CheckedEncoder, files: Sequence[Path], output: str, kind: str = "linear") -> Any:
    store = stored(path, encoder, files)
    labels = {"image_id": store.ids.tolist(), "Effusion": [0, 1, 0, 1, 0, 1]}
    return cx.train_probe(store, labels, output=output, kind=kind)  # type: ignore[arg-type]


def test_a_probe_on_the_class_token_reads_patches_where_it_is_asked_to(
    dino: Path, files: list[Path], tmp_path: Path
) -> None:
    encoder = load_encoder("hf:dino", weights=dino)
    probe = probe_of(tmp_path / "store", encoder, files, "pooled")
    made = cx.explain(files[:1], probe=probe, weights=dino, method="patch", out=tmp_path / "out")
    found = answers(load_encoder("hf:dino", weights=dino, outputs=["pooled", "patches"]), files[:1])
    logits = probe.trained.probe.decision_function(found["patches"][0].reshape(16, -1)).reshape(4, 4)
    np.testing.assert_allclose(made.folder.load(made.folder.maps[0]), logits - logits.mean(), rtol=1e-4, atol=1e-4)
    # It never met a patch: unless it is asked for, squares are hidden.
    plain = cx.explain(files[:1], probe=probe, weights=dino, cells=4, maps_only=True, out=tmp_path / "auto")
    assert plain.folder.about["method"] != "patch"


def test_where_patches_share_no_space_another_method_is_named(
    dual: dict[str, Path], dino: Path, files: list[Path], tmp_path: Path
) -> None:
    vit = transformers.ViTModel(transformers.ViTConfig(**{**VISION, "image_size": 64}))
    loud(vit).save_pretrained(tmp_path / "vit")
    save_processor(tmp_path / "vit", 64)
    clip = load_encoder("hf:tiny", weights=dual["clip"], outputs=["image", "patches"])
    on_patches = probe_of(tmp_path / "store", clip, files, "patches")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"like": files[1], "encoder": "hog"}, "hog has no patches in one space with features"),
        # Its pooler stands between the class token and the vector.
        ({"like": files[1], "encoder": "hf:v", "weights": tmp_path / "vit"}, "hf:v has no patches in one space"),
        ({"probe": on_patches, "weights": dual["clip"]}, "hf:tiny has no patches in one space with patches"),
    ]
    for number, (options, message) in enumerate(cases):
        with pytest.raises(CxrEmbedError, match=message) as caught:
            cx.explain(files[:1], method="patch", out=tmp_path / str(number), **options)
        assert str(caught.value).endswith("; use `method='occlusion'`")
        assert "\n" not in str(caught.value)
    with pytest.raises(EncoderError, match="there are pooled, patches"):
        load_encoder("hf:dino", weights=dino, outputs=["shared"])


def test_a_tower_that_pools_otherwise_has_no_shared_patches(tmp_path: Path, files: list[Path]) -> None:
    vision = {**settings_of("clip")["model_cfg"]["vision_cfg"], "pool_type": "avg"}
    save_open_clip(tmp_path, "clip", vision_cfg=vision)
    with pytest.raises(EncoderError, match="not known how its image tower pools its patches"):
        load_encoder("open_clip:tiny", weights=tmp_path, outputs=["image", "shared"])
    made = cx.explain(
        files[:1],
        prompt=PROMPTS[:1],
        encoder="open_clip:tiny",
        weights=tmp_path,
        cells=4,
        maps_only=True,
        out=tmp_path / "out",
    )
    assert made.folder.about["method"] != "patch"


def test_the_mean_of_biovil_t_s_patches_is_its_vector(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision", reason="names the published tensors: pip install 'cxr-embed[torch]'")
    from cxr_embed.encoders import biovil_t, image_tower

    assert biovil_t.CELLS * 32 == biovil_t.SIDE  # as its ResNet-50 has them; here in small, of the same parts
    for name, small in (("SHORTER", 256), ("SIDE", 224), ("CELLS", 7)):
        monkeypatch.setattr(biovil_t, name, small)
    monkeypatch.setattr(image_tower, "available_precisions", lambda _: ())  # torch runs it: nothing is translated
    published = tmp_path / "biovil_t_image_model_proj_size_128.pt"
    torch.save(biovil_t_state(), published)
    converted = biovil_t.convert_biovil_t(published, None)
    save_weights(published.with_suffix(".safetensors"), converted.tensors, NOTE, converted.notes)
    save_cxr_bert(tmp_path)
    own: dict[str, Any] = {"prompt": PROMPTS, "encoder": "biovil-t", "weights": tmp_path, "maps_only": True}
    exact = cx.explain(files[:1], out=tmp_path / "exact", **own)
    made = cx.explain(files[:1], out=tmp_path / "made", method="patch", **own)
    assert exact.folder.about["words"] == "cam, layer shared (7 x 7 cells)"
    assert made.folder.about["words"] == "patch, layer shared (7 x 7 cells), less the picture's mean"
    encoder = load_encoder("biovil-t", weights=tmp_path, outputs=["features", "image", "shared"])
    found = answers(encoder, files[:1])
    np.testing.assert_allclose(found["shared"].mean(axis=(1, 2)), found["image"], rtol=1e-4, atol=1e-5)
    words = unit(encoder.embed_text(PROMPTS))
    shares = found["shared"][0] @ words.T / (7 * 7 * np.linalg.norm(found["image"][0]))
    cosines = unit(found["shared"][0]) @ words.T
    for number, (share, record) in enumerate(zip(exact.folder.maps, made.folder.maps, strict=True)):
        np.testing.assert_allclose(exact.folder.load(share), shares[..., number], atol=1e-5)
        assert share.score == record.score == pytest.approx(float(shares[..., number].sum()), abs=1e-5)
        values = cosines[..., number] - cosines[..., number].mean()
        np.testing.assert_allclose(made.folder.load(record), values, atol=1e-5)
        # Seven eighths of the square in the middle of 96 x 80 pixels.
        assert share.area == record.area == pytest.approx((5, 13, 70, 70))


def test_medimageinsight_reads_each_cell_as_a_map_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr_embed.encoders import image_tower

    monkeypatch.setattr(image_tower, "available_precisions", lambda _: ())
    save_medimageinsight(tmp_path)
    encoder = load_encoder("medimageinsight", weights=tmp_path, outputs=["image", "shared"])
    pixels = np.stack([encoder.preprocess(image) for image in images()])
    found = encoder.embed(pixels)
    np.testing.assert_allclose(found["image"], np.array(GOLDEN["medimageinsight"]["image"]), atol=1e-4)
    tower = encoder.encoder.load_image_tower().eval()
    with torch.no_grad():
        cells = tower.davit.stages(tower.davit.stem(tower.pixels(torch.from_numpy(pixels)))).permute(0, 2, 3, 1)
        norm = tower.davit.head.norm
        cells = torch.nn.functional.layer_norm(cells, cells.shape[-1:], norm.weight, norm.bias, norm.eps)
        want = (cells @ tower.image_projection).numpy()
    assert found["shared"].shape[1:3] == (3, 3)
    np.testing.assert_allclose(found["shared"], want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(("name", "shares"), [("test_vit", True), ("test_vit2", False), ("test_vit3", False)])
def test_of_timm_s_transformers_those_that_end_in_a_token_share_its_space(
    name: str, shares: bool, tmp_path: Path
) -> None:
    import timm
    from safetensors.torch import save_file

    model = timm.create_model(name, num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    encoder = load_encoder(f"timm:{name}", weights=tmp_path / "w.safetensors")
    assert encoder.spaces == ({"patches": "features"} if shares else {})
    token = torch.randn(1, 1, model.num_features)
    with torch.no_grad():
        alone = model.forward_head(token.expand(1, 2, -1))
    assert bool(torch.allclose(alone, token[:, 0], atol=1e-5)) == shares
