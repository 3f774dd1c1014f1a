"""Words that a user chooses among, in Python and on the command line."""

from __future__ import annotations

from typing import Literal

Uncertain = Literal["unknown", "positive", "negative"]  # what a label of -1 counts as
Blank = Literal["unknown", "negative"]  # what a blank label counts as
Votes = Literal["majority", "any", "counts"]  # several readers' labels to one
Colour = Literal["refuse", "grey"]
Dtype = Literal["float16", "float32"]
CalibrationKind = Literal["platt", "isotonic"]
ProbeKind = Literal["linear", "mlp", "knn"]
Balance = Literal["none", "balanced", "focal"]
ScoreKind = Literal["margin", "softmax", "sigmoid"]
Ensemble = Literal["scores", "vectors"]
ExportFormat = Literal["parquet", "npz", "npz-by-image", "npz-by-prompt"]
Pooling = Literal["mean", "max", "flatten"]  # of tokens, to one vector
ProbePooling = Literal["mean", "max", "flatten", "attention"]
IndexPooling = Literal["mean", "tokens"]
IndexKind = Literal["auto", "flat", "hnsw", "ivf-fp16", "ivf-sq8", "ivf-pq", "tokens-pq"]
ExplainMethod = Literal["auto", "cam", "patch", "gradcam", "occlusion"]
Fill = Literal["blur", "grey"]  # of a square that is hidden
Preparation = Literal["stretch"]
Crop = Literal["boxes"]  # what is embedded of a picture
PrecisionChoice = Literal["auto", "float32", "bf16"]
Engine = Literal["faiss", "milvus"]
EmbedEngine = Literal["local", "ray"]  # whose processes embed
# Of manifests that are merged: what becomes of an id that two of them have, and of an image that is in both.
SameImageIds = Literal["refuse", "prefix"]
SamePatients = Literal["refuse", "same", "prefix"]
SameImages = Literal["refuse", "first"]
