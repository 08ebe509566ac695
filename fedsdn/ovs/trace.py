"""Running ``ofproto/trace``, and reading what it prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from fedsdn.ovs.commands import run
from fedsdn.shell import Shell

_STEP = re.compile(r"^( *)(\d+)\. (?:(.*), )?priority (\d+)(?:, cookie (0x[0-9a-f]+))?$")
_ACTION = re.compile(r"^((?: {4})+)(?!->|thaw$|Resuming)(\S.*)$")
_INDENT = 4
_DATAPATH = "Datapath actions: "
_MOST_TRACKINGS = 4
"""How often one packet may go through conntrack; ours do once."""


@dataclass(frozen=True, slots=True)
class Step:
    """A flow that the packet met, with the actions that were carried out."""

    table: int
    match: str
    priority: int
    cookie: int
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """All flows that a packet met, in order, and the ports that it left by.

    ``flooded`` if the bridge has not learned where the destination is.
    """

    steps: tuple[Step, ...]
    ports: tuple[str, ...]
    flooded: bool


def run_trace(shell: Shell, bridge: str, flow: str, ct_state: str) -> Trace:
    """Have the datapath trace a packet; nothing is sent, and nothing learned.

    Raises:
        OvsError: Open vSwitch does not answer, or has no such bridge.
        FedsdnError: the bridge has no such port.

    """
    states = [word for _ in range(_MOST_TRACKINGS) for word in ("--ct-next", ct_state)]
    command = ("ovs-appctl", "ofproto/trace", "--names", bridge, flow)
    return parse_trace(run(shell, *command, *states, bridge=bridge).splitlines())


def parse_trace(lines: Iterable[str]) -> Trace:
    """Read the output of ``ofproto/trace``."""
    steps: list[Step] = []
    latest: dict[int, int] = {}
    """The last step by its indent: a flow's later actions come behind what it resubmitted. They
    are indented by four, and by twice as much as their flow."""
    outputs: list[str] = []
    ports: list[str] = []
    flooded = False
    for line in lines:
        if line.startswith(_DATAPATH):
            ports += _ports(line.removeprefix(_DATAPATH))
        elif found := _STEP.match(line):
            indent, table, match, priority, cookie = found.groups()
            latest[len(indent) // _INDENT * _INDENT] = len(steps)  # a number of one digit is padded
            steps.append(Step(int(table), match or "", int(priority), int(cookie or "0", 16), ()))
        elif "flooding" in line:
            flooded = True
        elif (action := _ACTION.match(line)) and (len(action[1]) - _INDENT) // 2 in latest:
            text = action[2].replace('"', "")
            at = latest[(len(action[1]) - _INDENT) // 2]
            steps[at] = replace(steps[at], actions=(*steps[at].actions, text))
            outputs += [text.removeprefix("output:")] if text.startswith("output:") else []
    if outputs:
        # What was flooded besides was for the bridge to learn its sender; it has, really.
        return Trace(tuple(steps), tuple(outputs), flooded=False)
    return Trace(tuple(steps), tuple(ports), flooded)


def _ports(actions: str) -> Iterator[str]:
    """Yield the ports in a list of datapath actions; all else there has brackets, or is a word."""
    depth, word = 0, ""
    for letter in f"{actions},":
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter != "," or depth:
            word += letter
            continue
        if word and "(" not in word and word not in {"drop", "pop_vlan"}:
            yield word
        word = ""
