"""The training stages: sensor encoder on whole runs, text encoder on single texts, event ring on frames with texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.data.augment import AugmentConfig, disturb, with_typos
from models.data.runs import UNLABELLED, Run, class_runs
from models.data.scaling import Scaling, hold
from models.data.text_pools import EventDrawConfig, TextPool, run_events
from models.diagnoser import Diagnoser
from models.encoders.event_ring import TextModality
from models.encoders.placed_texts import PlacedText, ring_plan
from models.training.calibration import Evidence
from models.training.loop import Record
from pipeline.frames import Bools, Floats, Ints

ClassWeights = Literal["none", "sqrt", "balanced"]

_EVALUATION_BATCH = 32
_EVALUATION_FRAMES = 4096
_ENCODE_BATCH = 512
_LABEL_SMOOTHING = 0.05


def settled(labels: Ints, recovery_frames: int) -> Ints:
    """Labels (T,), but UNLABELLED in the first so many frames of every normal stretch that follows something else.

    When a fault clears its label is normal at once, but the plant needs time, and until then it looks faulty still.
    """
    left = labels.copy()
    for start, end, label in class_runs(labels):
        if label == 0 and start > 0:
            left[start : min(start + recovery_frames, end)] = UNLABELLED
    return left


class Recovery(NamedTuple):
    """How training treats frames that are not yet `settled`."""

    frames: int = 0
    weight: float = 0.0
    """Of each of them in the loss; settled ones weigh 1."""

    def weights(self, labels: Ints) -> Floats:
        """Of each frame in the loss, (T,); 0 without a label."""
        weight = np.where(settled(labels, self.frames) >= 0, 1, self.weight)
        return np.where(labels >= 0, weight, 0).astype(np.float32)


ALL_ALIKE = Recovery()


def class_shares(runs: Sequence[Run], classes: int, recovery: Recovery = ALL_ALIKE) -> NDArray[np.float64]:
    """Share of each class among the frames by their weight, (C,), each class as if seen once more often than it was."""
    labels = np.concatenate([run.labels for run in runs])
    weights = np.concatenate([recovery.weights(run.labels) for run in runs])
    counts = np.bincount(labels[labels >= 0], weights[labels >= 0], minlength=classes) + 1
    return np.asarray(counts / counts.sum())


def class_weights(shares: NDArray[np.float64], kind: ClassWeights) -> Tensor:
    """Loss weights (C,) with mean 1 over the frames: equal, by inverse root of the share, or by inverse share."""
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[kind]
    weights = shares**-power
    return torch.from_numpy(weights / (weights * shares).sum()).float()


def weighted_loss(logits: Tensor, labels: Tensor, class_weights: Tensor, frame_weights: Tensor) -> Tensor:
    """Mean cross entropy of frames (N, C), each by its own weight (N,), 0 if unlabelled, and that of its class."""
    share = frame_weights * class_weights[labels.clamp_min(0)]
    losses = cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none")
    return (losses * share).sum() / share.sum()


class SensorStage:
    """Dense cross entropy on every frame from `burn_in` on, by truncated back-propagation with carried state.

    Each epoch every run is disturbed anew, starts at a random offset, and is cut into chunks; the state goes from
    chunk to chunk, the gradient does not.
    """

    name = "sensors"

    def __init__(
        self,
        network: Diagnoser,
        train: Sequence[Run],
        validation: Sequence[Run],
        *,
        scaling: Scaling,
        weights: Tensor,
        augment: AugmentConfig,
        hold_limit: int,
        batch_size: int,
        chunk: int,
        most_offset: int,
        burn_in: int,
        recovery: Recovery = ALL_ALIKE,
    ) -> None:
        self.module: nn.Module = network.sensors
        self._network = network
        self._train = train
        self._validation = validation
        self._scaling = scaling
        self._weights = weights
        self._augment = augment
        self._hold_limit = hold_limit
        self._batch_size = batch_size
        self._chunk = chunk
        self._most_offset = most_offset
        self._burn_in = burn_in
        self._frame_weights = [recovery.weights(run.labels) for run in train]
        self._validation_labels = np.concatenate([settled(run.labels, recovery.frames) for run in validation])

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        offsets = drawn_offsets(self._train, self._most_offset, rng)
        lengths = np.array([len(run) - offset for run, offset in zip(self._train, offsets, strict=True)])
        total, seen = lengths.sum(), 0
        for batch in batches_of_like_length(lengths, self._batch_size, 2 * self._chunk, rng):
            values, observed, labels, weights = [], [], [], []
            for at in batch:
                run = self._train[at]
                readings = disturb(run.values[offsets[at] :], self._scaling, self._augment, rng)
                held, measured = hold(readings, self._hold_limit)
                values.append(held)
                observed.append(measured)
                labels.append(run.labels[offsets[at] :])
                weight = self._frame_weights[at][offsets[at] :]
                weights.append(np.where(np.arange(len(held)) < self._burn_in, np.float32(0), weight))
            with torch.no_grad():
                _, x = self._network.sensor_inputs(padded(values, np.nan), padded(observed, False))
            y, weight_of = padded(labels, UNLABELLED), padded(weights, 0)
            state = self._network.sensors.init_state(len(batch))
            for start in range(0, x.shape[1], self._chunk):
                chunk = slice(start, start + self._chunk)
                logits, _, state = self._network.sensors.advance(x[:, chunk], state)
                state = {key: tensor.detach() for key, tensor in state.items()}
                if bool((weight_of[:, chunk] > 0).any()):
                    ended = np.minimum(lengths[batch], start + self._chunk).sum()
                    parts = (y[:, chunk].flatten(), self._weights, weight_of[:, chunk].flatten())
                    loss = weighted_loss(logits.flatten(0, 1), *parts)
                    yield float((seen + ended) / total), loss
            seen += lengths[batch].sum()

    def validate(self) -> Record:
        """Macro-F1 and loss on undisturbed validation runs."""
        logits = np.concatenate(
            [of.logits for of in told_by_sensors(self._network, self._validation, self._hold_limit)]
        )
        return scored(logits, self._validation_labels)


class WordStage:
    """Teaches the text encoder what single texts are about, with a linear head that is thrown away afterwards.

    Its categories are the classes, and two more: vague texts, and reports that a fault is over. Learning this from
    whole rings would take many times as long, since there every text hides among others.
    """

    name = "words"

    def __init__(
        self,
        network: Diagnoser,
        train: TextPool,
        validation: TextPool,
        *,
        batch_size: int,
        typo_share: float,
        seed: int,
    ) -> None:
        assert network.text is not None
        self._network = network
        self._train = train
        self._validation = validation
        self._batch_size = batch_size
        self._typo_share = typo_share
        self._classes = network.config.classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(network.text.config.hidden, self._classes + 2)
        self.module: nn.Module = nn.ModuleDict({"encoder": network.text.encoder, "head": head})
        self._head = nn.Sequential(nn.Dropout(network.text.config.dropout), head)

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        modality = self._network.text
        assert modality is not None
        self._head.train()
        categories = torch.from_numpy(self._categories(self._train))
        order = rng.permutation(len(self._train))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            said = [with_typos(self._train.texts[row], self._typo_share, rng) for row in rows]
            logits = self._head(modality.encode(said))
            loss = cross_entropy(logits, categories[rows], label_smoothing=_LABEL_SMOOTHING)
            yield min(1.0, (start + len(rows)) / len(order)), loss

    def validate(self) -> Record:
        """Macro-F1 and loss over the distinct texts of the validation pool."""
        modality = self._network.text
        assert modality is not None
        self._head.eval()
        if not len(self._validation):
            return scored(np.zeros((0, self._classes + 2), np.float32), np.zeros(0, np.int64))
        with torch.inference_mode():
            logits = self._head(modality.encode(list(self._validation.texts))).numpy()
        return scored(logits, self._categories(self._validation))

    def _categories(self, pool: TextPool) -> Ints:
        known = np.where(pool.classes == UNLABELLED, self._classes, pool.classes)
        return np.where(pool.recovered, self._classes + 1, known)


class TextStage:
    """Cross entropy on frames whose ring holds texts, with a fresh draw of texts onto the training runs each epoch.

    The encoder has been taught by `WordStage` and stays as it is, but its vectors keep the noise of training (dropout,
    lost words, typing errors): vectors of texts that it knows by heart would teach the ring to trust texts too much.
    """

    name = "text"

    def __init__(
        self,
        network: Diagnoser,
        train: Sequence[Run],
        validation: Sequence[Run],
        validation_texts: Sequence[Sequence[PlacedText]],
        *,
        pool: TextPool | None,
        draw: EventDrawConfig,
        weights: Tensor,
        batch_size: int,
        frames_per_epoch: int,
        typo_share: float,
        recovery: Recovery = ALL_ALIKE,
    ) -> None:
        assert network.text is not None
        self.module: nn.Module = network.text
        self._network = network
        self._train = train
        self._validation = validation
        self._validation_texts = validation_texts
        self._pool = pool
        self._draw = draw
        self._weights = weights
        self._batch_size = batch_size
        self._frames_per_epoch = frames_per_epoch
        self._typo_share = typo_share
        self._recovery = recovery

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        modality = self._network.text
        assert modality is not None
        texts = run_events(self._train, self._pool, self._draw, rng)
        rings = _Rings.of(self._network, self._train, texts, self._recovery)
        if not rings.texts:
            return
        said = [with_typos(text, self._typo_share, rng) for text in rings.texts]
        with torch.no_grad():
            parts = [modality.encode(said[at : at + _ENCODE_BATCH]) for at in range(0, len(said), _ENCODE_BATCH)]
            vectors = torch.cat(parts)
        chosen = rng.permutation(len(rings.labels))[: self._frames_per_epoch]
        for start in range(0, len(chosen), self._batch_size):
            frames = chosen[start : start + self._batch_size]
            age = torch.from_numpy(rings.ages[frames])
            ring = vectors[torch.from_numpy(rings.rows[frames])] * (age >= 0).unsqueeze(-1)
            logits, _ = modality(ring, age)
            labels, weights = (torch.from_numpy(of[frames]) for of in (rings.labels, rings.weights))
            loss = weighted_loss(logits, labels, self._weights, weights)
            yield min(1.0, (start + len(frames)) / len(chosen)), loss

    def validate(self) -> Record:
        """Macro-F1 and loss on all frames of the validation runs where a text is in the ring."""
        told = told_by_texts(self._network, self._validation, self._validation_texts)
        logits = np.concatenate([of.logits[of.present] for of in told])
        known = [settled(run.labels, self._recovery.frames) for run in self._validation]
        labels = [of_run[of.present] for of_run, of in zip(known, told, strict=True)]
        return scored(logits, np.concatenate(labels))


class _Rings:
    """The rings of all frames with texts that weigh anything: rows (N, E) into `texts`, ages (N, E), classes and
    weights (N,)."""

    def __init__(self, texts: list[str], rows: Ints, ages: Floats, labels: Ints, weights: Floats) -> None:
        self.texts = texts
        self.rows = rows
        self.ages = ages
        self.labels = labels
        self.weights = weights

    @classmethod
    def of(
        cls,
        network: Diagnoser,
        runs: Sequence[Run],
        texts: Sequence[Sequence[PlacedText]],
        recovery: Recovery,
    ) -> _Rings:
        assert network.config.text is not None
        size, ttl = network.config.text.ring, network.config.text_ttl_frames
        said: list[str] = []
        rows, ages, labels, weights = (
            [np.zeros((0, size), np.int64)],
            [np.zeros((0, size), np.float32)],
            [np.zeros(0, np.int64)],
            [np.zeros(0, np.float32)],
        )
        for run, placed in zip(runs, texts, strict=True):
            row, age = ring_plan(placed, len(run), size=size, ttl=ttl)
            weight = recovery.weights(run.labels)
            useful = (age >= 0).any(axis=1) & (weight > 0)
            rows.append(row[useful] + len(said))
            ages.append(age[useful].astype(np.float32))
            labels.append(run.labels[useful])
            weights.append(weight[useful])
            said += [text.text for text in placed]
        return cls(said, np.concatenate(rows), np.concatenate(ages), np.concatenate(labels), np.concatenate(weights))


def drawn_offsets(runs: Sequence[Run], most: int, rng: np.random.Generator) -> list[int]:
    """A random first frame for each run, up to `most` but within its first quarter."""
    return [int(rng.integers(0, min(most, len(run) // 4) + 1)) for run in runs]


def batches_of_like_length(lengths: Ints, size: int, grain: int, rng: np.random.Generator) -> list[Ints]:
    """Runs of like length share a batch; which ones, and the order of the batches, is drawn."""
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order] // grain, kind="stable")]
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(batches)
    return batches


class Told(NamedTuple):
    """What one modality says about a run of T frames."""

    logits: Floats  # (T, C)
    present: Bools  # (T,)
    features: Floats  # (T, D)


def told_by_sensors(network: Diagnoser, runs: Sequence[Run], hold_limit: int) -> list[Told]:
    """What the sensor encoder says about each run."""
    found: list[Told] = []
    with torch.inference_mode():
        for start in range(0, len(runs), _EVALUATION_BATCH):
            batch = runs[start : start + _EVALUATION_BATCH]
            filled = [hold(run.values, hold_limit) for run in batch]
            values = padded([held for held, _ in filled], np.nan)
            _, x = network.sensor_inputs(values, padded([measured for _, measured in filled], False))
            logits, features = network.sensors(x)
            for run, of, seen, (held, _) in zip(batch, logits, features, filled, strict=True):
                known: Bools = np.logical_not(np.isnan(held).all(axis=1))
                found.append(Told(of[: len(run)].numpy(), known, seen[: len(run)].numpy()))
    return found


def told_by_texts(network: Diagnoser, runs: Sequence[Run], texts: Sequence[Sequence[PlacedText]]) -> list[Told]:
    """What the text modality says about each run."""
    found: list[Told] = []
    assert isinstance(network.text, TextModality)
    with torch.inference_mode():
        for run, placed in zip(runs, texts, strict=True):
            ring, age = network.ring_of_run(placed, len(run))
            parts = [
                network.read_ring(ring[start : start + _EVALUATION_FRAMES], age[start : start + _EVALUATION_FRAMES])
                for start in range(0, len(run), _EVALUATION_FRAMES)
            ]
            logits = torch.cat([part.logits for part in parts]).numpy()
            filled = torch.cat([part.filled for part in parts]).numpy()
            found.append(Told(logits, filled, torch.cat([part.features for part in parts]).numpy()))
    return found


def evidence_of(
    network: Diagnoser, runs: Sequence[Run], texts: Sequence[Sequence[PlacedText]], hold_limit: int
) -> Evidence:
    """What every modality says about every frame of the runs, run after run."""
    found = [told_by_sensors(network, runs, hold_limit)]
    if network.text is not None:
        found.append(told_by_texts(network, runs, texts))
    logits = np.stack([np.concatenate([of.logits for of in modality]) for modality in found])
    present = np.stack([np.concatenate([of.present for of in modality]) for modality in found])
    features = [torch.from_numpy(np.concatenate([of.features for of in modality])) for modality in found]
    labels = np.concatenate([run.labels for run in runs])
    index = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    return Evidence(torch.from_numpy(logits), torch.from_numpy(present), labels, index, features)


def padded(arrays: Sequence[NDArray[np.generic]], fill: float) -> Tensor:
    """Arrays (T_b, …) of one batch as a tensor (B, T, …), filled up at the end."""
    longest = max(len(array) for array in arrays)
    full = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in enumerate(arrays):
        full[row, : len(array)] = array
    return torch.from_numpy(full)


def scored(logits: Floats, labels: Ints) -> Record:
    """Macro-F1, loss and accuracy of logits (N, C) on the labelled ones among N frames."""
    known = labels >= 0
    y, z = labels[known], logits[known]
    if not len(y):
        return {"score": 0.0, "validation_loss": None, "accuracy": None}
    predicted = z.argmax(axis=1)
    loss = cross_entropy(torch.from_numpy(z), torch.from_numpy(y)).item()
    return {
        "score": float(f1_score(y, predicted, labels=np.unique(y), average="macro", zero_division=0)),
        "validation_loss": loss,
        "accuracy": float((predicted == y).mean()),
    }
