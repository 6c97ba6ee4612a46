"""Reads at a steady rate while a replica dies and while Redis stands still: each answer is right, and each refusal one that is
documented. How long that is felt tests/faults/recovery.py measures."""

import dataclasses
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "faults"))
from recovery import Run, Spans, felt  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.steady import Promotion, Shown, Written, problems  # noqa: E402
from support.tokens import Token  # noqa: E402
from support.world import World  # noqa: E402

SPANS = Spans(before=0.5, undisturbed=1, fault=3, after=1)
READS_MIN = 500


def at(lsn, timeline=1):
    return Token(1, timeline, lsn, 1)


class SteadyReads(unittest.TestCase):
    def test_no_read_is_wrong_while_a_replica_or_redis_is_away(self):
        with World() as world:
            run = Run(world)
            for fault in (Run.replica_killed, Run.redis_stopped):
                with self.subTest(fault.__name__), Faults(fault.__name__) as faults:
                    measured = run.measure(fault, SPANS)
                    faults.inject()
                    for level in measured.levels:
                        print(f"{level.count} reads at {level.name}, refused: {level.answers()}")
                    self.assertEqual(measured.problems, [])
                    self.assertGreater(sum(level.count for level in measured.levels), READS_MIN)


class Oracle(unittest.TestCase):
    """What would be told if answers were wrong."""

    # Written at 10, 20 and 30 s; the last was never acknowledged.
    WRITTEN = (
        Written("e1", 1, 10.0, 10.1, at(100)), Written("e1", 2, 20.0, 20.1, at(200)), Written("e1", 3, 30.0),
        Written("e2", 4, 15.0, 15.1, at(150)),
    )  # fmt: skip
    RIGHT = Shown("strong", "e1", 21.0, 21.0, 21.1, None, 200, None, None, "primary", 21.0, "e1", 2)

    def check(self, cases, written, promotion=None):
        with Faults("answer, right or wrong, that is made up") as faults:
            for is_right, changes in cases:
                read = dataclasses.replace(self.RIGHT, **changes)
                with self.subTest(**changes):
                    found = problems([read], written, promotion)
                    self.assertEqual(not found, is_right, found)
                faults.inject()

    def test_each_kind_of_wrong_answer_is_told_and_none_that_is_right(self):
        old = {"number": 1, "complete_until": 20.0}
        late = {"sent_at": 40.0, "answered_at": 40.1}
        refusal = {"status": 503, "code": "database_unavailable", "retry_after": "1"}
        cases = [
            (True, {}),
            (False, old),
            (True, {**old, "level": "session", "token": at(199)}),
            (False, {**old, "level": "session", "token": at(200)}),
            (True, {**old, "level": "eventual", "sent_at": 24.0, "answered_at": 24.1}),
            (False, {**old, "level": "eventual", "sent_at": 26.0, "answered_at": 26.1}),
            (False, {"level": "eventual", "number": 1}),
            (True, {**late, "number": 3}),
            (False, {"number": 3}),
            (False, {"number": 4}),
            (False, {"name": "e2"}),
            (False, {**late, "answered_at": 71.0}),
            (True, refusal),
            (False, {**refusal, "retry_after": None}),
            (False, {**refusal, "status": 500, "code": "internal"}),
            (False, {**refusal, "status": 409, "code": "stale_timeline", "token": at(100)}),
            (False, {"status": None, "code": "broken_connection"}),
        ]
        self.check(cases, self.WRITTEN)

    def test_after_a_promotion_only_what_the_new_primary_has_is_asked_for(self):
        promotion = Promotion(ended_at=25.0, timeline=2, lsn=180)
        written = (*self.WRITTEN, Written("e1", 5, 26.0, 26.1, at(190, 2)))
        after = {"sent_at": 26.05, "answered_at": 26.07, "complete_until": 26.0}
        later = {"sent_at": 27.0, "answered_at": 27.1, "complete_until": 27.0, "token": at(250, 2), "level": "session"}
        cases = [
            (False, {"number": 1, "complete_until": 20.0}),
            (True, {**after, "number": 1}),
            (True, {**after, "number": 2}),
            (False, {**after, "number": 1, "token": at(200)}),
            (True, {**after, "status": 409, "code": "stale_timeline", "token": at(200)}),
            (False, {**after, "status": 409, "code": "stale_timeline", "token": at(190, 2)}),
            (True, {**later, "number": 5}),
            (False, {**later, "number": 2}),
        ]
        self.check(cases, written, promotion)

    def test_a_fault_is_felt_until_reads_are_as_fast_as_before_and_a_single_hiccup_is_not_one(self):
        def shown(seconds_at):
            """A read every 20 ms for 4 s; each takes 5 ms unless it is said to take longer."""
            for count in range(200):
                due = count * 0.02
                seconds = seconds_at(due)
                status = 503 if seconds is None else 200
                yield dataclasses.replace(self.RIGHT, due=due, answered_at=due + (seconds or 0.005), status=status)

        with Faults("course of reads that is made up") as faults:
            for expected, seconds_at in (
                (0.0, lambda due: 0.005),
                (0.0, lambda due: 1.0 if due == 1.0 else 0.005),
                (1.0, lambda due: 1.0 - due if due < 1.0 else 0.005),
                (1.5, lambda due: None if due < 1.5 else 0.005),
                (4.0, lambda due: 0.02),
            ):
                self.assertAlmostEqual(felt(list(shown(seconds_at)), 0.0, 4.0, 0.01), expected, delta=0.06)
                faults.inject()


if __name__ == "__main__":
    unittest.main(verbosity=2)
