"""Schedules of rows that join a batch, leave it, and are given up, at any step."""

from collections.abc import Sequence

from hypothesis import strategies as st

from vision_agent.generation.step_batch import Row, StepBatch

Schedule = list[tuple[str, int]]


def schedules(rows: int, most: int) -> st.SearchStrategy[Schedule]:
    """Return what may happen to so many rows: each event with the row it is about."""
    events = st.sampled_from(["add", "pause", "drop", "turn", "turn"])
    return st.lists(st.tuples(events, st.integers(0, rows - 1)), max_size=most)


def finish(batch: StepBatch) -> None:
    """Read and write until no row is left."""
    while batch.rows:
        batch.read()
        batch.step()


def carry_out(schedule: Schedule, batch: StepBatch, rows: Sequence[Row]) -> set[int]:
    """Let it happen, then write all rows to their ends but those that were dropped; returns the numbers of these."""
    outside, dropped = set(range(len(rows))), set()
    for what, number in schedule:
        row = rows[number]
        if what == "turn":
            batch.read()
            batch.step()
        elif what == "add" and number in outside and not row.is_done:
            outside.discard(number)
            batch.add(row)
        elif what == "pause" and row in batch.rows:
            outside.add(number)
            batch.pause(row)
        elif what == "drop" and row in batch.rows:
            dropped.add(number)
            batch.drop(row)
    for number in outside - dropped:
        if not rows[number].is_done:
            batch.add(rows[number])
    finish(batch)
    return dropped
