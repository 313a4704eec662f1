"""Runs and texts for training: reading, holding, scaling, disturbing, splitting without leaks, and drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.augment import AugmentConfig, MaskingConfig, disturb
from models.data.runs import Run, RunFiles, RunSplit, class_runs, read_runs, split_runs
from models.data.scaling import Scaling, hold, hold_frames
from models.data.text_pools import (
    EventDrawConfig,
    PoolSplit,
    TextPool,
    draw_events,
    pool_of_runs,
    read_pool,
    run_events,
    split_groups,
)
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import normalised
from pipeline.arrays import Floats
from pipeline.config.sections.modalities import Cells
from pipeline.errors import DataError
from tests.support.models_tiny import machine_type

FAULTS = ("normal", "leak", "jam")


def table(**columns: Any) -> pa.Table:
    """Four readings in every row beside the given columns."""
    rows = len(next(iter(columns.values())))
    readings = {name: np.arange(rows, dtype=float) + at for at, name in enumerate(machine_type().variable_names)}
    return pa.table(readings | columns)


def written(path: Path, content: pa.Table) -> Path:
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(content, path)
    else:
        pyarrow.parquet.write_table(content, path)
    return path


def read(path: Path, **options: Any) -> list[Run]:
    return read_runs(RunFiles(paths=(path,), **options), machine_type())


def run(name: str, labels: list[int], group: str = "", values: Floats | None = None) -> Run:
    readings = np.zeros((len(labels), 4), np.float32) if values is None else values
    return Run(name, group or name, "file", readings, np.array(labels, np.int64))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_rows_become_runs_in_sample_order(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"runs.{suffix}", table(run=[7, 8, 7, 7], sample=[2, 0, 0, 1], label=[1, 0, 0, 2]))
    first, second = read(path)
    assert (first.name, first.source, first.group) == ("runs run=7", "runs", "runs run=7")
    assert first.labels.tolist() == [0, 2, 1]
    assert first.values[:, 0].tolist() == [2, 3, 0]
    assert second.labels.tolist() == [0]


def test_fault_and_seed_name_runs_and_the_seed_alone_keeps_them_together(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", table(fault=[1, 2, 1, 2], seed=[5, 5, 6, 6], label=[0, 0, 1, 2]))
    runs = read(path)
    assert [made.name for made in runs] == [
        "a fault=1 seed=5",
        "a fault=1 seed=6",
        "a fault=2 seed=5",
        "a fault=2 seed=6",
    ]
    assert [made.group for made in runs] == ["seed=5", "seed=6", "seed=5", "seed=6"]


def test_labels_may_be_fault_names_and_missing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", table(run=["x"] * 4, label=["jam", "", None, "normal"]))
    assert read(path)[0].labels.tolist() == [2, -1, -1, 0]
    numbers = written(tmp_path / "b.parquet", table(run=["x"] * 3, label=pa.array([1, None, -5])))
    assert read(numbers)[0].labels.tolist() == [1, -1, -1]


def test_other_column_names_can_be_given(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", table(machine=["x", "y"], shift=["s", "s"], truth=[0, 1]))
    runs = read(path, run=("machine",), group=("shift",), label="truth")
    assert [made.group for made in runs] == ["shift=s", "shift=s"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pa.table({"run": [1], "label": [0]}), "lacks column flow, load, heat, noise"),
        (table(run=[1], label=[3]), "holds class 3, but the profile has 3 classes"),
        (table(run=[1], label=["wear"]), "names 'wear'"),
        (table(label=[0]), "no column that names runs"),
        (table(run=[1], label=[0]).set_column(0, "flow", pa.array(["low"])), "column flow does not hold numbers"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(tmp_path: Path, content: pa.Table, said: str) -> None:
    path = written(tmp_path / "runs.parquet", content)
    with pytest.raises(DataError, match=said) as caught:
        read(path)
    assert "runs.parquet" in str(caught.value)


def test_a_file_that_is_not_there_or_not_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give a parquet or CSV file"):
        read(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_text("x")
    with pytest.raises(DataError, match=r"broken\.parquet"):
        read(tmp_path / "broken.parquet")


def test_texts_are_placed_by_sample_with_their_age_at_the_frames_end(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.parquet", table(run=[1, 1, 2], sample=[0, 1, 0], label=[0, 1, 0]))
    events = written(
        tmp_path / "events.csv", pa.table({"run": [1, 1, 1], "sample": [1.25, 0.0, 7.0], "text": ["b", "a", "late"]})
    )
    first, second = read(path, events=(events,))
    assert first.texts == (PlacedText(0, 1.0, "a"), PlacedText(1, 0.75, "b"))
    assert second.texts == ()


def test_texts_are_placed_by_time(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.parquet", table(run=[1, 1], time=[10_000, 20_000], label=[0, 1]))
    events = written(tmp_path / "events.parquet", pa.table({"run": [1], "time": [15_000], "text": ["<b>a</b>"]}))
    assert read(path, events=(events,))[0].texts == (PlacedText(0, 0.5, "a"),)


def test_texts_on_unknown_runs_or_without_a_place_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.parquet", table(run=[1], label=[0]))
    stray = written(tmp_path / "stray.parquet", pa.table({"run": [9], "sample": [0], "text": ["a"]}))
    with pytest.raises(DataError, match="placed on run=9"):
        read(path, events=(stray,))
    nowhere = written(tmp_path / "nowhere.parquet", pa.table({"run": [1], "text": ["a"]}))
    with pytest.raises(DataError, match="neither by sample nor by time"):
        read(path, events=(nowhere,))


def test_values_are_held_up_to_the_limit_and_no_longer() -> None:
    nan = np.nan
    values = np.array([[nan, 1], [2, nan], [nan, nan], [nan, nan], [nan, 5]], np.float32)
    held, observed = hold(values, 2)
    np.testing.assert_array_equal(held, [[nan, 1], [2, 1], [2, 1], [2, nan], [nan, 5]])
    assert observed.sum() == 3
    assert hold_frames(machine_type()) == 3


def test_scaling_is_fitted_to_what_comes_before_the_first_fault() -> None:
    normal = np.array([[1, 5, np.nan, 0], [3, 5, np.nan, 2]], np.float32)
    faulty = np.full((3, 4), 100, np.float32)
    runs = [run("a", [0, 0, 1, 0, 0], values=np.concatenate([normal, faulty])), run("b", [2, 2, 2], values=faulty)]
    scaling = Scaling.fit(runs)
    np.testing.assert_allclose(scaling.mean, [2, 5, 0, 1])
    # The second variable does not move, the third was never measured.
    np.testing.assert_allclose(scaling.std, [1, 0.005, 1, 1])
    with pytest.raises(DataError, match=r"none of 1 training runs begins with one: 0 .* and 1 with a fault"):
        Scaling.fit([runs[1]])


def test_stretches_of_a_class() -> None:
    assert class_runs(np.array([0, 0, 2, 1, 1])) == [(0, 2, 0), (2, 3, 2), (3, 5, 1)]
    assert class_runs(np.array([], np.int64)) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=12, max_size=60), st.integers(0, 99))
def test_no_group_stands_in_two_parts(drawn: list[tuple[int, int]], seed: int) -> None:
    runs = [run(f"r{at}", [0, label], group=f"g{group}") for at, (group, label) in enumerate(drawn)]
    try:
        split = split_runs(runs, validation=0.3, test=0.2, rng=np.random.default_rng(seed))
    except DataError:
        return
    groups = [{made.group for made in part} for part in (split.train, split.validation, split.test)]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert len(split.train) + len(split.validation) + len(split.test) == len(runs)


def test_every_fault_comes_into_every_part() -> None:
    runs = [run(f"{fault} {seed}", [0, fault]) for fault in (1, 2) for seed in range(10)]
    split = split_runs(runs, validation=0.2, test=0.1, rng=np.random.default_rng(0))
    for part, count in ((split.train, 7), (split.validation, 2), (split.test, 1)):
        assert [int(made.labels[1]) for made in part].count(1) == count
        assert [int(made.labels[1]) for made in part].count(2) == count


def test_a_split_that_leaks_cannot_be_made() -> None:
    with pytest.raises(DataError, match="'g' is in train and in test"):
        RunSplit((run("a", [0], "g"),), (run("b", [0]),), (run("c", [0], "g"),))


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(DataError, match="too few"):
        split_runs([run("a", [0])], validation=0.2, test=0, rng=np.random.default_rng(0))


def pool_file(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    names = ("text", "fault", "group", "split")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    return written(path, pa.table({name: column for name, column in columns.items() if any(column)}))


def pools(path: Path, rows: list[tuple[str, str, str, str]], **shares: float) -> PoolSplit:
    chosen = {"validation": 0.25, "test": 0.25} | shares
    return read_pool([pool_file(path, rows)], FAULTS, **chosen, rng=np.random.default_rng(1))


def test_declared_splits_are_kept(tmp_path: Path) -> None:
    split = pools(
        tmp_path / "t.parquet",
        [
            ("Pump leaks", "leak", "a", "train"),
            ("all fine", "normal", "b", "test"),
            ("odd noise", "", "c", "validation"),
        ],
    )
    assert (split.train.texts, split.test.texts, split.validation.texts) == (
        ("Pump leaks",),
        ("all fine",),
        ("odd noise",),
    )
    assert (split.train.classes[0], split.test.classes[0], split.validation.classes[0]) == (1, 0, -1)


def test_texts_of_a_pool_are_read_without_their_markup(tmp_path: Path) -> None:
    rows = [("<p>Pump&nbsp;leaks</p>", "leak", "", "train"), ("flow < 3", "jam", "", "train")]
    assert pools(tmp_path / "t.parquet", rows).train.texts == ("Pump leaks", "flow < 3")


def test_repeated_texts_count_once_and_contradictory_ones_not_at_all(tmp_path: Path) -> None:
    rows = [("Leak!", "leak", "", ""), ("leak", "leak", "", ""), ("stop", "jam", "", ""), ("STOP.", "leak", "", "")]
    split = pools(tmp_path / "t.csv", rows, validation=0, test=0)
    assert split.train.texts == ("Leak!",)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 8), st.sampled_from(FAULTS)), min_size=1, max_size=60))
def test_no_text_and_no_group_stands_in_two_parts(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, str]]
) -> None:
    rows = [(f"word{word} Word{group}", fault, f"g{group}", "") for word, group, fault in drawn]
    split = pools(tmp_path_factory.mktemp("pool") / "t.parquet", rows)
    parts = (split.train, split.validation, split.test)
    for what in ([{normalised(t) for t in part.texts} for part in parts], [set(part.groups) for part in parts]):
        assert not what[0] & what[1] | what[0] & what[2] | what[1] & what[2]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "leak", "g", "train"), ("b", "leak", "g", "test")], "text group 'g'"),
        ([("A b", "leak", "g", "train"), ("a, B", "leak", "h", "test")], "text 'a b'"),
        ([("a", "leak", "g", "train"), ("b", "leak", "h", "")], "some texts have a split"),
        ([("a", "leak", "g", "dev")], "split 'dev'"),
        ([("a", "wear", "g", "train")], "'wear', which is no fault"),
    ],
)
def test_pools_that_leak_or_do_not_fit_are_refused(
    tmp_path: Path, rows: list[tuple[str, str, str, str]], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        pools(tmp_path / "t.parquet", rows)


def pools_by_authors(path: Path, rows: list[tuple[str, str, str, str]]) -> PoolSplit:
    """Pools of rows of text, fault, author and split."""
    names = ("text", "fault", "author", "split")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    file = written(path, pa.table({name: column for name, column in columns.items() if any(column)}))
    return read_pool([file], FAULTS, validation=0.2, test=0.2, rng=np.random.default_rng(1))


def test_an_author_is_in_one_part_only(tmp_path: Path) -> None:
    rows = [(f"text {index} of {author}", "leak", author, "") for author in "abcdefgh" for index in range(3)]
    split = pools_by_authors(tmp_path / "t.parquet", rows)
    authors = [set(part.authors) for part in (split.train, split.validation, split.test)]
    assert [len(names) for names in authors] == [4, 2, 2]
    assert set.union(*authors) == set("abcdefgh")
    kept = split_groups(split.train, 0.5, np.random.default_rng(0))
    assert [len(set(pool.authors)) for pool in kept] == [2, 2]
    assert not set(kept[0].authors) & set(kept[1].authors)


def test_what_two_authors_wrote_counts_once(tmp_path: Path) -> None:
    rows = [(text, "leak", author, "") for author in "abc" for text in (f"words of {author}", "all the same")]
    split = pools_by_authors(tmp_path / "t.parquet", rows)
    assert sorted(split.train.texts + split.validation.texts + split.test.texts) == [
        "all the same",
        "words of a",
        "words of b",
        "words of c",
    ]


def test_an_author_who_is_declared_in_two_parts_is_refused(tmp_path: Path) -> None:
    rows = [("it leaks", "leak", "a", "train"), ("leaking now", "leak", "a", "test")]
    with pytest.raises(DataError, match="text author 'a'"):
        pools_by_authors(tmp_path / "t.parquet", rows)


POOL = TextPool(
    texts=("it leaks", "shaft jam", "lunch", "leak is fixed", "odd noise"),
    classes=np.array([1, 2, 0, 0, -1]),
    groups=("l", "j", "n", "recovered/1", "v"),
)


def told(labels: list[int], seed: int, **options: float) -> list[PlacedText]:
    quiet = {"benign_rate": 0.0, "benign_rate_in_fault": 0.0, "vague_rate": 0.0, "distractor_share": 0.0}
    config = EventDrawConfig(**(quiet | options))
    return list(draw_events(np.array(labels), POOL, config, np.random.default_rng(seed)))


def test_symptoms_follow_the_onset_while_the_fault_lasts() -> None:
    labels = [0] * 50 + [1] * 100 + [0] * 50
    drawn = [told(labels, seed, recovered_share=0) for seed in range(400)]
    assert {text.text for texts in drawn for text in texts} == {"it leaks"}
    frames = np.array([text.frame for texts in drawn for text in texts])
    assert frames.min() >= 50
    assert frames.max() < 150
    assert np.mean(frames - 50) == pytest.approx(9.5, abs=1.2)
    assert max(len(texts) for texts in drawn) == 3
    assert np.mean([not texts for texts in drawn]) == pytest.approx(0.15, abs=0.05)
    assert all(0 < text.age <= 1 for texts in drawn for text in texts)


def test_recovery_is_reported_after_clearing_only() -> None:
    drawn = [told([0] * 20 + [2] * 20 + [0] * 200, seed, silent_share=1) for seed in range(400)]
    frames = np.array([text.frame for texts in drawn for text in texts])
    assert {text.text for texts in drawn for text in texts} == {"leak is fixed"}
    assert frames.min() >= 40
    assert np.mean([len(texts) for texts in drawn]) == pytest.approx(0.5, abs=0.08)
    assert np.mean(frames - 40) == pytest.approx(5.5, abs=1)


def test_some_symptoms_tell_of_another_fault() -> None:
    drawn = [told([1] * 300, seed, distractor_share=0.1) for seed in range(600)]
    texts = [text.text for stream in drawn for text in stream]
    assert texts.count("shaft jam") / len(texts) == pytest.approx(0.1, abs=0.03)


def test_benign_and_vague_texts_come_at_their_rates() -> None:
    drawn = [told([0] * 600, seed, benign_rate=1 / 60, vague_rate=1 / 300) for seed in range(100)]
    texts = [text.text for stream in drawn for text in stream]
    assert texts.count("lunch") / 100 == pytest.approx(10, abs=1)
    assert texts.count("odd noise") / 100 == pytest.approx(2, abs=0.5)
    assert "leak is fixed" not in texts
    assert all(sorted(s, key=lambda text: text.frame) == s for s in drawn)


def test_a_draw_is_repeatable_and_own_texts_take_precedence() -> None:
    own = Run("a", "a", "file", np.zeros((2, 4), np.float32), np.zeros(2, np.int64), (PlacedText(1, 0.5, "mine"),))
    other = run("b", [0] * 30 + [1] * 60)
    config = EventDrawConfig()
    one, two = (run_events([own, other], POOL, config, np.random.default_rng(3)) for _ in range(2))
    assert one == two
    assert one[0] == own.texts
    assert run_events([other], None, config, np.random.default_rng(3)) == [()]


def test_own_texts_make_a_pool_labelled_by_their_frames() -> None:
    texts = (PlacedText(0, 1, "Hum"), PlacedText(1, 1, "hum!"), PlacedText(2, 1, "hum"), PlacedText(2, 1, "drip"))
    pool = pool_of_runs([Run("a", "a", "f", np.zeros((3, 4), np.float32), np.array([0, 1, 1]), texts)])
    assert pool.texts == ("Hum", "drip")
    assert pool.classes.tolist() == [1, 1]


CELLS = Cells(columns=((0, 2), (1,), (3,)), units=(0, 0, 1))


def test_disturbing_takes_readings_away_and_leaves_the_original_alone() -> None:
    values = np.ones((200, 4), np.float32)
    scaling = Scaling(np.zeros(4, np.float32), np.ones(4, np.float32))
    harsh = AugmentConfig(clean_share=0, noise=0.1, lost_variables=0.5)
    changed = [disturb(values, scaling, harsh, CELLS, np.random.default_rng(seed)) for seed in range(30)]
    assert (values == 1).all()
    assert any(np.isnan(copy).all(axis=0).any() for copy in changed)
    assert any(np.isnan(copy).all(axis=1).any() for copy in changed)
    assert 0.05 < np.mean([np.nanstd(copy) for copy in changed]) < 0.15
    assert disturb(values, scaling, AugmentConfig(clean_share=1), CELLS, np.random.default_rng(0)) is values


def test_masking_takes_whole_cells_or_whole_units_for_a_whole_run() -> None:
    values, scaling = np.ones((20, 4), np.float32), Scaling(np.zeros(4, np.float32), np.ones(4, np.float32))
    kept, by_unit = 0, 0
    masking = MaskingConfig(complete_share=0.25, most_missing=0.8, dead_units=0.5)
    config = AugmentConfig(clean_share=1, masking=masking)
    rng = np.random.default_rng(0)
    copies = [disturb(values, scaling, config, CELLS, rng) for _ in range(2_000)]
    for copy in copies:
        lost = np.isnan(copy)
        assert (lost.all(axis=0) | ~lost.any(axis=0)).all(), "for the whole run"
        gone = lost[0]
        assert gone[0] == gone[2], "a cell is lost as a whole"
        kept += not gone.any()
        by_unit += gone[0] != gone[1]
    assert (values == 1).all()
    missing = np.mean([np.isnan(copy[0]) for copy in copies])
    assert 0.27 < missing < 0.33, "three quarters of the runs lose 0.4 of their cells on average"
    assert 0.25 < kept / 2_000 < 0.6 and by_unit > 100
    dead = AugmentConfig(clean_share=1, masking=masking.model_copy(update={"dead_units": 1.0}))
    for _ in range(50):
        gone = np.isnan(disturb(values, scaling, dead, CELLS, rng)[0])
        assert gone[0] == gone[1] == gone[2]
