"""Baselines trained and scored on the split of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.evaluation.clustering import cluster, partition_scores
from models.evaluation.scoring import Scores
from models.experiments.baselines.base import Baseline, BaselineConfig, BaselineKind
from models.experiments.baselines.classical import Boosting, Deep, Forest, PrincipalLogistic, RingSVM
from models.experiments.baselines.deep import MultimodalEncoder, StackedAutoencoder
from models.experiments.baselines.rows import baseline_rows
from models.training.config import TrainConfig
from models.training.loop import EpochRecord, OnProgress, Progress
from models.training.prepare import PreparedData
from models.training.report import sliced_scores
from pipeline.errors import DataError


def boosting_scores(
    config: TrainConfig, *, windows: Sequence[int], on_progress: OnProgress | None = None
) -> dict[str, Scores]:
    """Train gradient boosting on all training frames of a configuration's split; scores of validation and test."""
    everything = BaselineConfig(windows=tuple(windows), max_frames=10**9)
    scores, _ = baseline_scores("boosting", config, everything, folder=None, on_progress=on_progress)
    return {part: by_source["all"]["all_faults"]["fusion"] for part, by_source in scores.items()}


def baseline_scores(
    kind: BaselineKind,
    config: TrainConfig,
    baseline: BaselineConfig,
    *,
    folder: Path | None,
    on_progress: OnProgress | None = None,
    data: PreparedData | None = None,
) -> tuple[dict[str, Scores], list[EpochRecord]]:
    """Train one baseline on the training runs of a configuration's split; scores of its validation and test runs, each
    as of a network: by source, by subset, and of the system `fusion`.

    Of all runs, `clusters` holds the scores of k-means on what the baseline makes of the frames. The deep ones leave
    checkpoints in `folder`. `data` is that of the configuration, if it has been prepared.
    """
    report = on_progress or (lambda _: None)
    classes, rows = baseline_rows(config, baseline, data=data, on_progress=report)
    model = build_baseline(kind, len(classes), baseline, seed=config.seed, folder=folder, on_progress=on_progress)
    train = rows["train"]
    report(Progress(f"{kind}: fit", 0, 1, 0.0))
    model.fit(train, rows["validation"])
    report(Progress(f"{kind}: fit", 0, 1, 1.0))
    scores: dict[str, Scores] = {}
    for part in ("validation", "test"):
        if part not in rows:
            continue
        held_out = rows[part]
        predicted = model.predict(held_out)
        scores[part] = sliced_scores(
            held_out.runs,
            held_out.frames,
            held_out.labels,
            held_out.sources,
            {"fusion": predicted},
            classes,
            config.hard_faults,
        )
        features = model.features(held_out)
        if features is not None:
            clusters = cluster(features, len(classes), seed=config.seed)
            scores[part]["all"]["all_faults"]["fusion"]["clusters"] = partition_scores(held_out.labels, clusters)
    return scores, model.history


def build_baseline(
    kind: BaselineKind,
    classes: int,
    baseline: BaselineConfig,
    *,
    seed: int,
    folder: Path | None,
    on_progress: OnProgress | None,
) -> Baseline:
    """An untrained baseline of this kind."""
    match kind:
        case "boosting":
            return Boosting(seed)
        case "pca_logistic":
            return PrincipalLogistic(seed)
        case "random_forest":
            return Forest(seed)
        case "tfidf_svm":
            return RingSVM(seed)
        case "stacked_autoencoder" | "multimodal_encoder":
            if folder is None:
                raise DataError(f"{kind} needs a folder for its checkpoints; give an output folder")
            network_class = StackedAutoencoder if kind == "stacked_autoencoder" else MultimodalEncoder
            network = network_class(classes, seed=seed, epochs=baseline.epochs, folder=folder, on_progress=on_progress)
            return Deep(network)
