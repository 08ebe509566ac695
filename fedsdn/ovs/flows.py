"""A bridge's flows, read from the bridge or from a dump in a file (ovs-ofctl(8))."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ovs.flow.kv import ParseError
from ovs.flow.ofp import OFPFlow

from fedsdn.errors import FedsdnError
from fedsdn.ovs.commands import check_switch, run
from fedsdn.pipeline.cookie import Origin, origin
from fedsdn.pipeline.declarations import Table
from fedsdn.shell import Shell

_VERSIONS = "OpenFlow10,OpenFlow13"
"""A bridge that names its protocols may lack ours before the site is set up."""

_HEADING = re.compile(r"\w+ reply \((OF[\d.]+\) \()?xid=")
_OWNER = re.compile(r" *cookie=(0x[0-9a-f]+),(?: .*?\btable=(\d+),)?")
_TABLES = frozenset(map(int, Table))
_DEFAULT_PRIORITY = 0x8000
_SHOWN = 60

Parts = dict[str, Any]
"""Fields and values, as ``ovs.flow`` decodes them."""


class DumpError(FedsdnError):
    """A text is no dump of flows, or a flow in it cannot be read."""


@dataclass(frozen=True)
class DumpedFlow:
    """A flow of a bridge. Counters and ``seconds`` (its age) are None where they were not printed.

    ``match`` and ``actions`` are as printed; ``fields`` and ``decoded_actions`` the same, decoded.
    """

    table: int
    priority: int
    match: str
    actions: str
    cookie: int
    packets: int | None
    bytes: int | None
    seconds: float | None
    hard_timeout: int
    fields: Parts
    decoded_actions: tuple[Parts, ...]

    @property
    def ours(self) -> bool:
        """Whether the cookie says that it is one of fedsdn's."""
        return self.origin is not None

    @cached_property
    def origin(self) -> Origin | None:
        """Where it comes from; None if it is not ours."""
        return origin(self.cookie)

    @property
    def key(self) -> tuple[int, int, str]:
        """What makes it one flow: table, priority and match (OpenFlow 1.3.5, section 6.4)."""
        return self.table, self.priority, repr(sorted((k, str(v)) for k, v in self.fields.items()))


def bridge_flows(shell: Shell, bridge: str, which: str = "") -> list[DumpedFlow]:
    """Return a bridge's flows; ``which`` names some, as "table=0" (ovs-ofctl(8), ``dump-flows``).

    Raises:
        OvsError: Open vSwitch does not answer, or has no such bridge.
        DumpError: a flow holds what the ovs bindings do not know.

    """
    dump = _dump(shell, bridge, *([which] if which else []))
    return _flows(dump.splitlines(), f"bridge {bridge}")


def compared_flows(shell: Shell, bridge: str) -> list[DumpedFlow]:
    """Return the flows for a comparison: ours in any table, and other owners' in tables of ours.

    A bridge may have thousands of others, with actions that the ovs bindings do not know.

    Raises:
        FedsdnError: as ``bridge_flows``.

    """
    dump = _dump(shell, bridge).splitlines()
    return _flows(filter(concerns_us, dump), f"bridge {bridge}")


def concerns_us(line: str) -> bool:
    """Whether a line of a dump has a flow of ours, or one in a table of ours."""
    found = _OWNER.match(line)
    return not found or int(found[2] or 0) in _TABLES or origin(int(found[1], 16)) is not None


def saved_flows(file: Path) -> list[DumpedFlow]:
    """Read a dump out of a file.

    Raises:
        FedsdnError: the file cannot be read, or is no dump.

    """
    try:
        return parse_dump(file.read_text("utf-8").splitlines(), str(file))
    except UnicodeDecodeError as error:
        raise DumpError(f"{file}: no text, so no dump of flows") from error
    except OSError as error:
        raise FedsdnError(f"{file}: {error.strerror}") from error


def parse_dump(lines: Iterable[str], source: str) -> list[DumpedFlow]:
    """Read a saved dump; ``source`` names it in errors.

    Raises:
        DumpError: a flow is cut off, or holds what the ovs bindings do not know; or there is
            neither a flow nor the heading that an empty dump may have.

    """
    dump = [line.strip() for line in lines]
    flows = _flows(dump, source)
    if not flows and not any(map(_HEADING.match, dump)):
        raise DumpError(
            f"{source}: no flows in it; write it with 'ovs-ofctl -O OpenFlow13 --names dump-flows "
            f"BRIDGE'"
        )
    return flows


def _dump(shell: Shell, bridge: str, *which: str) -> str:
    check_switch(shell)  # whether it hangs is known sooner so than from a dump that does not come
    command = ("ovs-ofctl", "-O", _VERSIONS, "--names", "dump-flows", bridge, *which)
    return run(shell, *command, bridge=bridge)


def _flows(lines: Iterable[str], source: str) -> list[DumpedFlow]:
    return [
        _flow(text, f"{source}, line {number}")
        for number, line in enumerate(lines, 1)
        if (text := line.strip()) and not text.startswith("#") and not _HEADING.match(text)
    ]


def parse_flow(text: str) -> DumpedFlow:
    """Read one flow.

    Raises:
        DumpError: it is none.

    """
    return _flow(text, "flow")


def _flow(text: str, where: str) -> DumpedFlow:
    if "actions=" not in text:
        raise DumpError(f"{where}: half a flow, {_short(text)}: dump the flows again")
    try:
        flow = _parsed(text)
    except (ParseError, ValueError) as error:
        raise DumpError(
            f"{where}: {_short(text)}: {error}; dump it with an Open vSwitch no newer than the "
            "Python package ovs here"
        ) from error
    info, fields = flow.info, flow.match
    return DumpedFlow(
        table=info.get("table", 0),
        priority=fields.pop("priority", _DEFAULT_PRIORITY),
        match=_without_priority(flow.section("match").string),
        actions=flow.section("actions").string,
        cookie=info.get("cookie", 0),
        packets=info.get("n_packets"),
        bytes=info.get("n_bytes"),
        seconds=info.get("duration"),
        hard_timeout=int(info.get("hard_timeout", 0)),
        fields=fields,
        decoded_actions=tuple(flow.actions),
    )


def _parsed(text: str) -> Any:  # noqa: ANN401 -- ovs has no types
    """Parse with the ovs bindings; a flow without a match gets its default priority as one."""
    head, actions = text.split("actions=", 1)
    if head.rstrip().endswith(","):
        head = f"{head.rstrip()} priority={_DEFAULT_PRIORITY} "
    return OFPFlow(f"{head}actions={actions}".replace('"', ""))


def _without_priority(match: str) -> str:
    return ",".join(term for term in match.split(",") if not term.startswith("priority="))


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
