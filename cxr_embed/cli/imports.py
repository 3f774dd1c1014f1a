"""`cxr-embed import ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.choices import Dtype as StoredDtype
from cxr_embed.cli.common import fail, is_terminal, print_json
from cxr_embed.cli.options import AsJson, Extra, KeyFile
from cxr_embed.cli.terminal import console
from cxr_embed.notebook import in_notebook, notebook_bar
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.imports import ImportSource, ImportSummary

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Put precomputed vectors into a store, so that everything goes on without the model.",
)
Encoder = Annotated[str, typer.Option(help="What made the vectors: a name from `cxr-embed encoders`, or your own.")]
Output = Annotated[str, typer.Option(help="Which of its outputs they are, e.g. contrastive.")]
StoreFolder = Annotated[Path, typer.Option(help="Folder of the vectors; made where it is missing.")]
Labels = Annotated[
    Path | None, typer.Option(help="CSV or Parquet with image_id; gives the patients, is checked against the vectors.")
]
PatientPattern = Annotated[
    str | None, typer.Option(help="Regular expression on the image id; its group is the patient's id.")
]
Dtype = Annotated[StoredDtype | None, typer.Option(help="As the file has it by default.")]
_NAMED = 5  # images that a note names


@app.command(
    "npz",
    epilog="Example: `cxr-embed import npz vectors.npz --encoder cxr-foundation --output contrastive "
    "--store vectors/cxr`",
)
def npz(
    file: Annotated[Path, typer.Argument(help="Google's layout (key: image id), or a `store export`.")],
    encoder: Encoder,
    output: Output,
    store: StoreFolder,
    labels: Labels = None,
    extra: Extra = None,
    patient_pattern: PatientPattern = None,
    dtype: Dtype = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Import an .npz archive of vectors.

    All of it is checked before anything is written. Run it again and only new or changed vectors are added.
    """
    from cxr_embed.imports import open_npz

    _import(open_npz(file), encoder, output, store, labels, extra, patient_pattern, dtype, key_file, as_json)


