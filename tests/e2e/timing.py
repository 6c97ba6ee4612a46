"""How long an answer takes does not tell whether the other tenant has what was asked for.

What is asked for in turns: ids that the other tenant has, and ids that nobody has. A test of differences that had to hold once
would fail by chance; a difference that is there is there every time.
"""

import os
import statistics
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.reads import Line  # noqa: E402

SERVER = None
ROUNDS = 3
# Of each kind in each round.
READS = 2_000
# Welch's t beyond which a difference counts: by chance alone once in some million rounds.
APART = 5
TIME = "2013-01-01T06:00:00Z"
LEVELS = ("strong", "eventual")


def setUpModule():
    global SERVER
    SERVER = Server()


def tearDownModule():
    SERVER.stop()


def welch(one, other):
    """Of the faster half of each: what else the machine does only ever adds time."""

    def kept(seconds):
        return sorted(seconds)[: len(seconds) // 2]

    one, other = kept(one), kept(other)
    error = (statistics.variance(one) / len(one) + statistics.variance(other) / len(other)) ** 0.5
    return (statistics.mean(one) - statistics.mean(other)) / error


class Timing(unittest.TestCase):
    def setUp(self):
        owner, self.stranger = SERVER.create_tenant("owner"), SERVER.create_tenant("stranger")
        # So many that a document which is read for nothing would show.
        attributes = {f"thrust{n}": f"{n} " * 20 for n in range(50)}
        for key, name in ((owner, "his"), (self.stranger, "mine")):
            events = [
                {"type": "turbine", "id": f"{name}{n:05}", "observed_at": TIME, "attributes": attributes}
                for n in range(READS)
            ]
            status, answer = SERVER.ingest(events, key=key)
            self.assertEqual((status, answer["refused"]), (200, 0))

    def apart(self, one, other, level, random):
        """How far the times of reads of two kinds of ids are apart, each id once."""
        order = list(range(READS))
        random.shuffle(order)
        seconds = {one: [], other: []}
        line = Line(SERVER.port, self.stranger)
        for n in order:
            for kind in random.sample((one, other), 2):
                answer = line.read(f"/v1/entities/turbine/{kind}{n:05}", consistency=level)
                self.assertEqual(answer.status, 200 if kind == "mine" else 404)
                seconds[kind].append(answer.seconds)
        line.close()
        return welch(seconds[one], seconds[other])

    def test_what_the_other_has_takes_as_long_as_what_nobody_has(self):
        random = seeded("timing")
        with Faults("guessed id of another tenant") as faults:
            for level in LEVELS:
                # Names change from level to level, or a memory would answer.
                apart = [self.apart("his", f"none{level}", level, random) for _ in range(ROUNDS)]
                faults.inject(ROUNDS * READS)
                print(f"{level}: t = {', '.join(f'{t:.1f}' for t in apart)}")
                self.assertLess(min(abs(t) for t in apart), APART, f"{level}: {apart}")
        # That this can tell anything at all: what is there takes longer than what is not.
        self.assertGreater(self.apart("mine", "none", "strong", random), APART)


if __name__ == "__main__":
    unittest.main(verbosity=2)
