"""Pools of event texts, their leak-free split, and streams of texts drawn onto runs (docs/guide/models.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.data.runs import UNLABELLED, Run, check_disjoint, class_runs
from models.data.tables import read_table, require_columns
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import normalised
from pipeline.arrays import Bools, Ints
from pipeline.errors import DataError
from pipeline.wire.plain_text import plain_text

_PARTS = ("train", "validation", "test")
_RECOVERED = "recovered"
MIN_AUTHORS = 3
"""One for each part."""


class EventDrawConfig(BaseModel):
    """How texts are drawn onto a run; lengths and lags are in frames."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    silent_share: float = Field(default=0.15, ge=0, le=1)
    """Share of fault episodes without a text."""
    most_symptoms: int = Field(default=3, ge=1)
    """Maximum number of symptom texts of the other episodes; each has at least one."""
    symptom_lag: float = Field(default=10.0, gt=0)
    """Mean of the exponential lag from onset to a symptom text."""
    distractor_share: float = Field(default=0.1, ge=0, le=1)
    """Share of symptom texts about another fault than the true one."""
    benign_rate: float = Field(default=1 / 60, ge=0)
    """Texts of the normal state per normal frame."""
    benign_rate_in_fault: float = Field(default=1 / 120, ge=0)
    """The same per frame with a fault."""
    vague_rate: float = Field(default=1 / 300, ge=0)
    """Texts that fit any state, per frame."""
    recovered_share: float = Field(default=0.5, ge=0, le=1)
    """Share of cleared faults after which a text reports that all is well."""
    recovered_lag: float = Field(default=6.0, gt=0)
    """Mean of the exponential lag from clearing to that report."""


