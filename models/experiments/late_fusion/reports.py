"""Factory reports and their classes, without duplicates, and grouped by paraphrase."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import TfidfVectorizer

from models.encoders.tokenizer import normalised
from models.experiments.late_fusion.config import FaultType
from pipeline.arrays import Ints
from pipeline.errors import DataError

_PARAPHRASE_COSINE = 0.6


class Reports(NamedTuple):
    """Reports (N,) and their classes; the same words may come again."""

    texts: tuple[str, ...]
    classes: Ints  # (N,)

    def take(self, rows: Ints) -> Reports:
        """Some of the reports."""
        return Reports(tuple(self.texts[row] for row in rows), self.classes[rows])


def read_reports(path: Path, classes: Mapping[str, FaultType]) -> Reports:
    """The reports of the classes' categories; raises DataError on missing columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; it must be factoryReports.csv of MathWorks") from error
    if not rows or not {"Description", "Category"} <= rows[0].keys():
        raise DataError(f"{path} lacks the columns Description and Category; it must be factoryReports.csv")
    index = {kind.category: label for label, kind in enumerate(classes.values())}
    known = [row for row in rows if row["Category"] in index]
    if missing := index.keys() - {row["Category"] for row in known}:
        raise DataError(f"{path} has no report of category {sorted(missing)[0]!r}")
    return Reports(
        tuple(row["Description"] for row in known), np.array([index[row["Category"]] for row in known], np.int64)
    )


def distinct(reports: Reports) -> Reports:
    """Each text once, whatever its case and punctuation; texts that stand under two classes not at all."""
    seen: dict[str, set[int]] = {}
    first: dict[str, int] = {}
    for row, text in enumerate(reports.texts):
        name = normalised(text)
        seen.setdefault(name, set()).add(int(reports.classes[row]))
        first.setdefault(name, row)
    return reports.take(np.array([row for name, row in first.items() if len(seen[name]) == 1], np.int64))


def paraphrase_groups(reports: Reports) -> Ints:
    """Group of each report: those of one class whose character n-grams are much the same, directly or by others."""
    tfidf = TfidfVectorizer(preprocessor=normalised, analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    points = tfidf.fit_transform(reports.texts)
    alike = (points @ points.T).toarray() >= _PARAPHRASE_COSINE
    same_class = reports.classes[:, None] == reports.classes
    return np.asarray(connected_components(alike & same_class, directed=False)[1], np.int64)
