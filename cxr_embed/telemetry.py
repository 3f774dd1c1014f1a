"""What we load reports to nobody: each library's own way out of its usage statistics, in this one place.

Milvus's client, matplotlib, TensorFlow, timm and transformers, given folders, ask no host by themselves.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# huggingface-hub and what builds on it read the first when they are imported; the second is for whatever heeds it.
_VARIABLES = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
_OPENVINO_REPORTS = "openvino_telemetry"
# FastAPI since 0.165 describes each request, its address and what it raised too, to whatever collector the environment
# names.
FASTAPI: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)


def opt_out() -> None:
    """Says no for this process and its children, where the user has not said anything."""
    for name in _VARIABLES:
        os.environ.setdefault(name, "1")


def import_openvino() -> Any:
    """OpenVINO, without its call to an analytics host at import and the lasting id that it leaves in the home folder.

    Its only switch is a file in the home folder; but where the package that reports is missing, it takes a stub of its
    own. So that package cannot be found while OpenVINO is imported, and is left alone for everybody else.
    """
    if "openvino" not in sys.modules:
        modules: dict[str, Any] = sys.modules
        before = modules.pop(_OPENVINO_REPORTS, None)
        modules[_OPENVINO_REPORTS] = None  # `import` of it fails
        try:
            import openvino  # noqa: F401
        finally:
            del modules[_OPENVINO_REPORTS]
            if before is not None:
                modules[_OPENVINO_REPORTS] = before
    return sys.modules["openvino"]
