"""Quix Streams: a function that is applied to every message, between two topics."""

from __future__ import annotations

import job
from quixstreams import Application


def main() -> None:
    """Run until SIGTERM."""
    chosen = job.options()
    model = job.Model(chosen.weights, chosen.arithmetic)

    def diagnose(value: bytes) -> bytes | None:
        reading = job.read(value)
        return None if reading is None else job.write(reading, model.one(reading))

    app = Application(
        broker_address=chosen.bootstrap,
        consumer_group=chosen.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        use_changelog_topics=False,
        loglevel="WARNING",
    )
    source = app.topic(chosen.source, key_deserializer="bytes", value_deserializer="bytes")
    target = app.topic(chosen.target, key_serializer="bytes", value_serializer="bytes")
    app.dataframe(source).apply(diagnose).filter(lambda answer: answer is not None).to_topic(target)
    app.run()


if __name__ == "__main__":
    main()
