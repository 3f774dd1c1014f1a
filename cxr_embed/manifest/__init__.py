"""The table of cases: one row a radiograph, checked as a whole before anything runs."""

from cxr_embed.manifest.checks import CONTROL, DAY_OFFSET, DESCRIPTIVE, OPTIONAL, REQUIRED, check_columns, leaves_root
from cxr_embed.manifest.companion import (
    Companion,
    check_new_companion,
    companion_path,
    kept_fresh,
    moved,
    read_companion,
    relative_root,
    root_of,
    write_companion,
)
from cxr_embed.manifest.croissant import changed_files, is_croissant, read_croissant
from cxr_embed.manifest.croissant_writing import write_croissant
from cxr_embed.manifest.manifest import (
    Manifest,
    companion_of,
    labels_of_table,
    linked_away,
    missing_files,
    read_labels,
    read_manifest,
    read_paths,
    read_root,
    read_values,
    values_of_table,
)
from cxr_embed.manifest.rows import Rows
from cxr_embed.manifest.writing import check_new, check_target, write_csv, write_manifest, write_new_manifest

__all__ = [
    "CONTROL",
    "DAY_OFFSET",
    "DESCRIPTIVE",
    "OPTIONAL",
    "REQUIRED",
    "Companion",
    "Manifest",
    "Rows",
    "changed_files",
    "check_columns",
    "check_new",
    "check_new_companion",
    "check_target",
    "companion_of",
    "companion_path",
    "is_croissant",
    "kept_fresh",
    "labels_of_table",
    "leaves_root",
    "linked_away",
    "missing_files",
    "moved",
    "read_companion",
    "read_croissant",
    "read_labels",
    "read_manifest",
    "read_paths",
    "read_root",
    "read_values",
    "relative_root",
    "root_of",
    "values_of_table",
    "write_companion",
    "write_croissant",
    "write_csv",
    "write_manifest",
    "write_new_manifest",
]
