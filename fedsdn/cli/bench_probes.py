"""fedsdn bench probes: what probing many peers costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from fedsdn.bench import probes as probes_bench
from fedsdn.cli.tables import print_table

_MOST_PEERS = 4000


def probes(
    *,
    peers: Annotated[
        list[int] | None,
        typer.Option(min=1, max=_MOST_PEERS, help="So many peers; may be given again."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure; twice.")] = 10.0,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Probe 10, 100 and 1,000 peers over four paths each, in namespaces made for it.

    Processor time of the application, idle and with ten peers in use.
    """
    costs = [probes_bench.measure(number, seconds) for number in peers or (10, 100, 1000)]
    if json_output:
        print(json.dumps([asdict(one) for one in costs], indent=2))
    else:
        print_table(*probes_bench.table(costs))
