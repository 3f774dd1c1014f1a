"""A withdrawn consent: a patient, or single images, out of every store, index and folder of heat maps under some
paths, for good.

`places` finds what lies there, `known` learns from stores and indexes which images and files are meant, `mentions` and
`tables` find them in all other files, `run` does it: first the lists of who is to stay out (`store.forgotten`), then
rows of tables, heat maps, indexes, Milvus and the stores last. Each step shows by a rename and is done again by the
next run.
"""

from cxr_embed.forget.forgetting import Forgetting, forget

__all__ = ["Forgetting", "forget"]
