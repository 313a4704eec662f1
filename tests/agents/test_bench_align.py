"""The alignment benchmark measures both forms of readings."""

from __future__ import annotations

from agents.bench.align import bench_align


def test_both_forms_are_measured_side_by_side() -> None:
    found = bench_align(readings=500, rounds=1)
    assert found["readings_per_second"] > 0
    assert found["readings_per_second_foreign_form"] > 0
    assert found["foreign_to_own_form"] > 0
