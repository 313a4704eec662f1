"""Which sensor encoder a description stands for."""

from __future__ import annotations

from models.configs.sensors import (
    CausalCNNConfig,
    CellsConfig,
    ExpertsConfig,
    LinearStateConfig,
    NoClassifierConfig,
    RingAttentionConfig,
    SensorConfig,
    SeqLSTMConfig,
    StatisticsConfig,
    TreesConfig,
)
from models.encoders.base import SensorEncoder
from models.encoders.causal_cnn import CausalCNN
from models.encoders.experts.cells import CellsNetwork
from models.encoders.experts.no_classifier import NoClassifier
from models.encoders.experts.pool import PooledExperts
from models.encoders.experts.statistics import StatisticsNetwork
from models.encoders.experts.trees import Trees
from models.encoders.linear_state import LinearState
from models.encoders.lstm import SeqLSTM
from models.encoders.ring_attention import RingAttention


def build_sensors(config: SensorConfig, *, variables: int, classes: int, messages: int = 0) -> SensorEncoder:
    """An untrained sensor encoder of this description, for so many columns of messages behind the readings."""
    match config:
        case SeqLSTMConfig():
            return SeqLSTM(config, variables=variables, classes=classes, messages=messages)
        case CausalCNNConfig():
            return CausalCNN(config, variables=variables, classes=classes)
        case RingAttentionConfig():
            return RingAttention(config, variables=variables, classes=classes)
        case LinearStateConfig():
            return LinearState(config, variables=variables, classes=classes)
        case StatisticsConfig():
            return StatisticsNetwork(config, variables=variables, classes=classes, messages=messages)
        case CellsConfig():
            return CellsNetwork(config, variables=variables, classes=classes)
        case TreesConfig():
            return Trees(config, variables=variables, classes=classes, messages=messages)
        case NoClassifierConfig():
            return NoClassifier(config, variables=variables, classes=classes)
        case ExpertsConfig():
            experts = [
                build_sensors(expert, variables=variables, classes=classes, messages=messages)
                for expert in config.experts
            ]
            return PooledExperts(config, experts, variables=variables, classes=classes, messages=messages)
