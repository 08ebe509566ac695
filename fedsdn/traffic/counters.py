"""Interface counters of one network namespace, sampled over time.

``python -m fedsdn.traffic.counters`` samples until its standard input ends, then prints all
samples as one JSON list.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedsdn.errors import FedsdnError
from fedsdn.shell import Shell

SAMPLE_SECONDS = 0.1
_COUNTERS = Path("/proc/self/net/dev")


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes received per interface, at a time of this machine's monotonic clock in seconds."""

    at: float
    received: dict[str, int]


@dataclass(slots=True)
class Recording:
    """Samples of one place, in order; complete once the block of ``recording`` has ended."""

    samples: list[Sample] = field(default_factory=list)

    def received(self) -> dict[str, int]:
        """Bytes that each interface received between the first and the last sample."""
        first, last = self.samples[0].received, self.samples[-1].received
        return {name: last[name] - first.get(name, 0) for name in last}


def parse(text: str) -> dict[str, int]:
    """Bytes received per interface, from the text of /proc/net/dev (proc_pid_net(5))."""
    counters = {}
    for line in text.splitlines()[2:]:
        name, _, values = line.partition(":")
        counters[name.strip()] = int(values.split()[0])
    return counters


@contextmanager
def recording(where: Shell) -> Iterator[Recording]:
    """Sample the counters of a network namespace while the block runs.

    Raises:
        FedsdnError: the place cannot be entered.

    """
    recorded = Recording()
    with where.started(*where.module("fedsdn.traffic.counters")) as sampler:
        if not sampler.line():
            raise FedsdnError(f"{where.name}: no counters: the namespace cannot be entered")
        yield recorded
        recorded.samples += [Sample(**sample) for sample in json.loads(sampler.finish())]


def main() -> None:
    """Sample, first and last at the moment the command starts and is told to end."""
    samples = []
    ended = False
    while not ended:
        samples.append(Sample(time.monotonic(), parse(_COUNTERS.read_text())))
        if len(samples) == 1:
            print("sampling", flush=True)
        ended = bool(select.select([sys.stdin], [], [], SAMPLE_SECONDS)[0])
    samples.append(Sample(time.monotonic(), parse(_COUNTERS.read_text())))
    print(json.dumps([asdict(sample) for sample in samples]))


if __name__ == "__main__":
    main()