@dataclass(frozen=True, slots=True)
class TextPool:
    """Distinct labelled texts; the class is UNLABELLED for vague ones, 0 for benign ones."""

    texts: tuple[str, ...]
    classes: Ints  # (N,)
    groups: tuple[str, ...]
    authors: tuple[str, ...] = ()
    """Who wrote each text; empty if the authors are not known."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def recovered(self) -> Bools:
        """Which texts report that a fault is over: benign ones of a group named `recovered…`, (N,)."""
        named: Bools = np.array([group.startswith(_RECOVERED) for group in self.groups], bool)
        benign: Bools = self.classes == 0
        return np.logical_and(named, benign)

    def take(self, rows: Ints) -> TextPool:
        """A pool of some of the rows."""
        chosen = [int(row) for row in rows]
        return TextPool(
            tuple(self.texts[row] for row in chosen),
            self.classes[rows],
            tuple(self.groups[row] for row in chosen),
            tuple(self.authors[row] for row in chosen) if self.authors else (),
        )

    def joined(self, other: TextPool) -> TextPool:
        """The rows of both; the authors are known if those of both are."""
        classes = np.concatenate([self.classes, other.classes])
        known = bool(self.authors and other.authors)
        authors = self.authors + other.authors if known else ()
        return TextPool(self.texts + other.texts, classes, self.groups + other.groups, authors)


@dataclass(frozen=True, slots=True)
class PoolSplit:
    """A pool in parts that share neither an author, nor a group, nor a text, whatever its case and punctuation."""

    train: TextPool
    """What text encoders learn from."""
    validation: TextPool
    test: TextPool
    kept: TextPool | None = None
    """Training texts that encoders do not learn from, for what is fitted on top of them; None if none are kept."""

    @property
    def known(self) -> TextPool:
        """All training texts."""
        return self.train if self.kept is None else self.train.joined(self.kept)

    @property
    def unread(self) -> TextPool:
        """Training texts that encoders have not learnt from, or all if none are kept."""
        return self.train if self.kept is None else self.kept

    @property
    def unseen(self) -> TextPool:
        """All but test texts that encoders have not learnt from."""
        return self.validation if self.kept is None else self.validation.joined(self.kept)

    def leave_out(self, classes: Sequence[int]) -> PoolSplit:
        """The same without the training and validation texts of these classes."""

        def others(pool: TextPool) -> TextPool:
            return pool.take(np.flatnonzero(~np.isin(pool.classes, classes)))

        return PoolSplit(
            others(self.train), others(self.validation), self.test, None if self.kept is None else others(self.kept)
        )

    def __post_init__(self) -> None:
        pools = {part: getattr(self, part) for part in _PARTS} | ({} if self.kept is None else {"kept": self.kept})
        check_disjoint({part: set(pool.authors) for part, pool in pools.items()}, what="text author")
        check_disjoint({part: set(pool.groups) for part, pool in pools.items()}, what="text group")
        check_disjoint({part: {normalised(t) for t in pool.texts} for part, pool in pools.items()}, what="text")


def read_pool(
    paths: Sequence[Path], faults: Sequence[str], *, validation: float, test: float, rng: np.random.Generator
) -> PoolSplit:
    """Texts from files with columns `text`, `fault`, and if there `author`, `group` and `split`, in three parts.

    Repeated texts count once; texts that appear under two faults are left out. Without a `split` column whole authors
    are split by share, if at least MIN_AUTHORS are named; else whole groups (or distinct texts, if there is no `group`)
    within each class. Raises DataError if parts share an author, a group or a text.
    """
    index = {fault: label for label, fault in enumerate(faults)} | {"": UNLABELLED}
    texts: list[str] = []
    classes: list[int] = []
    groups: list[str] = []
    authors: list[str] = []
    declared: list[str] = []
    for path in paths:
        table = read_table(path)
        require_columns(table, ("text", "fault"), path)
        rows = table.to_pylist()
        for row in rows:
            fault = row["fault"] or ""
            if fault not in index:
                raise DataError(f"{path} labels a text with {fault!r}, which is no fault of the profile")
            if (part := row.get("split") or "") not in ("", *_PARTS):
                raise DataError(f"{path} puts a text into split {part!r}; it must be one of {', '.join(_PARTS)}")
            texts.append(plain_text(str(row["text"])))
            classes.append(index[fault])
            groups.append(str(row.get("group") or "") or normalised(texts[-1]))
            authors.append(str(row.get("author") or ""))
            declared.append(part)
    if not texts:
        raise DataError(f"no texts in {', '.join(str(path) for path in paths)}")
    names = [normalised(text) for text in texts]
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    if all(declared):
        parts = np.array([_PARTS.index(part) for part in declared])
    elif any(declared):
        raise DataError(f"{paths[0]}: some texts have a split and some have none; fill the column or drop it")
    elif all(authors) and len(set(authors)) >= MIN_AUTHORS:
        # What several authors wrote counts once, for the first of them.
        parts = _split_by_author([authors[first[name]] for name in names], validation, test, rng)
    else:
        parts = _split_by_share(groups, classes, validation, test, rng)

    # Checked before duplicates are dropped, which would hide a text in two parts.
    texts_of = {part: {n for n, p in zip(names, parts, strict=True) if p == index} for index, part in enumerate(_PARTS)}
    check_disjoint(texts_of, what="text")
    seen: dict[str, set[int]] = {}
    for name, label in zip(names, classes, strict=True):
        seen.setdefault(name, set()).add(label)
    kept = np.array([row for row, name in enumerate(names) if first[name] == row and len(seen[name]) == 1], np.int64)
    pool = TextPool(tuple(texts), np.array(classes, np.int64), tuple(groups), tuple(authors) if all(authors) else ())
    return PoolSplit(*(pool.take(kept[parts[kept] == index]) for index in range(len(_PARTS))))


def split_groups(pool: TextPool, share: float, rng: np.random.Generator) -> tuple[TextPool, TextPool]:
    """Two pools that share no group, the second with this share of the groups of every class.

    Of a pool by several authors the second part has all texts of this share of them, so that none is in both.
    """
    if len(set(pool.authors)) > 1:
        names = sorted(set(pool.authors))
        count = max(1, int(share * len(names)))
        taken = {names[index] for index in rng.permutation(len(names))[:count]}
        by_author = np.array([author in taken for author in pool.authors], bool)
        return pool.take(np.flatnonzero(~by_author)), pool.take(np.flatnonzero(by_author))
    groups_of_class: dict[int, set[str]] = {}
    for group, label in zip(pool.groups, pool.classes.tolist(), strict=True):
        groups_of_class.setdefault(label, set()).add(group)
    chosen: set[str] = set()
    for _, groups in sorted(groups_of_class.items()):
        remaining = sorted(groups - chosen)
        chosen.update(remaining[row] for row in rng.permutation(len(remaining))[: int(share * len(groups))])
    second = np.array([group in chosen for group in pool.groups], bool)
    return pool.take(np.flatnonzero(~second)), pool.take(np.flatnonzero(second))


def pool_of_runs(runs: Sequence[Run]) -> TextPool:
    """The runs' own texts as a pool: each distinct text once, with the most frequent class of its frames."""
    counts: dict[str, Counter[int]] = {}
    first: dict[str, str] = {}
    for run in runs:
        for text in run.texts or ():
            name = normalised(text.text)
            first.setdefault(name, text.text)
            counts.setdefault(name, Counter())[int(run.labels[text.frame])] += 1
    classes = [counts[name].most_common(1)[0][0] for name in first]
    return TextPool(tuple(first.values()), np.array(classes, np.int64), tuple(first))


