"""Writes the tables of an invented bottling hall, as a historian would export them: two CSV files.

Without `--healthy` faults come and go. A leak lets the filling pressure drop within a minute; a worn bearing makes the
vibration rise over a quarter of an hour. How strong a fault is differs from one to the next.
"""

import argparse
import csv
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

import numpy as np

START = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
PERIOD_SECONDS = 10
VIBRATIONS_PER_PERIOD = 5
RAMP_PERIODS = {"leak": 6, "worn_bearing": 90}


def plan(periods: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """The machine's condition in each period, and how far its fault has developed, from 0 to 1."""
    conditions, severity = ["normal"] * periods, np.zeros(periods)
    begin = int(rng.integers(20, 200))
    while begin + 150 < periods:
        fault = str(rng.choice(list(RAMP_PERIODS)))
        length = int(rng.integers(100, 150))
        conditions[begin : begin + length] = [fault] * length
        severity[begin : begin + length] = rng.uniform(0.6, 1.0) * np.minimum(
            1, np.arange(length) / RAMP_PERIODS[fault]
        )
        begin += length + int(rng.integers(100, 250))
    return conditions, severity


def found(machine: str, conditions: list[str], start: datetime) -> list[tuple[str, int, str]]:
    """What technicians write down: the machine, since when (in milliseconds), and the fault; none where it was over."""
    rows, first = [], 0
    for condition, periods in groupby(conditions):
        time = start + timedelta(seconds=PERIOD_SECONDS * first)
        if first or condition != "normal":
            rows.append((machine, round(time.timestamp() * 1000), "" if condition == "normal" else condition))
        first += sum(1 for _ in periods)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--machines", type=int, default=24)
    parser.add_argument("--first", type=int, default=1, help="number of the first machine")
    parser.add_argument("--day", type=int, default=1)
    parser.add_argument("--hours", type=float, default=3)
    parser.add_argument("--healthy", action="store_true", help="nothing is ever wrong")
    parser.add_argument("--labels", action="store_true", help="also write what was wrong when: labels.csv")
    options = parser.parse_args()
    rng = np.random.default_rng([options.day, options.first])
    start = START + timedelta(days=options.day - 1)
    periods = int(options.hours * 3600 / PERIOD_SECONDS)
    options.out.mkdir(parents=True, exist_ok=True)
    labels: list[tuple[str, int, str]] = []
    with (
        (options.out / "process.csv").open("w", newline="", encoding="utf-8") as process_file,
        (options.out / "vibration.csv").open("w", newline="", encoding="utf-8") as vibration_file,
    ):
        process, vibration = csv.writer(process_file), csv.writer(vibration_file)
        process.writerow(["time", "machine", "pressure_bar"])
        vibration.writerow(["time", "machine", "rms_mm_s"])
        for number in range(options.first, options.first + options.machines):
            machine = f"filler-{number:02}"
            conditions, severity = (["normal"] * periods, np.zeros(periods)) if options.healthy else plan(periods, rng)
            labels += found(machine, conditions, start)
            own = np.random.default_rng(number)  # no two machines are quite alike
            usual_pressure, usual_rms = own.normal(2.0, 0.03), own.normal(1.2, 0.05)
            for period, (condition, level) in enumerate(zip(conditions, severity, strict=True)):
                begin = start + timedelta(seconds=PERIOD_SECONDS * period)
                pressure = usual_pressure - 0.5 * level * (condition == "leak") + rng.normal(0, 0.04)
                process.writerow([begin.isoformat(), machine, f"{pressure:.3f}"])
                for count in range(VIBRATIONS_PER_PERIOD):
                    time = begin + timedelta(seconds=PERIOD_SECONDS / VIBRATIONS_PER_PERIOD * count)
                    rms = usual_rms + 1.5 * level * (condition == "worn_bearing") + rng.gamma(2, 0.1)
                    vibration.writerow([time.isoformat(), machine, f"{rms:.3f}"])
    if options.labels:
        with (options.out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("machine", "time", "fault"), *labels])


if __name__ == "__main__":
    main()
