"""Faults that are counted: a test whose fault never happened has shown nothing, and fails."""

import os
import random


class Faults:
    """Used as a context around the test; `inject` is called as each fault happens."""

    def __init__(self, name):
        self.name = name
        self.count = 0

    def inject(self, count=1):
        self.count += count

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        print(f"injected {self.name}: {self.count}", flush=True)
        if kind is None and self.count == 0:
            raise AssertionError(f"the fault never happened: {self.name}")


def seeded(name):
    """A source of randomness whose seed is printed; SHEAF_TEST_SEED repeats a run."""
    seed = int(os.environ.get("SHEAF_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"{name}: SHEAF_TEST_SEED={seed}", flush=True)
    return random.Random(f"{name} {seed}")
