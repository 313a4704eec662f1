"""A trained model's scores on a held-out part, beside baselines that learn from the same frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from models.configs.fusion import FusionConfig
from models.configs.sensors import SeqLSTMConfig
from models.evaluation.scoring import Scores
from models.experiments.baselines.base import BaselineConfig
from models.experiments.baselines.scores import baseline_scores
from models.experiments.importance import variable_importance
from models.model_file import read_model
from models.network_file import build_network
from models.training.config import TrainConfig
from models.training.fitting.evidence import part_evidence
from models.training.loop import OnProgress, StageConfig, run_stage
from models.training.prepare import Part, PreparedData, without_recovering
from models.training.report import score_part
from models.training.stages.sensors import SensorStage
from models.training.train import TrainReport, build_untrained

BOOSTING: Final = "gradient boosting"
PLAIN_LSTM: Final = "plain LSTM"

_WINDOWS = (10, 60)
_MAX_FRAMES = 50_000
"""Training frames of gradient boosting, drawn from all of them."""
_MAX_LSTM_FRAMES = 200_000
"""With more training frames a second LSTM would take too long."""
_LSTM_EPOCHS = 12
_MAX_IMPORTANCE_VALUES = 20_000_000
"""Frames, times variables twice: with more, the importance of variables would take too long."""


def compare(
    config: TrainConfig, data: PreparedData, report: TrainReport, *, on_progress: OnProgress | None = None
) -> tuple[Part, dict[str, Scores]]:
    """The test part, or validation if the test part was not scored, and by system the scores of its frames: `fused`,
    each modality, gradient boosting on windows, and a plain LSTM on sensors where that is cheap."""
    part: Part = "test" if "test" in report.scores else "validation"
    systems = report.scores[part]["all"]["all_faults"]
    scores: dict[str, Scores] = {"fused": systems["fusion"]}
    scores |= {name: found for name, found in systems.items() if name in ("sensors", "text")}
    boosting = BaselineConfig(windows=_WINDOWS, max_frames=_MAX_FRAMES)
    baseline, _ = baseline_scores("boosting", config, boosting, folder=None, on_progress=on_progress, data=data)
    scores[BOOSTING] = baseline[part]["all"]["all_faults"]["fusion"]
    if data.counts["train"].frames <= _MAX_LSTM_FRAMES:
        scores[PLAIN_LSTM] = _plain_lstm(config, data, part, on_progress)
    measures = [name for name in scores["fused"] if name not in ("per_fault", "partition", "clusters")]
    return part, {system: {name: found[name] for name in measures} for system, found in scores.items()}


def importance(
    config: TrainConfig, data: PreparedData, report: TrainReport, *, on_progress: OnProgress | None = None
) -> dict[str, float]:
    """The importance of each variable on the validation part; empty where that is not cheap."""
    runs, variables = data.split.validation, data.machine_type.variable_names
    if sum(map(len, runs)) * len(variables) ** 2 > _MAX_IMPORTANCE_VALUES:
        return {}
    network = build_network(read_model(report.model)).eval()
    return variable_importance(
        network,
        runs,
        variables,
        data.hold_limit,
        faults=len(data.faults),
        seed=config.seed,
        on_progress=on_progress,
    )


def _plain_lstm(config: TrainConfig, data: PreparedData, part: Part, on_progress: OnProgress | None) -> Scores:
    """Scores of an LSTM on standardised readings, without anything that a configuration adds."""
    plain = TrainConfig(
        profile=config.profile,
        output=config.output,
        seed=config.seed,
        sensors=SeqLSTMConfig(hidden=(64,), head=(32,), mask_inputs=False),
        detector=None,
        fusion=FusionConfig(rule="uniform"),
        sensor_stage=StageConfig(epochs=_LSTM_EPOCHS, batch_size=config.sensor_stage.batch_size, learning_rate=5e-3),
        chunk_frames=config.chunk_frames,
    )
    sensors_alone = replace(without_recovering(data, config), pools=None, drawn_pools=None, messages=None)
    network = build_untrained(plain, sensors_alone)
    stage = SensorStage(network, sensors_alone, plain, name=PLAIN_LSTM)
    run_stage(
        stage,
        plain.sensor_stage,
        seed=plain.seed,
        checkpoint=config.output / "plain_lstm.checkpoint",
        fingerprint="",
        resume=False,
        on_progress=on_progress,
    )
    network.eval()
    evidence = part_evidence(network, sensors_alone, part)
    found: Scores = score_part(network, evidence, data.runs(part), data.faults, ()).scores
    return dict(found["all"]["all_faults"]["sensors"])
