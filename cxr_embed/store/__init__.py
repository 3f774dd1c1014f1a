"""Vectors on disk: written once, keyed by content and encoder, verified, memory-mapped.

Layout of a store::

    store.json                 what is stored: encoder spec, fingerprint, dtype, precision; a digest of itself
    writers/                   a record of each process that writes, gone when it is done (`presence`)
    writer.lock                keeps writers of earlier releases out of what must be alone
    shards/00000000-<digest>/  published: never changed again; named by the digest of its shard.json, and counted by
                               its writer: two that publish at one moment may take one number
        shard.json             counts, engine, and size and SHA-256 of each file
        rows.arrow             one row an image: ids, content id, file stamp, error
        <output>.npy           (M, ...) vectors of the first M rows
        checksums.npy          (outputs, M) uint32, CRC-32C of each vector; not in shards of earlier releases
    prompts.arrow              prompts' vectors, where the encoder has text: one file, replaced as a whole
    checksums/                 the same for shards of earlier releases, once `store verify --upgrade` has added it: a
                               file each, named by the shard and the file's own digest
    shards/.<writer>-<x>.partial/  being written; a rename inside this folder publishes it
    forgotten.json             whoever was taken out and is to stay out: keyed hashes (`forgotten`)
    unread.json                only while shards are replaced: names of those that do not count (`rewrite`)

A row says that an image has a certain content. Its vector lies in the same shard (the first M rows, in order) or, for
content that was embedded before, in another one. A row with an error says why an image has no vector. Later rows of
an image replace earlier ones; of several vectors of one content the first counts. The order is that of shards' names.
"""

from cxr_embed.store.layout import Header, Row
from cxr_embed.store.prompts import Prompts, add_prompts, read_prompts
from cxr_embed.store.reader import Failure, Store, open_store
from cxr_embed.store.verify import Damage, upgrade_store, verify_store
from cxr_embed.store.writer import StoreWriter

__all__ = [
    "Damage",
    "Failure",
    "Header",
    "Prompts",
    "Row",
    "Store",
    "StoreWriter",
    "add_prompts",
    "open_store",
    "read_prompts",
    "upgrade_store",
    "verify_store",
]
