"""Frequent messages of training runs: which of them a model counts, instead of reading them as texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from models.configs.messages import MessagesConfig, MessageWindows
from models.data.runs import Run
from models.encoders.tokenizer import normalised

_MOSTLY = 0.95


class MessagesChoice(MessageWindows):
    """Which messages of the training runs are counted, and how."""

    most: int = Field(default=40, ge=1, le=1_024)
    """How many messages, the most frequent first."""
    least: int = Field(default=10, ge=1)
    """How often a message has to occur, and in at least two groups of runs."""


class Messages(NamedTuple):
    """Frequent messages of the training runs."""

    config: MessagesConfig
    share: float
    """Of all texts of these runs, how many are such messages."""

    @property
    def say_all(self) -> bool:
        """Whether they are nearly all that machines write, so that there is nothing left to read."""
        return self.share >= _MOSTLY


def frequent_messages(runs: Sequence[Run], choice: MessagesChoice) -> Messages | None:
    """The messages of these runs that are counted; None if no text repeats often enough."""
    counts: Counter[str] = Counter()
    groups: dict[str, set[str]] = {}
    for run in runs:
        for text in run.texts or ():
            message = normalised(text.text)
            counts[message] += 1
            groups.setdefault(message, set()).add(run.group)
    frequent = [one for one in counts if one and counts[one] >= choice.least and len(groups[one]) > 1]
    chosen = sorted(frequent, key=lambda one: (-counts[one], one))[: choice.most]
    if not chosen:
        return None
    config = MessagesConfig(messages=tuple(sorted(chosen)), windows=choice.windows, longest_age=choice.longest_age)
    return Messages(config, sum(counts[one] for one in chosen) / counts.total())
