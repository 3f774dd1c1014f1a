"""The embedding run: what it computes, what it leaves alone, and how it takes trouble."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import MeanEncoder, run_cli
from PIL import Image

from cxr_embed import __version__, open_store, read_manifest
from cxr_embed.errors import CxrEmbedError, EncoderError, ManifestError, StoreError
from cxr_embed.images import decode_image, read_image
from cxr_embed.pipeline.embedding import embed, plan_embedding
from cxr_embed.pipeline.summary import EmbedSummary
from cxr_embed.pipeline.worker import file_stamp
from cxr_embed.store import verify_store
from cxr_embed.store.layout import Row
from cxr_embed.store.writer import StoreWriter
from cxr_embed.types import CxrImage

HERE = Path(__file__).parent
MEAN = "helpers:make_mean"
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)  # workers import `helpers` too


def counts(summary: EmbedSummary) -> tuple[int, int, int, int]:
    return summary.embedded, summary.reused, summary.unchanged, len(summary.failed)


@pytest.fixture
def trust_young_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a file that was just written be known by its stamp, which takes two seconds otherwise."""
    monkeypatch.setattr("cxr_embed.pipeline.session.RACY_NS", 0)


def test_every_image_gets_the_vector_of_its_own_pixels(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(50)
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "s", dtype="float32", workers=2)
    assert counts(summary) == (50, 0, 0, 0)
    assert (summary.images, summary.stored, summary.interrupted) == (50, 50, False)
    store = open_store(tmp_path / "s")
    plain = MeanEncoder()
    for image_id in store.ids:
        pixels = plain.preprocess(read_image(manifest.parent / f"{image_id}.png"))
        want = plain.embed(pixels[None])
        for output, values in want.items():
            np.testing.assert_array_equal(store.read([image_id], output).vectors, values)
    assert dict(zip(store.ids, store.patient_ids, strict=True)) == {f"i{n}": f"p{n // 2}" for n in range(50)}
    assert verify_store(tmp_path / "s") == []


