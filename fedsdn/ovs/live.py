"""Asking a bridge of this host for its flows."""

from __future__ import annotations

from fedsdn.errors import FedsdnError
from fedsdn.ovs.flows import DumpedFlow, parse_dump
from fedsdn.shell import Shell, last_words

_SECONDS = 20.0


def bridge_flows(bridge: str) -> list[DumpedFlow]:
    """Return all flows of a bridge.

    Raises:
        FedsdnError: there is no such bridge, or Open vSwitch does not answer.

    """
    command = ("ovs-ofctl", "-O", "OpenFlow13", "--names", "dump-flows", bridge)
    done = Shell(bridge).run(*command, timeout=_SECONDS)
    if done.returncode:
        raise FedsdnError(
            f"bridge {bridge}: {last_words(done.stderr)}: see 'ovs-vsctl show'; the file's "
            "'provider_network.bridge' names the bridge"
        )
    return parse_dump(done.stdout.splitlines(), f"bridge {bridge}")