def draw_events(
    labels: Ints, pool: TextPool, config: EventDrawConfig, rng: np.random.Generator
) -> tuple[PlacedText, ...]:
    """Texts for one run with classes `labels` (T,), oldest first; classes without texts in the pool get none."""
    by_class = {int(label): np.flatnonzero(pool.classes == label) for label in np.unique(pool.classes)}
    recovered = np.flatnonzero(pool.recovered)
    by_class[0] = np.flatnonzero((pool.classes == 0) & ~pool.recovered)
    faulty = [label for label in by_class if label > 0]
    placed: list[tuple[float, int]] = []

    def scatter(rate: float, start: int, end: int, rows: Ints | None) -> None:
        if rows is not None and len(rows):
            count = rng.poisson(rate * (end - start))
            placed.extend(zip(rng.uniform(start, end, count), rng.choice(rows, count), strict=True))

    previous = 0
    for start, end, label in class_runs(labels):
        scatter(config.vague_rate, start, end, by_class.get(UNLABELLED))
        if label == 0:
            scatter(config.benign_rate, start, end, by_class[0])
            moment = start + rng.exponential(config.recovered_lag)
            if previous > 0 and len(recovered) and rng.random() < config.recovered_share and moment < end:
                placed.append((moment, int(rng.choice(recovered))))
        elif label > 0:
            scatter(config.benign_rate_in_fault, start, end, by_class[0])
            count = 0 if rng.random() < config.silent_share else int(rng.integers(1, config.most_symptoms + 1))
            for lag in rng.exponential(config.symptom_lag, count):
                others = [other for other in faulty if other != label]
                reported = rng.choice(others) if others and rng.random() < config.distractor_share else label
                rows = by_class.get(int(reported))
                if rows is not None and len(rows) and start + lag < end:
                    placed.append((start + lag, int(rng.choice(rows))))
        previous = label
    return tuple(PlacedText(int(moment), 1 - moment % 1, pool.texts[row]) for moment, row in sorted(placed))


def run_events(
    runs: Sequence[Run], pool: TextPool | None, config: EventDrawConfig, rng: np.random.Generator
) -> list[tuple[PlacedText, ...]]:
    """The texts of each run: its own if it has any, else drawn from the pool."""
    drawn = []
    for run in runs:
        if run.texts is not None:
            drawn.append(run.texts)
        else:
            drawn.append(draw_events(run.labels, pool, config, rng) if pool is not None else ())
    return drawn


def _split_by_author(authors: Sequence[str], validation: float, test: float, rng: np.random.Generator) -> Ints:
    """The part of each text: at least one author is held out for each part with a share."""
    names = sorted(set(authors))
    counts = [max(1, round(share * len(names))) if share else 0 for share in (validation, test)]
    turned = [names[index] for index in rng.permutation(len(names))]
    part_of = dict.fromkeys(turned[: counts[0]], 1) | dict.fromkeys(turned[counts[0] : sum(counts)], 2)
    return np.array([part_of.get(author, 0) for author in authors], np.int64)


def _split_by_share(
    groups: Sequence[str], classes: Sequence[int], validation: float, test: float, rng: np.random.Generator
) -> Ints:
    strata: dict[tuple[int, bool], list[str]] = {}
    for group, label in dict(zip(reversed(groups), reversed(classes), strict=True)).items():
        strata.setdefault((label, group.startswith(_RECOVERED)), []).append(group)
    part_of: dict[str, int] = {}
    for stratum in sorted(strata):
        members = sorted(strata[stratum])
        held_out = [round(share * len(members)) for share in (validation, test)]
        for rank, index in enumerate(rng.permutation(len(members))):
            part_of[members[index]] = 1 if rank < held_out[0] else 2 if rank < sum(held_out) else 0
    return np.array([part_of[group] for group in groups], np.int64)
