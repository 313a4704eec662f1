"""Every operation that a program can contain; what the operands of each are is said at its kernel."""

from __future__ import annotations

from typing import Final

from models.stepping.kernels import dense, fusion, vectors
from models.stepping.kernels.answers import published, remaining_life, unknown
from models.stepping.kernels.encoders import attention, detector, messages, pool, recurrent, statistics, texts, trees
from models.stepping.kernels.operation import operation

DENSE: Final = operation(dense.dense)

SOFTMAX: Final = operation(vectors.softmax)
LAYER_NORM: Final = operation(vectors.layer_norm)
ADD: Final = operation(vectors.add)
TANH: Final = operation(vectors.tanh_in_place)
COPY: Final = operation(vectors.copy)
GATHER: Final = operation(vectors.gather)
CONSTANT: Final = operation(vectors.constant)

ASINH: Final = operation(vectors.squash)

LSTM_CELL: Final = operation(recurrent.lstm_cell)
RUNNING_MEANS: Final = operation(recurrent.running_means)
PUSH_QUEUE: Final = operation(recurrent.push_queue)
LINEAR_MEMORY: Final = operation(recurrent.linear_memory)

STATISTICS: Final = operation(statistics.streaming_statistics)
WINDOW_STATISTICS: Final = operation(trees.window_statistics)
OWN_START: Final = operation(trees.own_start)
FOLLOW_TREES: Final = operation(trees.follow_trees)
POOL: Final = operation(pool.pool)
COUNT_MESSAGES: Final = operation(messages.count_messages)

RESIDUALS: Final = operation(detector.residuals)
RESIDUAL_STATISTICS: Final = operation(detector.residual_statistics)
NOVELTY: Final = operation(detector.novelty)
KEEP_FORECAST: Final = operation(detector.keep_forecast)
BACK: Final = operation(detector.back)

RING_ATTENTION: Final = operation(attention.ring_attention)
COUNT_FRAME: Final = operation(attention.count_frame)

TEXT_AGE: Final = operation(texts.text_age)
TEXT_POOL: Final = operation(texts.text_pool)

DOUBT: Final = operation(fusion.doubt)
LATE_RULE: Final = operation(fusion.late_rule)
EVEN_WEIGHTS: Final = operation(fusion.even_weights)
DIAGONAL: Final = operation(fusion.diagonal)
MODALITY_ATTENTION: Final = operation(fusion.modality_attention)
WEIGH: Final = operation(fusion.weigh)
BLEND: Final = operation(fusion.blend)
EXPERTS: Final = operation(fusion.experts)
LOG_ANSWERS: Final = operation(fusion.log_answers)

UNKNOWN: Final = operation(unknown.unknown)
REMAINING_LIFE: Final = operation(remaining_life.bounded)
CONFIDENCE_MAP: Final = operation(published.confidence_map)
CANDIDATES: Final = operation(published.candidates)
