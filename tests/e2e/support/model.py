"""The reference model: what an entity's rows of history and its document are after a sequence of events.

It says the rules of the fold once more, in the plainest form and without looking at how the server does it. An event is
`Event(op, time, attributes)`, where the attributes map names to values and None is a removal.
"""

import dataclasses

from .instants import micros_of

PATCH, REPLACE, DELETE, CORRECT = "patch", "replace", "delete", "correct"
ACCEPTED, DUPLICATE, MERGED, CORRECTED = "accepted", "duplicates", "merged", "corrected"
# From here on rows are numbered that came after their period was closed to writes.
LATE_SEQ = 2**14


@dataclasses.dataclass
class Event:
    """What one entity reported for one instant."""

    op: str
    time: int
    attributes: dict


@dataclasses.dataclass
class Row:
    """One row of history."""

    op: str
    time: int
    seq: int
    attributes: dict


@dataclasses.dataclass
class Document:
    """The latest value of each attribute with its time; a removal is remembered as the value None."""

    values: dict = dataclasses.field(default_factory=dict)
    newest: int | None = None
    floor: int | None = None
    deleted: bool = False

    def attributes(self):
        return {name: value for name, (value, _) in self.values.items() if value is not None}

    def times(self):
        return {name: time for name, (value, time) in self.values.items() if value is not None}

    def exists(self):
        return self.newest is not None and not self.deleted


def same(one, other):
    """Numbers compare as numbers, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other


def fold(rows):
    """The document of rows in the order of (time, seq)."""
    document = Document()
    for row in sorted(rows, key=lambda row: (row.time, row.seq)):
        if row.op in (REPLACE, DELETE):
            document.floor = row.time
            document.values = {}
        for name, value in row.attributes.items():
            document.values[name] = (value, row.time)
        document.newest = row.time
        document.deleted = row.op == DELETE
    return document


def append(rows, event):
    """The row that an event becomes beside the rows of its instant, if any, and what it counts as."""
    last = rows[-1] if rows else None
    seq = last.seq + 1 if last else 0
    if event.op in (REPLACE, DELETE):
        if last and last.op == event.op and covers(last.attributes, event.attributes, exactly=True):
            return None, DUPLICATE
        row = Row(event.op, event.time, seq, dict(event.attributes))
        return row, ACCEPTED if seq == 0 else CORRECTED
    there = {name: value for name, (value, _) in fold(rows).values.items()}
    new = {
        name: value
        for name, value in event.attributes.items()
        if name not in there or not same(there[name], value)
    }  # fmt: skip
    if rows and not new:
        return None, DUPLICATE
    changes = any(name in there for name in new)
    row = Row(CORRECT if changes else PATCH, event.time, seq, new)
    if seq == 0:
        return row, ACCEPTED
    return row, CORRECTED if changes else MERGED


def covers(there, wanted, exactly=False):
    """Whether every wanted attribute is there with its value; exactly: and no other."""
    if exactly and there.keys() != wanted.keys():
        return False
    return all(name in there and same(there[name], value) for name, value in wanted.items())


class Model:
    """Entities by name. An event without a time gets the newest of its entity plus a microsecond, or `now`."""

    def __init__(self):
        self.rows = {}

    def of(self, entity):
        return sorted(self.rows.get(entity, []), key=lambda row: (row.time, row.seq))

    def document(self, entity):
        return fold(self.of(entity))

    def apply(self, entity, event, now=0):
        """What the event counts as."""
        if event.time is None:
            newest = self.document(entity).newest
            event = dataclasses.replace(event, time=max(now, newest + 1 if newest is not None else now))
        rows = [row for row in self.of(entity) if row.time == event.time]
        row, outcome = append(rows, event)
        if row:
            self.rows.setdefault(entity, []).append(row)
        return outcome

    def apply_batch(self, events, now=0):
        """The counts of a request, in the words of its answer."""
        counts = dict.fromkeys((ACCEPTED, DUPLICATE, MERGED, CORRECTED), 0)
        for event in events:
            counts[self.apply(entity_of(event), event_of(event), now)] += 1
        return counts


def entity_of(wire):
    """Names the entity of an event of a request."""
    return wire["type"], wire["id"]


def event_of(wire):
    """An event of a request; tests add `op` to what was not an ingest."""
    time = wire.get("observed_at")
    return Event(wire.get("op", PATCH), None if time is None else micros_of(time), wire["attributes"])
