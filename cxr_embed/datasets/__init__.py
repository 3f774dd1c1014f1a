"""Recipes that turn a data set's own files into a manifest: data in `data_manifests/`, one interpreter here."""

from cxr_embed.datasets.recipe import Recipe, load_recipe, recipe_names
from cxr_embed.datasets.result import ScanResult
from cxr_embed.datasets.scan import scan, scan_files

__all__ = ["Recipe", "ScanResult", "load_recipe", "recipe_names", "scan", "scan_files"]
