"""The way to Milvus: addresses, errors in one line, and what a collection says of itself.

A collection holds one row a case: `image_id` (the key), the unit vector, the case's place in the store (`row`, by which
ties are broken), a digest of all of it (`digest`), and a field for each column of the case table. What it was made
from is a property of the collection, so that vectors of another encoder are refused.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.milvus.filter import Field
from cxr_embed.types import EncoderSpec

if TYPE_CHECKING:
    from pymilvus import MilvusClient

PROPERTY, FORMAT, VERSION = "cxr_embed", "cxr_embed.milvus", 1
VECTOR, ROW, DIGEST = "vector", "row", "digest"
TIMEOUT = 60  # seconds for one call; without a limit pymilvus tries for minutes before it says that nobody is there
# pymilvus asks an idle server every 10 s whether it lives; gRPC's own rule for servers ends connections for that.
_PATIENT = {"grpc.keepalive_time_ms": 300_000, "grpc.keepalive_permit_without_calls": False}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


@dataclass(frozen=True)
class CollectionRecord:
    """What a collection holds.

    Attributes:
        spec: the encoder of the vectors.
        output: of the encoder.
        pool: `none` or `mean`; see `layout.IndexRecord`.
        fields: columns of the case table, in its order, and where they are.
    """

    spec: EncoderSpec
    output: str
    pool: str
    fields: Mapping[str, Field]

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.spec.outputs[self.output][-1]

    def to_text(self) -> str:
        """JSON for the collection's property."""
        fields = [[column, field.name, field.kind] for column, field in self.fields.items()]
        head = {"format": FORMAT, "version": VERSION, "fingerprint": self.spec.fingerprint}
        body = {"spec": self.spec.to_json(), "output": self.output, "pool": self.pool, "fields": fields}
        return json.dumps(head | body, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str, where: str) -> CollectionRecord:
        """The inverse of `to_text`.

        Raises:
            CaseIndexError: for another version, or a property that someone changed.
        """
        try:
            body = json.loads(text)
            if (body["format"], body["version"]) != (FORMAT, VERSION):
                raise CaseIndexError(f"{where}: format version {body['version']}; this release reads {VERSION}")
            spec = EncoderSpec.from_json(body["spec"])
            fields = {column: Field(name, kind) for column, name, kind in body["fields"]}
            record = cls(spec, body["output"], body["pool"], fields)
            if spec.fingerprint == body["fingerprint"] and record.width:
                return record
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise CaseIndexError(f"{where}: its property {PROPERTY} is damaged; push the store into another `collection`")


def is_file(uri: str) -> bool:
    """Whether an address is a file of the embedded Milvus.

    Raises:
        CaseIndexError: for what is neither a file nor a server.
    """
    if re.match(r"(https?|tcp|unix):", uri):
        return False
    if not uri.endswith(".db"):
        raise CaseIndexError(f"`uri` {uri}: a server is http://HOST:PORT, a file of the embedded Milvus ends in .db")
    return True


@contextmanager
def as_index_error(uri: str) -> Iterator[None]:
    """Turns what goes wrong between us and Milvus into one line, and keeps its libraries from printing tracebacks."""
    from pymilvus.exceptions import MilvusException

    loggers = [logging.getLogger(name) for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except MilvusException as error:
        raise CaseIndexError(f"{uri}: {' '.join(str(error.message).split())[:300]}") from None
    except (ValueError, OSError) as error:
        raise CaseIndexError(f"{uri}: {' '.join(str(error).split())[:300]}") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def connect(uri: str, *, create: bool = False) -> MilvusClient:
    """A client of a server, or of the embedded Milvus; a secured server's token is read from `MILVUS_TOKEN`.

    Args:
        uri: `http://HOST:PORT`, or a file that ends in .db.
        create: whether to make such a file where there is none.

    Raises:
        CaseIndexError: where nobody answers, or a library is missing.
    """
    file = is_file(uri)
    try:
        import pymilvus

        if file:
            import milvus_lite  # noqa: F401, it is what opens the file
    except ImportError as error:
        raise CaseIndexError(
            f"`engine` milvus needs {error.name}, which is not installed; run pip install 'cxr-embed[milvus]'"
        ) from None
    if file and not create and not Path(uri).exists():
        raise CaseIndexError(f"{uri}: no such file; `cxr-embed index push STORE --uri {uri}` makes one")
    with as_index_error(uri):
        try:
            if file:
                Path(uri).absolute().parent.mkdir(parents=True, exist_ok=True)
            return pymilvus.MilvusClient(
                uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=TIMEOUT, grpc_options=_PATIENT
            )
        except pymilvus.MilvusException as error:
            why = "is another process using it? It serves one at a time" if file else "is the server running?"
            raise CaseIndexError(f"{uri}: cannot be opened ({error.message}); {why}") from None


def read_record(client: MilvusClient, uri: str, collection: str) -> CollectionRecord | None:
    """What a collection holds; None where there is no such collection.

    Raises:
        CaseIndexError: for a name that Milvus does not allow, or a collection that is not ours.
    """
    if not _NAME.fullmatch(collection):
        raise CaseIndexError(f"collection {collection!r}: Milvus allows letters, digits and _, no digit first")
    with as_index_error(uri):
        if not client.has_collection(collection, timeout=TIMEOUT):
            return None
        described = client.describe_collection(collection, timeout=TIMEOUT)
    text = described.get("properties", {}).get(PROPERTY)
    if text is None:
        raise CaseIndexError(f"{uri}: the collection {collection} was not made by `cxr-embed index push`")
    return CollectionRecord.from_text(text, f"{uri}: collection {collection}")


def index_kind(client: MilvusClient, uri: str, collection: str) -> str:
    """How Milvus searches a collection: `FLAT` or `HNSW`; blank where a push was killed between the two."""
    with as_index_error(uri):
        if VECTOR not in client.list_indexes(collection, timeout=TIMEOUT):
            return ""
        return str(client.describe_index(collection, VECTOR, timeout=TIMEOUT)["index_type"])
