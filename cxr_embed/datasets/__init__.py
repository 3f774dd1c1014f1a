"""Recipes that turn a data set's own files into a manifest: data in `data_manifests/`, one interpreter here."""

from cxr_embed.datasets.boxes import boxes_path, read_mask
from cxr_embed.datasets.guess import Guess, guess_near, guess_recipe, which_recipe
from cxr_embed.datasets.recipe import Recipe, load_recipe, recipe_names
from cxr_embed.datasets.result import ScanResult
from cxr_embed.datasets.scan import scan, scan_files

__all__ = [
    "Guess",
    "Recipe",
    "ScanResult",
    "boxes_path",
    "guess_near",
    "guess_recipe",
    "load_recipe",
    "read_mask",
    "recipe_names",
    "scan",
    "scan_files",
    "which_recipe",
]
