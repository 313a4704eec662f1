"""Checkpoints: machines as bytes, for the worker that goes on with them."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import msgspec
import numpy as np

from pipeline.arrays import NEVER_MS
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import CONTROL
from pipeline.engine.control import PartitionProgress
from pipeline.engine.diagnoses import RememberedText
from pipeline.engine.machines import Machine, MachineGroup, Machines
from pipeline.engine.rounds import GroupModel, ModelState
from pipeline.errors import StateError
from pipeline.wire.states import STATE_VERSION, Forgotten, SavedMachine, decode_state, encode_state


class Checkpoints:
    """Saves machines that have changed, and restores them."""

    def __init__(
        self,
        profile: PlantProfile,
        machines: Machines,
        progress: PartitionProgress,
        models: Mapping[str, GroupModel],
    ) -> None:
        self._profile = profile
        self._machines = machines
        self._progress = progress
        self._models = models
        self.log_ids: Mapping[str, str] = {}

    def take(self) -> dict[str, bytes | None]:
        """The states of all machines that changed since the last call; None for one that was forgotten."""
        machines = self._machines
        machines.drop_tombstoned([machine.name for machine in machines.changed.values()])  # those that came back
        states: dict[str, bytes | None] = dict.fromkeys(machines.evicted)
        by_group: dict[str, list[Machine]] = {}
        for machine in machines.changed.values():
            by_group.setdefault(machine.group.name, []).append(machine)
        for name, changed in by_group.items():
            group, slots = machines.groups[name], np.array([machine.slot for machine in changed], np.int64)
            parts = zip(changed, group.aligner.save(slots), self._models[name].save(slots), strict=True)
            for machine, aligner, model in parts:
                states[machine.name] = self._encoded(machine, aligner, model)
        machines.changed.clear()
        machines.evicted.clear()
        return states

    def _encoded(self, machine: Machine, aligner: dict[str, object], model: ModelState) -> bytes:
        group, applied = machine.group, machine.applied
        # Control records apply to every machine of the partition, also to those that they leave as they are.
        control = max(applied.get(CONTROL, -1), self._progress.controls.get(machine.partition, -1))
        if control >= 0:
            applied = applied | {CONTROL: control}
        saved = SavedMachine(
            version=STATE_VERSION,
            machine=machine.name,
            type=group.name,
            profile=group.digest,
            model=self._models[group.name].runner.hash,
            partition=machine.partition,
            last=machine.last_ms,
            clock=self._progress.clocks.confirmed_ms(machine.partition),
            arrived=machine.arrived_ms,
            applied=applied,
            aligner=aligner,
            runner=model.runner,
            alarms=model.alarms,
            drift=model.drift,
            alarm_life=model.alarm_life,
            texts=[(t.id, t.text, t.time_ms, t.late) for t in machine.texts],
            logs={topic: self.log_ids[topic] for topic in applied if topic in self.log_ids},
        )
        return encode_state(saved)

    def restore(self, name: str, state: bytes, recreated: AbstractSet[str] = frozenset()) -> None:
        """Put a machine back to where `take` saw it; raises StateError, leaving the machine without a state.

        Of topics that were `recreated` since then, no record is applied. If readings come from one of them, the
        machine begins with a fresh state: their times may begin anywhere.
        """
        machines = self._machines
        saved = decode_state(name, state)
        applied = {topic: offset for topic, offset in saved.applied.items() if topic not in recreated}
        if isinstance(saved, Forgotten):
            machines.forget(name)
            machines.forgotten[name] = msgspec.structs.replace(saved, applied=applied)
            self._restore_clock(saved)
            return
        if not recreated.isdisjoint(saved.applied.keys() & set(self._profile.sensor_topics)):
            machines.begin_again(name, saved.partition, applied)
            return
        group = self._group_of(saved)
        machines.forget(name)
        machine = group.add(name, saved.partition, saved.last)
        try:
            if len(saved.arrived) != len(machine.arrived_ms):
                raise StateError(f"state of {name} has {len(saved.arrived)} sources")
            group.aligner.load(machine.slot, saved.aligner)
            model_state = ModelState(saved.runner, saved.alarms, saved.drift, saved.alarm_life)
            self._models[group.name].load(machine, model_state)
        except StateError:
            group.remove(machine)
            raise
        machine.applied, machine.arrived_ms = applied, saved.arrived
        machine.texts.extend(RememberedText(*text) for text in saved.texts)
        machines.forgotten.pop(name, None)
        machines.by_key[machine.key] = machine
        # Time goes on from here, so that a machine that stays silent is announced after a restart too.
        self._restore_clock(saved)
        if applied != saved.applied:
            machines.mark_changed([machine])

    def note_applied(self, name: str, applied: Mapping[str, int]) -> None:
        """Records of a machine up to these offsets must have no effect any more."""
        machine = self._machines.by_key.get(name.encode())
        if machine is not None:
            own = machine.applied
            machine.applied = own | {topic: max(offset, own.get(topic, -1)) for topic, offset in applied.items()}
            self._machines.mark_changed([machine])

    def _restore_clock(self, saved: SavedMachine | Forgotten) -> None:
        now_ms = saved.last if saved.clock is None else saved.clock
        if now_ms > NEVER_MS:
            self._progress.clocks.restore(saved.partition, now_ms)

    def _group_of(self, saved: SavedMachine) -> MachineGroup:
        """Where a saved machine belongs; raises StateError if it was saved under another profile or model."""
        machine_type = self._profile.type_of(saved.machine)
        group = None if machine_type is None else self._machines.groups[machine_type.name]
        if group is None or group.name != saved.type or group.digest != saved.profile:
            raise StateError(f"state of {saved.machine} was saved under another profile")
        model = self._models[group.name].runner.hash
        if saved.model != model:
            raise StateError(f"state of {saved.machine} belongs to model {saved.model[:12]}, not {model[:12]}")
        return group

    def alignment_states(self) -> dict[str, bytes]:
        """Each machine's buffers, watermarks and last values, which are exact however the input was cut."""
        states = {}
        for machine in self._machines.by_key.values():
            (state,) = machine.group.aligner.save(np.array([machine.slot]))
            texts = state["texts"]
            assert isinstance(texts, list)
            state["texts"] = [text[:-1] for text in texts]  # without the record, whose offset is the broker's
            states[machine.name] = msgspec.msgpack.encode(state)
        return states
