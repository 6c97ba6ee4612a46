"""Faults that are counted: a test whose fault never happened has shown nothing, and fails."""

import dataclasses
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


@dataclasses.dataclass
class Fault:
    """One entry of a schedule: wait, then inject, for so long; `choice` picks a victim."""

    name: str
    wait: float
    seconds: float
    choice: float

    def one_of(self, things):
        return things[int(self.choice * len(things))]


def schedule(seed, names):
    """Endless, and the same for the same seed: nothing that happens changes what is drawn."""
    source = random.Random(f"faults {seed}")
    while True:
        shuffled = sorted(names)
        source.shuffle(shuffled)
        # Each fault once before any comes again, so that a short run has seen many.
        for name in shuffled:
            yield Fault(name, source.uniform(0.2, 1.2), source.uniform(0.2, 2.0), source.random())
