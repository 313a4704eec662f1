"""Fusions built from their configurations."""

from __future__ import annotations

from collections.abc import Sequence

from models.configs.fusion import (
    AdaptiveConfig,
    ChannelsConfig,
    DeepConfig,
    EarlyConfig,
    FusionChoice,
    FusionConfig,
    HybridConfig,
    VAEConfig,
)
from models.fusion.adaptive import AdaptiveFusion
from models.fusion.base import FusionNetwork
from models.fusion.concatenation import ChannelsFusion, DeepFusion, EarlyFusion, HybridFusion
from models.fusion.late import LateFusion
from models.fusion.learned import LearnedFusion
from models.fusion.vae import MultimodalVAE


def build_fusion(config: FusionChoice, *, sizes: Sequence[int], classes: int) -> LateFusion | LearnedFusion:
    """An untrained fusion of this description, for modalities with features of these sizes."""
    if isinstance(config, FusionConfig):
        return LateFusion(config, modalities=len(sizes), classes=classes)
    modalities = len(sizes)
    sizes = [{"features": size, "answers": classes, "both": size + classes}[config.inputs] for size in sizes]
    network: FusionNetwork
    match config:
        case EarlyConfig():
            network = EarlyFusion(config.hidden, config.dropout, sizes=sizes, classes=classes)
        case HybridConfig():
            network = HybridFusion(config, sizes=sizes, classes=classes)
        case DeepConfig():
            network = DeepFusion(config, sizes=sizes, classes=classes)
        case AdaptiveConfig():
            network = AdaptiveFusion(config, sizes=sizes, classes=classes)
        case VAEConfig():
            network = MultimodalVAE(config, sizes=sizes, classes=classes)
        case ChannelsConfig():
            network = ChannelsFusion(config, sizes=sizes, classes=classes)
    return LearnedFusion(config, network, modalities=modalities, classes=classes)
