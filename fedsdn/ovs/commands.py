"""Running Open vSwitch's own commands, with errors that name a remedy."""

from __future__ import annotations

import subprocess

from fedsdn.errors import FedsdnError
from fedsdn.shell import Shell

_SECONDS = 15
_CHECK_SECONDS = 3
"""How long ovs-vswitchd may take to answer when a command has failed already."""

_NOT_FOUND = 127
"""Exit status of env(1) and nsenter(1) when there is no such command."""

_NO_RIGHTS = "Permission denied"
_START = "start openvswitch-switch"

VERSION = ("ovs-appctl", "-t", "ovs-vswitchd", "version")


class OvsError(FedsdnError):
    """Open vSwitch does not answer, or lacks a bridge: the finding, and its remedy.

    As text it is ``found: remedy``.
    """

    def __init__(self, found: str, remedy: str) -> None:
        """Make the line out of both."""
        super().__init__(f"{found}: {remedy}")
        self.found = found
        self.remedy = remedy


def run(shell: Shell, *command: str, text: str = "", bridge: str = "") -> str:
    """Run one of Open vSwitch's commands on ``text`` and return what it prints.

    ``bridge`` is the bridge that the command needs, if it needs one.

    Raises:
        OvsError: Open vSwitch is not installed, does not run, or has no such bridge.
        FedsdnError: the command is refused.

    """
    done = _attempt(shell, command, _SECONDS, text)
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split())
    if done.returncode == _NOT_FOUND:
        raise _not_installed(command[0])
    if _NO_RIGHTS in said:
        raise _forbidden()
    if "database connection failed" in said:
        raise OvsError("Open vSwitch's database does not answer", f"{_START} ({said})")
    check_switch(shell)
    if bridge:
        check_bridge(shell, bridge)
    raise FedsdnError(f"{' '.join(command)}: {said}")


def check_switch(shell: Shell) -> None:
    """See that ovs-vswitchd runs and answers.

    Raises:
        OvsError: it does not, or Open vSwitch is not installed.

    """
    done = _attempt(shell, VERSION, _CHECK_SECONDS)
    if _NO_RIGHTS in done.stderr:
        raise _forbidden()
    if done.returncode:
        raise OvsError("ovs-vswitchd does not answer", _START)


def check_bridge(shell: Shell, bridge: str) -> None:
    """See that the database has a bridge.

    Raises:
        OvsError: it does not, or does not answer.

    """
    bridges = run(shell, "ovs-vsctl", "list-br").split()
    if bridge not in bridges:
        raise missing_bridge(shell, bridge, bridges)


def missing_bridge(shell: Shell, bridge: str, bridges: list[str]) -> OvsError:
    """Return the error for a bridge that the database lacks; it has ``bridges``."""
    add = shell.by_hand(f"ovs-vsctl add-br {bridge}")
    return OvsError(
        f"no bridge {bridge!r} among {', '.join(sorted(bridges)) or 'none'}",
        f"name the right one in provider_network.bridge, or {add}",
    )


def _attempt(
    shell: Shell, command: tuple[str, ...], seconds: int, text: str = ""
) -> subprocess.CompletedProcess[str]:
    try:
        return shell.run(command[0], f"--timeout={seconds}", *command[1:], text=text)
    except FedsdnError as error:
        absent = error.__cause__
        if isinstance(absent, FileNotFoundError) and absent.filename == command[0]:
            raise _not_installed(command[0]) from absent
        raise


def _not_installed(tool: str) -> OvsError:
    return OvsError(f"{tool} is missing", "install openvswitch-switch")


def _forbidden() -> OvsError:
    return OvsError("Open vSwitch's sockets are closed to this user", "run as root")