@app.command(
    "npy",
    epilog="Example: `cxr-embed import npy vectors.npy --ids ids.txt --encoder rad-dino --output pooled "
    "--store vectors/rad`",
)
def npy(
    file: Annotated[Path, typer.Argument(help="An array (N, ...), one row an image; or a folder, one file an image.")],
    encoder: Encoder,
    output: Output,
    store: StoreFolder,
    ids: Annotated[
        Path | None, typer.Option(help="Of the rows: text, one a line; or CSV with image_id and perhaps patient_id.")
    ] = None,
    labels: Labels = None,
    extra: Extra = None,
    patient_pattern: PatientPattern = None,
    dtype: Dtype = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Import an .npy array of vectors and the ids of its rows; or a folder of .npy files, one an image.

    In a folder, a file's path without .npy is its image's id, `p1/a.npy` that of `p1/a`; shapes and dtypes are equal.

    All of it is checked before anything is written. Run it again and only new or changed vectors are added.
    """
    from cxr_embed.imports import open_npy, open_npy_folder

    if ids is None and not file.is_dir():
        fail("--ids is missing: which image each row of the array is of", 2)
    if ids is not None and file.is_dir():
        fail(f"--ids goes with one array; the files of a folder ({file}) are named after their images", 2)
    _import(
        open_npy(file, ids) if ids is not None else open_npy_folder(file),
        encoder,
        output,
        store,
        labels,
        extra,
        patient_pattern,
        dtype,
        key_file,
        as_json,
    )


@app.command(
    "tfrecord",
    epilog="Example: `cxr-embed import tfrecord mimic/files --encoder cxr-foundation-v1 --output pooled "
    "--store vectors/mimic`",
)
def tfrecord(
    files: Annotated[list[Path], typer.Argument(help="TFRecord files, plain or gzip; or folders of them.")],
    encoder: Encoder,
    output: Output,
    store: StoreFolder,
    labels: Labels = None,
    extra: Extra = None,
    patient_pattern: PatientPattern = None,
    dtype: Dtype = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Import TFRecord files of vectors, as Google's CXR Foundation service writes them; TensorFlow is not needed.

    Each record holds the floats `embedding` and the bytes `image/id`. Google's vectors of MIMIC-CXR at PhysioNet are
    of its first model (1,376 numbers), which is not an output of cxr-foundation: give them a name of your own.
    """
    from cxr_embed.imports import open_tfrecord

    _import(open_tfrecord(files), encoder, output, store, labels, extra, patient_pattern, dtype, key_file, as_json)


@app.command(
    "prompts", epilog="Example: `cxr-embed import prompts prompts.npz --encoder cxr-foundation --store vectors/cxr`"
)
def prompts(
    file: Annotated[Path, typer.Argument(help="An .npz archive; key: prompt, value: its vector.")],
    encoder: Annotated[str, typer.Option(help="What embedded the prompts; it must be the store's.")],
    store: Annotated[Path, typer.Option(help="Folder of the image vectors.")],
    as_json: AsJson = False,
) -> None:
    """Import the vectors of prompts into a store, for zero-shot without the model."""
    from cxr_embed.imports import import_prompts

    count, stored = import_prompts(file, encoder, store)
    if as_json:
        print_json({"prompts": count, "stored": stored})
    else:
        typer.echo(f"{store}: {counted(count, 'prompt')} imported, {stored:,} in the store")


def _import(
    source: ImportSource,
    encoder: str,
    output: str,
    store: Path,
    labels: Path | None,
    extra: list[str] | None,
    patient_pattern: str | None,
    dtype: str | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cxr_embed.imports import import_vectors
    from cxr_embed.imports.spec import unknown_name
    from cxr_embed.manifest import read_labels

    if dtype not in (None, "float16", "float32"):
        fail(f"--dtype is float16 or float32, not {dtype!r}", 2)
    if extra and labels is None:
        fail("--extra names columns of --labels: give both", 2)
    table = read_labels(labels, extra=extra or ()) if labels is not None else None
    columns = (TextColumn("{task.description}"), *Progress.get_default_columns()[1:2], MofNCompleteColumn())
    try:
        with Progress(
            *columns,
            TimeRemainingColumn(),
            console=console(stderr=True),
            disable=in_notebook() or not is_terminal(),
            transient=True,
        ) as bar:
            task = bar.add_task("checking", total=source.count)
            in_cell = notebook_bar()

            def show(doing: str, done: int, total: int | None) -> None:
                if in_cell is not None:
                    in_cell(doing, done, total)
                bar.update(task, description=doing, completed=done, total=total)

            summary = import_vectors(
                source,
                encoder,
                output,
                store,
                labels=table,
                patient_pattern=patient_pattern,
                dtype=dtype,  # type: ignore[arg-type]
                key_file=key_file,
                progress=show,
            )
    except KeyboardInterrupt:
        typer.echo("interrupted: what was stored is safe; run the same command to go on", err=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json(_as_json(summary))
        return
    _print_summary(summary, source.name, store, labels)
    if remark := unknown_name(encoder):
        typer.echo(f"note: {remark}", err=True)


def _as_json(summary: ImportSummary) -> dict[str, Any]:
    return {**vars(summary), "shape": list(summary.shape)}


def _print_summary(summary: ImportSummary, name: str, store: Path, labels: Path | None) -> None:
    parts = [f"{summary.added:,} new", f"{summary.unchanged:,} unchanged"]
    parts += [f"{summary.replaced:,} replaced"] if summary.replaced else []
    parts += [f"{summary.forgotten:,} forgotten"] if summary.forgotten else []
    cast = f" (the file has {summary.cast_from})" if summary.cast_from else ""
    shape = " x ".join(map(str, summary.shape))
    typer.echo(f"{name}: {counted(summary.images, 'image')}: {', '.join(parts)}; {shape}, {summary.dtype}{cast}")
    typer.echo(f"{store}: {counted(summary.stored, 'image')} with a vector")
    if labels is not None:
        typer.echo(
            f"{labels}: {counted(summary.without_labels or 0, 'of these images is', 'of these images are')} not in it; "
            f"{counted(summary.labels_without_vector or 0, 'of its images has', 'of its images have')} no "
            "vector here. `cxr-embed zeroshot --labels` takes the same file"
        )
    if zero := summary.zero_vectors:
        named = ", ".join(zero[:_NAMED]) + (", ..." if len(zero) > _NAMED else "")
        verb = "is zero: it has no direction" if len(zero) == 1 else "is zero: they have no direction"
        typer.echo(
            f"note: the vector of {counted(len(zero), 'image')} {verb} ({named}); imported all the same", err=True
        )
    if summary.without_patient:
        typer.echo(
            f"note: the patient of {counted(summary.without_patient, 'image')} is unknown (stored as blank); "
            "--patient-pattern takes it\n  from the image id, --labels from its column patient_id",
            err=True,
        )
