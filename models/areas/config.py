"""Configuration of the networks of areas: which graph, its widths, and what an ablation leaves out."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["ima", "hgt_early", "hgt_late", "han_early", "han_late", "alone"]
Ablation = Literal["cross", "adapt", "inf", "nei", "align", "l_att", "l_ind"]

INTER_MODAL: Final = frozenset({"cross", "adapt", "inf", "align", "l_att"})
"""Ablations that only HGNN-IMA has."""


class AreaNetworkConfig(BaseModel):
    """A network of areas, whatever its kind; what it is given is in `AreaShape`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = "ima"
    """HGNN-IMA; HGT or HAN on concatenated modalities (early) or with a graph per modality (late); or no graph."""
    width: int = Field(default=32, ge=8, multiple_of=8)
    """Numbers per node and modality; the compiled step takes eight at a time."""
    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=2, ge=1, le=4)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    renormalisation: Literal["softmax", "product"] = "product"
    """How HGNN-IMA's weights b k are brought to the sum 1: by another softmax, as published, or by their sum."""
    readout: Literal["tanh", "concatenation"] = "concatenation"
    """How HGNN-IMA makes one vector of a node's modalities: as published, a mean weighted by softmax(tanh(w h)), which
    cannot silence an absent modality; or all of them side by side, with bits that say which are there."""
    embeddings: bool = False
    """Whether the machines' embeddings are read, besides their answers."""
    evidence: bool = True
    """Whether the summed log odds of a utility's machines are added to its score, with learned weights."""
    without: tuple[Ablation, ...] = ()
    """Ablations. `cross`: nothing inter-modal, each modality attends by itself. `adapt`: all modalities count alike in
    the attention. `inf`: modalities do not share their attention, and only their consistency modulates it. `align`: no
    modulation by consistency. `nei`: no neighbours. `l_att`, `l_ind`: without that loss."""

    @property
    def rounds(self) -> int:
        """How many layers it has, in which nodes take from their neighbours."""
        if self.kind == "ima":
            return self.layers
        return 0 if self.kind == "alone" or "nei" in self.without else self.layers

    @property
    def joins(self) -> bool:
        """Whether it makes one vector of a node's modalities by a linear map."""
        return self.readout == "concatenation" if self.kind == "ima" else not self.kind.endswith("late")

    def inputs(self, shape: AreaShape) -> tuple[tuple[int, ...], ...]:
        """How many features it reads of each node type and modality, the first ones."""
        if self.embeddings:
            return shape.features
        return ((shape.answer_features,) * shape.modalities, *shape.features[1:])

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of the {self.heads} heads")
        if self.kind != "ima" and (surplus := sorted(INTER_MODAL.intersection(self.without))):
            raise ValueError(f"{self.kind} has no {surplus[0]!r} to leave out; only kind ima has")
        return self


class AreaShape(BaseModel):
    """Sizes of what a network of areas is given and answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: int = Field(ge=2)
    """C, of a machine's answers; class 0 is the normal state."""
    quiet: tuple[int, ...] = (0,)
    """Classes without a fault: normal, and recovering if there is one."""
    machine_features: tuple[int, ...]
    """For each of the M modalities the numbers that a machine gives, D_m."""
    utility_features: tuple[int, ...]
    """The same of a utility; 0 for modalities that no utility has."""
    text_features: tuple[int, ...]
    """The same of an event text."""
    answer_features: int = Field(ge=1)
    """How many of a machine's features are its answers; behind them is the embedding."""
    evidence: int = Field(ge=1)
    """P, sums of evidence per utility and class."""

    @property
    def modalities(self) -> int:
        """M."""
        return len(self.machine_features)

    @property
    def features(self) -> tuple[tuple[int, ...], ...]:
        """D of each node type and modality, in the order of `NODE_TYPES`."""
        return (self.machine_features, self.utility_features, self.text_features)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({len(sizes) for sizes in self.features}) != 1 or not self.machine_features:
            raise ValueError("machines, utilities and texts must list the same modalities")
        if not set(self.quiet) < set(range(self.classes)) or not self.quiet:
            raise ValueError(f"quiet classes {self.quiet} must be some of the {self.classes} classes, and not all")
        return self