def test_young_files_are_read_again_but_never_embedded_again(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(20)
    embed(manifest, encoder=MEAN, store=tmp_path / "s")
    again = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert again.embedded == 0
    assert again.reused + again.unchanged == 20
    assert len(open_store(tmp_path / "s")) == 20


@pytest.mark.usefixtures("trust_young_files")
def test_a_second_run_only_checks(make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_images(20)
    (manifest.parent / "i7.png").write_text("broken")
    first = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert counts(first) == (19, 0, 0, 1)
    shards = open_store(tmp_path / "s").shards
    # From here on no worker may start, so no file can be opened.
    monkeypatch.setattr("cxr_embed.pipeline.session.WorkerPool", None)
    again = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert counts(again) == (0, 0, 19, 1)
    assert again.failed == first.failed
    assert open_store(tmp_path / "s").shards == shards
    plan = plan_embedding(manifest, encoder=MEAN, store=tmp_path / "s")
    assert (plan.images, plan.unchanged, plan.to_read, plan.missing) == (20, 20, 0, 0)


def test_copies_renames_and_touches_cost_nothing(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(6)
    folder = manifest.parent
    shutil.copy(folder / "i1.png", folder / "copy.png")
    lines = manifest.read_text() + "copy,copy.png,p9,train,0\n"
    manifest.write_text(lines)
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert counts(summary) == (6, 1, 0, 0)
    (folder / "i2.png").rename(folder / "renamed.png")
    (folder / "i3.png").touch()
    manifest.write_text(lines.replace("i2,i2.png", "other,renamed.png"))
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert summary.embedded == 0
    store = open_store(tmp_path / "s")
    assert {"copy", "other", "i2"} <= set(store.ids.tolist())  # i2 left the manifest, not the store
    read = store.read(["i1", "copy", "i2", "other"]).vectors
    np.testing.assert_array_equal(read[0], read[1])
    np.testing.assert_array_equal(read[2], read[3])
    assert store.describe()["vectors"] == 6


def test_changed_files_and_new_rows_are_embedded(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(8)
    embed(manifest, encoder=MEAN, store=tmp_path / "s", dtype="float32")
    Image.fromarray(np.full((96, 96), 200, np.uint8)).save(manifest.parent / "i4.png")
    make_images(12)
    Image.fromarray(np.full((96, 96), 200, np.uint8)).save(manifest.parent / "i4.png")
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert summary.embedded == 5
    store = open_store(tmp_path / "s")
    assert len(store) == 12
    np.testing.assert_array_equal(store.read(["i4"]).vectors, np.full((1, 16), 200))
    assert verify_store(tmp_path / "s") == []


def test_broken_files_are_named_and_stop_nothing(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(20)
    folder = manifest.parent
    (folder / "i3.png").write_bytes(b"")
    (folder / "i4.png").write_bytes((folder / "i4.png").read_bytes()[:300])
    (folder / "i5.png").write_text("no picture")
    (folder / "i6.png").unlink()
    shutil.copy(folder / "i4.png", folder / "i7.png")
    kinds = {"i3": "empty", "i4": "truncated", "i5": "not-an-image", "i6": "missing", "i7": "truncated"}
    for _ in range(3):
        summary = embed(manifest, encoder=MEAN, store=tmp_path / "s")
        assert {f.image_id: f.kind for f in summary.failed} == kinds
        store = open_store(tmp_path / "s")
        assert {f.image_id: f.kind for f in store.failures} == kinds
        assert len(store) == 15
    make_images(20)
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert counts(summary)[3] == 0
    assert summary.embedded == 5
    assert open_store(tmp_path / "s").failures == []
    assert verify_store(tmp_path / "s") == []


@pytest.mark.usefixtures("trust_young_files")
def test_repeated_failures_do_not_grow_the_store(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(6)
    (manifest.parent / "i1.png").unlink()
    (manifest.parent / "i2.png").write_text("no picture")
    for _ in range(3):
        assert len(embed(manifest, encoder=MEAN, store=tmp_path / "s").failed) == 2
    assert open_store(tmp_path / "s").shards == 1


@pytest.mark.usefixtures("trust_young_files")
def test_files_that_were_away_and_come_back_are_no_failures_any_more(make_images: Make, tmp_path: Path) -> None:
    folder = make_images(4).parent
    shutil.copy(folder / "manifest.csv", tmp_path / "m.csv")
    manifest = read_manifest(tmp_path / "m.csv", root=folder)
    embed(manifest, encoder=MEAN, store=tmp_path / "s")
    folder.rename(tmp_path / "unplugged")  # a drive: the files keep their stamps
    folder.mkdir()
    with pytest.raises(ManifestError, match="none of the manifest's files is there"):
        embed(manifest, encoder=MEAN, store=tmp_path / "s")
    shutil.copy2(tmp_path / "unplugged" / "i0.png", folder / "i0.png")
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert {f.kind for f in summary.failed} == {"missing"}
    assert len(open_store(tmp_path / "s")) == 4  # the vectors stay
    shutil.rmtree(folder)
    (tmp_path / "unplugged").rename(folder)
    assert counts(embed(manifest, encoder=MEAN, store=tmp_path / "s")) == (0, 4, 0, 0)
    assert open_store(tmp_path / "s").failures == []
    assert counts(embed(manifest, encoder=MEAN, store=tmp_path / "s")) == (0, 0, 4, 0)


@pytest.mark.usefixtures("trust_young_files")
def test_a_new_release_tries_failures_again(make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_images(3)
    (manifest.parent / "i2.png").write_text("no picture")
    embed(manifest, encoder=MEAN, store=tmp_path / "s")
    monkeypatch.setattr("cxr_embed.pipeline.embedding._version", lambda: "99.0")
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert counts(summary) == (0, 0, 2, 1)
    assert open_store(tmp_path / "s").shards == 2


@pytest.mark.usefixtures("trust_young_files")
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_wrong_name_is_no_fault_of_the_content(make_images: Make, tmp_path: Path, order: str) -> None:
    folder = make_images(2).parent
    (folder / "a.jpg").write_bytes((folder / "i0.png").read_bytes())
    rows = {"a": "a,a.jpg,p", "b": "b,i0.png,p"}

    def run() -> EmbedSummary:
        manifest = folder / "m.csv"
        manifest.write_text("\n".join(["image_id,path,patient_id", *(rows[name] for name in order)]) + "\n")
        return embed(manifest, encoder=MEAN, store=tmp_path / "s")

    for _ in range(2):
        summary = run()
        assert [(f.image_id, f.kind) for f in summary.failed] == [("a", "wrong-suffix")]
        assert list(open_store(tmp_path / "s").ids) == ["b"]
    assert open_store(tmp_path / "s").shards == 1
    (folder / "a.jpg").rename(folder / "a.png")
    rows["a"] = "a,a.png,p"
    assert counts(run()) == (0, 1, 1, 0)
    assert open_store(tmp_path / "s").failures == []
    assert verify_store(tmp_path / "s") == []


def test_a_wrong_name_that_an_older_release_remembered_is_looked_at_again(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(1)
    file = manifest.parent / "i0.png"
    fault = {"error_kind": "wrong-suffix", "error": "named .jpg", "software": __version__}
    with StoreWriter(tmp_path / "s", MeanEncoder.spec) as writer:
        content = hashlib.sha256(file.read_bytes()).digest()
        writer.add_row(Row(image_id="i0", patient_id="p0", content=content, stamp=file_stamp(str(file)), **fault))
        writer.flush("")
    assert counts(embed(manifest, encoder=MEAN, store=tmp_path / "s")) == (1, 0, 0, 0)


@pytest.mark.usefixtures("trust_young_files")
def test_a_fault_of_the_encoders_code_is_none_of_the_image(make_images: Make, tmp_path: Path) -> None:
    class Unfinished(MeanEncoder):
        def preprocess(self, image: CxrImage) -> np.ndarray:
            if image.pixels.shape == (96, 96):
                raise ValueError("to do")
            return super().preprocess(image)

    manifest = make_images(2)
    failed = embed(manifest, encoder=Unfinished(), store=tmp_path / "s").failed
    assert [(f.kind, f.reason) for f in failed] == [("encoder", "the encoder failed: ValueError: to do")] * 2
    assert counts(embed(manifest, encoder=MeanEncoder(), store=tmp_path / "s")) == (2, 0, 0, 0)


@pytest.mark.parametrize("encoder", [MEAN, MeanEncoder()])
def test_links_out_of_the_root_are_not_followed_unless_asked(
    make_images: Make, tmp_path: Path, encoder: str | MeanEncoder
) -> None:
    manifest = make_images(3)
    folder, outside = manifest.parent, tmp_path / "outside"
    outside.mkdir()
    (folder / "i1.png").rename(outside / "i1.png")
    (folder / "i1.png").symlink_to(outside / "i1.png")
    (folder / "i2.png").rename(folder / "kept.png")
    (folder / "i2.png").symlink_to("kept.png")
    (tmp_path / "linked").symlink_to(folder)  # the root may be a link itself
    table = read_manifest(manifest, root=tmp_path / "linked")
    for _ in range(2):
        summary = embed(table, encoder=encoder, store=tmp_path / "s")
        assert [(f.image_id, f.kind) for f in summary.failed] == [("i1", "linked-away")]
        assert "`follow_links`" in summary.failed[0].reason
        assert sorted(open_store(tmp_path / "s").ids) == ["i0", "i2"]
    assert counts(embed(table, encoder=encoder, store=tmp_path / "s", follow_links=True))[::3] == (1, 0)
    above = replace(table, table=table.table.set_column(1, "path", [["i0.png", "../outside/i1.png", "i2.png"]]))
    assert counts(embed(above, encoder=encoder, store=tmp_path / "t"))[::3] == (2, 1)


@pytest.mark.usefixtures("trust_young_files")
@pytest.mark.parametrize("error", [MemoryError(), ImportError("no such library"), OSError(24, "Too many open files")])
def test_a_fault_of_the_machine_is_none_of_the_image(
    make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    manifest = make_images(1)
    for suffix, kind in ((".jpg", "JPEG"), (".tif", "TIFF")):
        Image.open(manifest.parent / "i0.png").save(manifest.parent / f"a{suffix}", kind)
    (manifest.parent / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 200)
    lines = [f"{name},{name},p" for name in ("i0.png", "a.jpg", "a.tif", "a.dcm")]
    manifest.write_text("\n".join(["image_id,path,patient_id", *lines]) + "\n")
    with monkeypatch.context() as patched:
        for decoder in ("kornia_rs.io.decode_image_png_u8", "imagecodecs.png_decode", "simplejpeg.decode_jpeg"):
            patched.setattr(decoder, fail)
        patched.setattr("PIL.Image.open", fail)
        patched.setattr("pydicom.dcmread", fail)
        patched.setattr("pydicom.filereader.read_partial", fail)
        failed = embed(manifest, encoder=MeanEncoder(), store=tmp_path / "s").failed
    assert len(failed) == 4
    assert {f.kind for f in failed} <= {"out-of-memory", "no-decoder", "unreadable"}
    again = embed(manifest, encoder=MeanEncoder(), store=tmp_path / "s")
    assert [(f.image_id, f.kind) for f in again.failed] == [("a.dcm", "truncated")]
    assert again.embedded == 3


@pytest.mark.usefixtures("trust_young_files")
def test_another_decoder_may_know_better(make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_images(2)
    good = (manifest.parent / "i1.png").read_bytes()
    (manifest.parent / "i1.png").write_text("no picture")
    embed(manifest, encoder=MeanEncoder(), store=tmp_path / "s")
    assert counts(embed(manifest, encoder=MeanEncoder(), store=tmp_path / "s")) == (0, 0, 1, 1)
    monkeypatch.setattr(
        "cxr_embed.pipeline.worker.Worker.decode", lambda *_: MeanEncoder().preprocess(decode_image(good))
    )
    assert counts(embed(manifest, encoder=MeanEncoder(), store=tmp_path / "s")) == (0, 0, 1, 1)
    monkeypatch.setattr("cxr_embed.pipeline.embedding.decoders", lambda: "pydicom 99")
    assert counts(embed(manifest, encoder=MeanEncoder(), store=tmp_path / "s")) == (1, 0, 1, 0)


ENCODERS = """
import os
import numpy as np
from helpers import MeanEncoder

class Fussy(MeanEncoder):
    '''Fails as its name says on bright pictures.'''
    def __init__(self, how):
        self.how = how
    def embed(self, batch):
        bright = batch.reshape(len(batch), -1).max(axis=1) > 250
        if self.how == "memory" and len(batch) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if bright.any():
            if self.how == "raise":
                raise ValueError("too bright")
            if self.how == "die":
                os._exit(7)
            if self.how == "kill":
                os.kill(os.getpid(), 9)
        out = super().embed(batch)
        if self.how == "nan":
            out["means"] = np.where(bright[:, None], np.nan, out["means"])
        if self.how == "huge":
            out["means"] = np.where(bright[:, None], 1e9, out["means"])
        if self.how == "shape":
            out["means"] = out["means"][:, :3]
        return out

def make(how):
    return lambda name, **options: Fussy(how)

raising, dying, killed, nan, huge, memory, shape = map(make, ["raise", "die", "kill", "nan", "huge", "memory", "shape"])

def unloadable(name, **options):
    if options["threads"] is not None:
        from cxr_embed.errors import EncoderError
        raise EncoderError("no weights on this worker")
    return MeanEncoder()

def crashing(name, **options):
    if options["threads"] is not None:
        os._exit(3)
    return MeanEncoder()
"""


@pytest.fixture
def fussy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Encoders that fail in every way, as a module that workers can import."""
    (tmp_path / "fussy.py").write_text(ENCODERS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{HERE}", prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "fussy"


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("raising", "encoder"),
        ("nan", "encoder"),
        ("huge", "encoder"),
        ("dying", "worker-died"),
        ("killed", "worker-died"),
    ],
)
def test_an_image_that_its_encoder_cannot_take_fails_alone(
    make_images: Make, tmp_path: Path, fussy: str, how: str, kind: str
) -> None:
    manifest = make_images(40)
    for number in (7, 8, 30):
        Image.fromarray(np.full((96, 96), 255, np.uint8)).save(manifest.parent / f"i{number}.png")
    summary = embed(manifest, encoder=f"{fussy}:{how}", store=tmp_path / "s", workers=2)
    assert {f.image_id: f.kind for f in summary.failed} == {"i7": kind, "i8": kind, "i30": kind}
    assert summary.embedded == 37
    assert len(open_store(tmp_path / "s")) == 37
    assert verify_store(tmp_path / "s") == []


def test_batches_are_halved_when_memory_runs_out(make_images: Make, tmp_path: Path, fussy: str) -> None:
    summary = embed(make_images(40), encoder=f"{fussy}:memory", store=tmp_path / "s", batch_size=16)
    assert counts(summary) == (40, 0, 0, 0)
    assert summary.batch_size == 2


@pytest.mark.parametrize(("how", "match"), [("unloadable", "no weights on this worker"), ("crashing", "status 3")])
def test_an_encoder_that_cannot_start_ends_the_run(
    make_images: Make, tmp_path: Path, fussy: str, how: str, match: str
) -> None:
    with pytest.raises(EncoderError, match=match):
        embed(make_images(5), encoder=f"{fussy}:{how}", store=tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert embed(make_images(5), encoder=MEAN, store=tmp_path / "s").embedded == 5


def test_wrong_shapes_are_failures_that_say_so(make_images: Make, tmp_path: Path, fussy: str) -> None:
    summary = embed(make_images(3), encoder=f"{fussy}:shape", store=tmp_path / "s")
    assert len(summary.failed) == 3
    assert "expected (1, 16)" in summary.failed[0].reason


@pytest.mark.parametrize("workers", [1, 3])
def test_decoders_and_a_device_give_the_same_vectors(
    make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The GPU's division of labour, with the CPU in the place of the device."""
    manifest = make_images(150)
    folder = manifest.parent
    for number in range(100, 120):  # copies, which wait for one another
        shutil.copy(folder / "i5.png", folder / f"i{number}.png")
    for number in range(40, 60):
        (folder / f"i{number}.png").write_bytes(b"broken")
    embed(manifest, encoder=MEAN, store=tmp_path / "whole")
    from cxr_embed.pipeline import embedding as run
    from cxr_embed.pipeline import worker_plan as crew

    split = crew.split_workers
    monkeypatch.setattr(run, "resolve_devices", lambda *_, **__: ("cuda", ()))
    monkeypatch.setattr(crew, "split_workers", lambda setup, *rest: split(replace(setup, device="cpu"), *rest))
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "split", workers=workers, precision="float32")
    assert summary.embedded + summary.reused == 130
    assert summary.embedded == 110
    assert len(summary.failed) == 20
    one, two = open_store(tmp_path / "whole"), open_store(tmp_path / "split")
    assert set(one.ids.tolist()) == set(two.ids.tolist())
    np.testing.assert_array_equal(one.read(two.ids).vectors, two.read().vectors)
    assert verify_store(tmp_path / "split") == []


def test_an_encoder_object_runs_in_this_process(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(40)
    shutil.copy(manifest.parent / "i1.png", manifest.parent / "i2.png")
    (manifest.parent / "i3.png").write_text("broken")
    embed(manifest, MEAN, tmp_path / "by-name")
    summary = embed(manifest, MeanEncoder(), tmp_path / "object", batch_size=7)
    assert counts(summary) == (38, 1, 0, 1)
    one, two = open_store(tmp_path / "by-name"), open_store(tmp_path / "object")
    assert one.spec == two.spec
    np.testing.assert_array_equal(one.read(two.ids).vectors, two.read().vectors)
    assert embed(manifest, MEAN, tmp_path / "object").embedded == 0  # one store, however it was made
    with pytest.raises(EncoderError, match="go with an encoder's name"):
        embed(manifest, MeanEncoder(), tmp_path / "object", workers=2)


def test_limit_and_dry_run(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(10)
    (manifest.parent / "i9.png").unlink()
    plan = plan_embedding(manifest, encoder=MEAN, store=tmp_path / "s")
    assert (plan.images, plan.unchanged, plan.to_read, plan.missing) == (10, 0, 9, 1)
    assert not (tmp_path / "s").exists()
    assert counts(embed(manifest, encoder=MEAN, store=tmp_path / "s", limit=4)) == (4, 0, 0, 0)
    assert len(open_store(tmp_path / "s")) == 4


def test_wrong_arguments_are_refused_before_anything_is_made(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(3)
    cases = [
        ({"encoder": "densnet121"}, EncoderError, "did you mean densenet121"),
        ({"encoder": "densenet121"}, EncoderError, "weights convert densenet121"),
        ({"encoder": "hog", "weights": "w.safetensors"}, EncoderError, "takes no `weights`"),
        ({"encoder": "hog", "precision": "bf16"}, EncoderError, "float32"),
        ({"encoder": "hog", "precision": "half"}, EncoderError, "auto, float32 or bf16"),
        ({"encoder": "hog", "device": "tpu"}, EncoderError, "auto, cpu or cuda"),
        ({"encoder": "nowhere:make"}, EncoderError, "no encoder can be made"),
        ({"encoder": "hog", "workers": 0}, CxrEmbedError, "workers must be 1 or more"),
        ({"encoder": "hog", "batch_size": "big"}, CxrEmbedError, "batch_size must be 1 or more"),
    ]
    for options, error, match in cases:
        with pytest.raises(error, match=match):
            embed(manifest, store=tmp_path / "s", **options)  # type: ignore[arg-type]
        assert not (tmp_path / "s" / "shards").exists() or not list((tmp_path / "s" / "shards").iterdir()), options
    with pytest.raises(ManifestError, match="no such manifest"):
        embed(tmp_path / "none.csv", encoder="hog", store=tmp_path / "s")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").write_text("x")
    with pytest.raises(StoreError, match="a folder with other files"):
        embed(manifest, encoder="hog", store=tmp_path / "full")


def test_the_command_line_tells_what_happened(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(12)
    command = ["embed", str(manifest), "--encoder", MEAN, "--store", str(tmp_path / "s")]
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    done = run_cli(*command, "--dry-run", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 to read" in done.stdout
    done = run_cli(*command, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 images: 12 embedded" in done.stdout
    assert "\x1b" not in done.stdout
    (manifest.parent / "i3.png").write_text("broken")
    done = run_cli(*command, "--json", env=env)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["failed"] == [
        {
            "image_id": "i3",
            "kind": "not-an-image",
            "reason": "the contents are no image that is known here; PNG, JPEG, TIFF and DICOM are read",
        }
    ]
    done = run_cli(*command, env=env)
    assert done.returncode == 1
    assert "failed: i3 [not-an-image]" in done.stderr
    done = run_cli("embed", str(manifest), "--encoder", "hog", "--store", str(tmp_path / "s"), env=env)
    assert done.returncode == 1
    assert "holds vectors of mean" in done.stderr
    assert "Traceback" not in done.stderr
    for option in (["--workers", "many"], ["--dtype", "int8"], ["--batch-size", "0"], ["--limit", "0"]):
        done = run_cli(*command, *option, env=env)
        assert done.returncode == 2, option
        assert option[0] in done.stderr
