"""Measures in rounds, what they gave, and the targets that they must meet."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable

from .processes import Failed


@dataclasses.dataclass
class Bench:
    """What every group of measures works with."""

    root: object  # Path of a folder of its own
    keys: object  # Path of the folder with the certificate
    rounds: int
    seconds: int
    quick: bool
    deadline: float
    # The machine's load when the run began.
    load_before: float

    @property
    def ca(self):
        return self.keys / "ca.pem"

    def folder(self, name):
        """A new folder that every user may read."""
        path = self.root / name
        path.mkdir()
        path.chmod(0o755)
        return path

    def check_time(self):
        if time.monotonic() > self.deadline:
            raise Failed("the time is over")


@dataclasses.dataclass
class Measure:
    """One table. `take` measures one subject once and returns a number for each unit; the first is the cost."""

    title: str
    command: str
    units: tuple
    take: Callable
    only: tuple = ()  # Subjects; empty: all
    samples: dict = dataclasses.field(default_factory=dict)

    def medians(self, subject):
        return tuple(map(statistics.median, zip(*self.samples[subject])))

    def cost(self, subject):
        return self.medians(subject)[0]

    def ratio(self, other="nginx", of="roadstead", column=0):
        """What `of` costs, as a part of what `other` costs: the median of the rounds, since a machine's speed may drift."""
        pairs = zip(self.samples[of], self.samples[other])
        return statistics.median(ours[column] / theirs[column] for ours, theirs in pairs)


def alternate(bench, measures, subjects):
    """Measures all subjects, {name: what `take` is given}, in turn in each round."""
    for number in range(bench.rounds):
        for measure in measures:
            for name, subject in subjects.items():
                if measure.only and name not in measure.only:
                    continue
                bench.check_time()
                print(f"round {number + 1}/{bench.rounds}  {measure.title}: {name}", file=sys.stderr)
                measure.samples.setdefault(name, []).append(measure.take(subject))


@dataclasses.dataclass
class Target:
    text: str
    measured: str
    met: bool


def at_most(text, value, limit, unit=""):
    return Target(f"{text} ≤ {number(limit)}{unit}", f"{number(value)}{unit}", value <= limit)


def at_least(text, value, limit, unit=""):
    return Target(f"{text} ≥ {number(limit)}{unit}", f"{number(value)}{unit}", value >= limit)


def number(value):
    """Three significant digits, which is more than is true."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclasses.dataclass
class Group:
    """A section of the page."""

    heading: str
    measures: list
    targets: list
    notes: str = ""
