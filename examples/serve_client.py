"""Asks a running `cxr-embed serve` for the cases that are most like a radiograph, with the standard library alone.

python examples/serve_client.py http://127.0.0.1:8750 RADIOGRAPH [CONDITION]

Where the server has a token, it is taken from CXR_EMBED_TOKEN.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any


def ask(address: str, data: bytes | None = None) -> Any:
    """What the server answers, to a question or to a file that is sent."""
    request = urllib.request.Request(address, data)
    if token := os.environ.get("CXR_EMBED_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise SystemExit(json.load(error)["error"]) from None


def main(server: str, radiograph: str, condition: str = "") -> None:
    """Sends the file, and prints its five neighbours."""
    about = ask(f"{server}/api/index")
    print(f"{about['cases']} cases of {about['encoder']}")

    sent = ask(f"{server}/api/upload", Path(radiograph).read_bytes())
    if not sent["looks_like_chest"]:
        print("it does not look like a chest radiograph: its neighbours mean little")

    question = urllib.parse.urlencode({"upload": sent["upload"], "where": condition, "k": 5})
    found = ask(f"{server}/api/search?{question}")
    for case in found["cases"]:
        print(f"{case['image_id']}  {case['similarity']:.3f}  {case.get('view') or ''}")
    print(found["note"])


if __name__ == "__main__":
    main(*sys.argv[1:])
