"""The embeddings of a diagnosis: what a model's encoders make of each modality, as base64 in its JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from pipeline.arrays import Floats
from pipeline.wire.messages import Reason, RejectedError

_NUMBER: Final = np.dtype("<f4")


def with_embeddings(diagnosis: bytes, embeddings: Mapping[str, Floats]) -> bytes:
    """The JSON of a diagnosis that has none yet, with the features (D_m,) of each modality that is present."""
    if not embeddings:
        return diagnosis
    parts = [
        b"%b:%b" % (msgspec.json.encode(modality), msgspec.json.encode(features.astype(_NUMBER, copy=False).tobytes()))
        for modality, features in embeddings.items()
    ]
    return b'%b,"embeddings":{%b}}' % (diagnosis[:-1], b",".join(parts))


def embedding_of(encoded: str) -> Floats:
    """The features (D_m,) of one modality; raises RejectedError if they cannot be read, or one is not finite."""
    try:
        features = np.frombuffer(base64.b64decode(encoded, validate=True), _NUMBER).astype(np.float32)
    except ValueError as error:
        raise RejectedError(Reason.SCHEMA, f"an embedding is not base64 of float32 numbers: {error}") from None
    if not np.isfinite(features).all():
        raise RejectedError(Reason.NOT_FINITE, "an embedding has numbers that are not finite")
    return features
