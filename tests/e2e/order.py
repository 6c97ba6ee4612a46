"""In whatever order and however late events arrive, the document is the fold of them; at one instant the later commit wins.

What the server counts, keeps and shows is compared with the reference model, event by event.
"""

import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402
from support import model  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.instants import DAY, SECOND, micros_of, text_of  # noqa: E402
from support.load import assert_sound  # noqa: E402

SERVER = None
BASE = 1_600_000_000 * SECOND
ENTITIES = 4


def setUpModule():
    global SERVER
    SERVER = Server()


def tearDownModule():
    SERVER.stop()


def wire_of(kind, name, time, attributes):
    return {"type": kind, "id": name, "observed_at": text_of(time), "attributes": attributes}


def rows_of(entity):
    """The rows of an entity as the server tells them, without what it does not tell: whether a patch corrects."""
    items = SERVER.get(entity_path(*entity) + "/history", corrections="true", limit=1000)["items"]
    return [(micros_of(item["observed_at"]), item["seq"], item["attributes"]) for item in items]


def document_of(entity):
    document = SERVER.get(entity_path(*entity), times="true")
    times = {name: micros_of(time) for name, time in document["times"].items()}
    return document["attributes"], times, micros_of(document["observed_at"])


class Order(unittest.TestCase):
    def compare(self, expected, entity):
        """The server's rows and document of an entity are the model's."""
        rows = [(row.time, row.seq, row.attributes) for row in expected.of(entity)]
        self.assertEqual(rows_of(entity), rows)
        document = expected.document(entity)
        self.assertEqual(document_of(entity), (document.attributes(), document.times(), document.newest))

    def test_events_of_distinct_instants_give_one_state_in_any_order_of_arrival(self):
        source = seeded("orders of arrival")
        events = []
        for number in range(60):
            # Days, months and years apart, so that late ones belong to partitions that are long past.
            time = BASE + source.randrange(1200) * DAY + number * SECOND
            names = source.sample(["a", "b", "c", "d"], source.randint(1, 3))
            attributes = {name: source.choice([number, float(number) + 0.5]) for name in names}
            if number > 10 and source.random() < 0.2:
                attributes[source.choice("abcd")] = None
            events.append((f"e{number % ENTITIES}", time, attributes))
        states, late = [], 0
        # Every name is in the catalogue before a null may remove it.
        SERVER.ingest([wire_of("names", "a", BASE, dict.fromkeys("abcd", 1))])
        with Faults("events that arrive after newer ones of their entity") as faults:
            for arrival in range(5):
                kind, expected = f"order{arrival}", model.Model()
                order = sorted(events, key=lambda event: event[1])
                if arrival == 1:
                    order.reverse()
                elif arrival > 1:
                    source.shuffle(order)
                while order:
                    count = source.randint(1, 12)
                    batch, order = order[:count], order[count:]
                    wires = [wire_of(kind, *event) for event in batch]
                    for wire in wires:
                        newest = expected.document(model.entity_of(wire)).newest
                        late += newest is not None and micros_of(wire["observed_at"]) < newest
                    status, answer = SERVER.ingest(wires)
                    self.assertEqual(status, 200, answer)
                    counts = expected.apply_batch(wires)
                    self.assertEqual({name: answer[name] for name in counts}, counts)
                for number in range(ENTITIES):
                    self.compare(expected, (kind, f"e{number}"))
                states.append([(rows_of((kind, f"e{number}")), document_of((kind, f"e{number}"))) for number in range(ENTITIES)])
            faults.inject(late)
        for state in states[1:]:
            self.assertEqual(state, states[0])
        assert_sound(self, SERVER)

    def test_anything_after_anything_is_what_the_model_says(self):
        """Duplicates, merges, corrections, removals, late and newest, several of one instant in one request."""
        source = seeded("sequences of events")
        SERVER.ingest([wire_of("names", "a", BASE, dict.fromkeys("abc", 1))])
        seen = dict.fromkeys((model.ACCEPTED, model.DUPLICATE, model.MERGED, model.CORRECTED), 0)
        expected = model.Model()
        with Faults("events of an instant that is there already") as faults:
            for number in range(150):
                wires = []
                for _ in range(source.randint(1, 8)):
                    time = BASE + source.randrange(6) * 100 * DAY
                    names = source.sample(["a", "b", "c"], source.randint(0, 3))
                    attributes = {name: source.choice([1, 2, 3, None]) for name in names}
                    wires.append(wire_of("any", f"e{number % 10}-{source.randrange(3)}", time, attributes))
                status, answer = SERVER.ingest(wires)
                self.assertEqual(status, 200, answer)
                counts = expected.apply_batch(wires)
                self.assertEqual({name: answer[name] for name in counts}, counts, wires)
                for name, count in counts.items():
                    seen[name] += count
            faults.inject(seen[model.DUPLICATE] + seen[model.MERGED] + seen[model.CORRECTED])
            for entity in expected.rows:
                self.compare(expected, entity)
        self.assertTrue(all(seen.values()), seen)
        print(seen)
        assert_sound(self, SERVER)

    def test_of_two_values_of_one_instant_the_later_wins_and_both_stay(self):
        time = text_of(BASE)
        for value, counted in ((1, "accepted"), (2, "corrected"), (1, "corrected"), (1, "duplicates")):
            _, answer = SERVER.ingest([{"type": "two", "id": "a", "observed_at": time, "attributes": {"n": value}}])
            self.assertEqual(answer[counted], 1, answer)
        self.assertEqual(rows_of(("two", "a")), [(BASE, 0, {"n": 1}), (BASE, 1, {"n": 2}), (BASE, 2, {"n": 1})])
        self.assertEqual(SERVER.get("/v1/entities/two/a")["attributes"], {"n": 1})
        item = SERVER.get("/v1/entities/two/a/history")["items"]
        self.assertEqual([each["attributes"] for each in item], [{"n": 1}], "one item an instant")

    def test_many_writers_at_one_instant_leave_every_value_in_a_row_of_its_own(self):
        writers, values = 8, 15
        barrier = threading.Barrier(writers)
        answers = []

        def write(writer):
            barrier.wait()
            for number in range(values):
                event = wire_of("race", "a", BASE, {"n": writer * 1000 + number + 1})
                answers.append(SERVER.ingest([event]))

        with Faults("different values for one entity, attribute and instant") as faults:
            threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            self.assertEqual({status for status, _ in answers}, {200})
            faults.inject(sum(answer["corrected"] for _, answer in answers))
        self.assertEqual(sum(answer["accepted"] for _, answer in answers), 1)
        rows = rows_of(("race", "a"))
        self.assertEqual([seq for _, seq, _ in rows], list(range(writers * values)))
        expected = {writer * 1000 + number + 1 for writer in range(writers) for number in range(values)}
        self.assertEqual({attributes["n"] for _, _, attributes in rows}, expected)
        self.assertEqual(SERVER.get("/v1/entities/race/a")["attributes"], rows[-1][2])
        assert_sound(self, SERVER)


if __name__ == "__main__":
    unittest.main(verbosity=2)
