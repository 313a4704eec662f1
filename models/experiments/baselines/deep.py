"""The deep baselines of the papers: a stacked autoencoder, and an encoder of several modalities with a shared code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from models.evaluation.clustering import partition_scores
from models.training.loop import EpochRecord, OnProgress, StageConfig, run_stage
from models.training.losses import validation_scores
from pipeline.arrays import Floats, Ints

_HIDDEN = (256, 128, 64)
_CODE = 64
_BATCH = 256
_PART = 8192
_NOISE = 0.2
_DROPPED = 0.3


class CodeNetwork(nn.Module):
    """Rows of several modalities to a code, which a linear layer classifies."""

    classifier: nn.Linear

    def code(self, modalities: Sequence[Tensor]) -> Tensor:
        """Code (N, D) of modalities (N, F_m)."""
        raise NotImplementedError

    def loss(self, modalities: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Loss of the last stage."""
        return cross_entropy(self.classifier(self.code(modalities)), labels)


class _RowStage:
    """One epoch is one pass over all rows in random order."""

    def __init__(self, name: str, module: nn.Module, modalities: Sequence[Tensor], labels: Tensor) -> None:
        self.name = name
        self.module = module
        self._modalities = modalities
        self._labels = labels

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        order = rng.permutation(len(self._labels))
        for start in range(0, len(order), _BATCH):
            rows = torch.from_numpy(order[start : start + _BATCH])
            loss = self.loss([x[rows] for x in self._modalities], self._labels[rows])
            yield min(1.0, (start + len(rows)) / len(order)), loss

    def loss(self, modalities: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Of one batch."""
        raise NotImplementedError

    def validate(self) -> EpochRecord:
        """See `Stage.validate`."""
        raise NotImplementedError


class _LayerStage(_RowStage):
    """Trains one layer of a stack to reconstruct the output of the layers below from a noisy copy."""

    def __init__(self, stack: StackNetwork, index: int, modalities: Sequence[Tensor], labels: Tensor) -> None:
        self._stack = stack
        self._index = index
        layer = stack.layers[index]
        assert isinstance(layer, nn.Linear)
        self._layer = layer
        self._back = nn.Linear(layer.out_features, layer.in_features)
        super().__init__(f"layer {index + 1}", nn.ModuleList([layer, self._back]), modalities, labels)

    def loss(self, modalities: Sequence[Tensor], labels: Tensor) -> Tensor:
        """See `_RowStage.loss`."""
        with torch.no_grad():
            below = self._stack.up_to(modalities, self._index)
            noisy = below * (torch.rand_like(below) >= _NOISE)
        return mse_loss(self._back(torch.relu(self._layer(noisy))), below)

    def validate(self) -> EpochRecord:
        """Nothing: reconstruction has no classes."""
        return {"score": 0.0, "validation_loss": None}


class _ClassStage(_RowStage):
    """Trains the whole network; validation rows choose the best epoch, and give the partition scores of each."""

    def __init__(
        self,
        network: CodeNetwork,
        modalities: Sequence[Tensor],
        labels: Tensor,
        validation: Sequence[Tensor],
        validation_labels: Ints,
    ) -> None:
        super().__init__("classes", network, modalities, labels)
        self._network = network
        self._validation = validation
        self._validation_labels = validation_labels

    def loss(self, modalities: Sequence[Tensor], labels: Tensor) -> Tensor:
        """See `_RowStage.loss`."""
        return self._network.loss(modalities, labels)

    def validate(self) -> EpochRecord:
        """Macro-F1, loss and partition scores on validation rows."""
        logits = _in_parts(lambda parts: self._network.classifier(self._network.code(parts)), self._validation)
        parts = partition_scores(self._validation_labels, np.asarray(logits.argmax(axis=1), np.int64))
        return validation_scores(logits, self._validation_labels) | parts


class StackNetwork(CodeNetwork):
    """One stack of layers over all modalities side by side."""

    def __init__(self, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        widths = (sum(sizes), *_HIDDEN)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.classifier = nn.Linear(widths[-1], classes)

    def up_to(self, modalities: Sequence[Tensor], layers: int) -> Tensor:
        """Output of the first `layers` layers."""
        x = torch.cat(list(modalities), dim=1)
        for layer in self.layers[:layers]:
            x = torch.relu(layer(x))
        return x

    def code(self, modalities: Sequence[Tensor]) -> Tensor:
        """See `CodeNetwork.code`."""
        return self.up_to(modalities, len(self.layers))


class SharedNetwork(CodeNetwork):
    """An encoder and a decoder for each modality, with one code, which any subset of the modalities gives.

    The code is the mean over the encoders of the present modalities. The loss is for the class and for the
    reconstruction of all modalities, dropped ones too. A modality is present where any of its columns is not 0.
    """

    def __init__(self, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(size, _HIDDEN[0]), nn.ReLU(), nn.Linear(_HIDDEN[0], _HIDDEN[1])) for size in sizes
        )
        self.shared = nn.Sequential(nn.ReLU(), nn.Linear(_HIDDEN[1], _CODE), nn.ReLU())
        self.decoders = nn.ModuleList(
            nn.Sequential(nn.Linear(_CODE, _HIDDEN[0]), nn.ReLU(), nn.Linear(_HIDDEN[0], size)) for size in sizes
        )
        self.classifier = nn.Linear(_CODE, classes)

    def code(self, modalities: Sequence[Tensor]) -> Tensor:
        """See `CodeNetwork.code`."""
        return self._code(modalities, self._present(modalities))

    def loss(self, modalities: Sequence[Tensor], labels: Tensor) -> Tensor:
        """See `CodeNetwork.loss`."""
        present = self._present(modalities)
        kept = present & (torch.rand(present.shape) >= _DROPPED)
        kept = torch.where(kept.any(dim=0), kept, present)
        code = self._code(modalities, kept)
        loss = cross_entropy(self.classifier(code), labels)
        for rows, decoder, x in zip(present, self.decoders, modalities, strict=True):
            if bool(rows.any()):
                loss = loss + mse_loss(decoder(code[rows]), x[rows])
        return loss

    def _code(self, modalities: Sequence[Tensor], present: Tensor) -> Tensor:
        weight = present.to(modalities[0].dtype).unsqueeze(2)
        each = torch.stack([encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)])
        code: Tensor = self.shared((each * weight).sum(dim=0) / weight.sum(dim=0).clamp_min(1))
        return code

    @staticmethod
    def _present(modalities: Sequence[Tensor]) -> Tensor:
        """Presence of each modality, (M, N)."""
        return torch.stack([(x != 0).any(dim=1) for x in modalities])


class DeepBaseline:
    """A network with its training, for rows of modalities, some of which may have no columns."""

    def __init__(
        self, classes: int, *, seed: int, epochs: int, folder: Path, on_progress: OnProgress | None = None
    ) -> None:
        self._classes = classes
        self._seed = seed
        self._stage = StageConfig(epochs=epochs, batch_size=_BATCH, learning_rate=1e-3, weight_decay=1e-4, patience=6)
        self._folder = folder
        self._on_progress = on_progress
        self._network: CodeNetwork

    def fit(
        self, train: Sequence[Floats], labels: Ints, validation: Sequence[Floats], validation_labels: Ints
    ) -> list[EpochRecord]:
        """Train on modalities (N, F_m) of classes (N,); one record per epoch."""
        x, y = _tensors(train), torch.from_numpy(labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self._network = self._build([part.shape[1] for part in x])
            layer_stages = self._layer_stages(x, y)
        stages = [*layer_stages, _ClassStage(self._network, x, y, _tensors(validation), validation_labels)]
        digest = hashlib.sha256(f"{self._seed} {self._stage} {labels.tobytes()!r}".encode())
        for part in x:
            digest.update(part.numpy().tobytes())
        history: list[EpochRecord] = []
        for stage in stages:
            history += run_stage(
                stage,
                self._stage,
                seed=self._seed,
                checkpoint=self._folder / f"{stage.name.replace(' ', '-')}.checkpoint",
                fingerprint=digest.hexdigest(),
                resume=True,
                on_progress=self._on_progress,
            )
        return history

    def predict(self, modalities: Sequence[Floats]) -> Ints:
        """Class of each row."""
        logits = _in_parts(lambda parts: self._network.classifier(self._network.code(parts)), _tensors(modalities))
        return np.asarray(logits.argmax(axis=1), np.int64)

    def code(self, modalities: Sequence[Floats]) -> Floats:
        """Code of each row (N, D)."""
        return _in_parts(self._network.code, _tensors(modalities))

    def _build(self, sizes: Sequence[int]) -> CodeNetwork:
        raise NotImplementedError

    def _layer_stages(self, x: Sequence[Tensor], y: Tensor) -> list[_RowStage]:
        """Stages before the one on classes."""
        return []


class StackedAutoencoder(DeepBaseline):
    """Layers that are trained one after the other to reconstruct their input, and then together on the classes."""

    def _build(self, sizes: Sequence[int]) -> CodeNetwork:
        self._stack = StackNetwork(sizes, self._classes)
        return self._stack

    def _layer_stages(self, x: Sequence[Tensor], y: Tensor) -> list[_RowStage]:
        return [_LayerStage(self._stack, index, x, y) for index in range(len(self._stack.layers))]


class MultimodalEncoder(DeepBaseline):
    """Reconstruction of all modalities from any of them, and the classes, at once."""

    def _build(self, sizes: Sequence[int]) -> CodeNetwork:
        return SharedNetwork(sizes, self._classes)


def _tensors(modalities: Sequence[Floats]) -> list[Tensor]:
    """Modalities that have columns."""
    return [torch.from_numpy(np.ascontiguousarray(x)) for x in modalities if x.shape[1]]


def _in_parts(answer: Callable[[Sequence[Tensor]], Tensor], modalities: Sequence[Tensor]) -> Floats:
    with torch.inference_mode():
        parts = [
            answer([x[start : start + _PART] for x in modalities]).numpy()
            for start in range(0, len(modalities[0]), _PART)
        ]
    return np.concatenate(parts)
