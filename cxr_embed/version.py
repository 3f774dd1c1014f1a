"""The version of what runs."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cxr-embed")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+unknown"
