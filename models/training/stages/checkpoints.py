"""What the checkpoint of a stage depends on: settings that have an effect on it, and data."""

from __future__ import annotations

import hashlib
from typing import Final

from models.model_file import read_model
from models.training.config import TrainConfig
from models.training.prepare import PreparedData

OF_RETRIEVAL: Final = frozenset({"retrieval", "retrieval_stage"})
"""Settings of the retrieval head, which is trained last."""
WITHOUT_EFFECT: Final = frozenset(
    {"budget_ms", "output", "name", "plots", "score_test", "hard_faults", "unknown", "candidates"} | OF_RETRIEVAL
)
"""Settings that change no weight of what is trained before them."""
LATER: Final = WITHOUT_EFFECT | {
    "rule",
    "false_alarms",
    "storage",
    "fusion",
    "encoders",
    "fusion_stage",
    "joint_stage",
    "fusion_frames_per_epoch",
    "fusion_distractor_share",
    "detector",
    "detector_stage",
    "remaining_life",
    "remaining_life_stage",
}
"""Settings that do not change the encoders, so that their checkpoints serve every fusion."""
OF_TEXTS: Final = LATER | {
    "texts",
    "text",
    "word_stage",
    "text_stage",
    "kept_texts",
    "typo_share",
    "text_frames_per_epoch",
    "events",
}
"""Settings that do not change the sensor encoder either."""
OF_DETECTOR: Final = frozenset({"detector", "detector_stage"})
"""Settings of the detector alone."""
IN_THE_DATA: Final = frozenset({"normal_data", "left_out"})
"""Settings whose effect shows in the runs and their labels."""


def fingerprint(config: TrainConfig, data: PreparedData, without_effect: frozenset[str]) -> str:
    """Changes with everything that a checkpoint depends on, but not with where it is, nor with other settings."""
    digest = hashlib.sha256(config.model_dump_json(exclude={*without_effect, *IN_THE_DATA}).encode())
    digest.update(data.machine_type.digest.encode())
    if config.encoders is not None:
        digest.update(read_model(config.encoders).header.hash.encode())
    for run in (*data.split.train, *data.split.validation):
        digest.update(f"{run.name} {len(run)}".encode())
        digest.update(run.learnt.tobytes())
    reads_texts = "texts" not in without_effect
    for pool in (data.pools.known, data.pools.validation) if data.pools and reads_texts else ():
        digest.update("\n".join(pool.texts).encode() + pool.classes.tobytes())
    return digest.hexdigest()
