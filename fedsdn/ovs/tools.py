"""Running Open vSwitch's own commands, with errors that name a remedy."""

from __future__ import annotations

import subprocess

from fedsdn.errors import FedsdnError

_TIMEOUT_S = 15


def run(*command: str, text: str = "") -> str:
    """Run one of Open vSwitch's commands on ``text`` and return what it prints.

    Raises:
        FedsdnError: it is not installed, or it fails.

    """
    try:
        done = subprocess.run(
            [command[0], f"--timeout={_TIMEOUT_S}", *command[1:]],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise FedsdnError(
            f"{command[0]} is not installed: install Open vSwitch (package openvswitch-switch)"
        ) from error
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split())
    if "database connection failed" in said:
        raise FedsdnError(
            "Open vSwitch's database does not answer: start openvswitch-switch "
            f"({command[0]} said: {said})"
        )
    if done.returncode < 0:
        raise FedsdnError(
            f"{command[0]} had no answer within {_TIMEOUT_S} s: is ovs-vswitchd running?"
        )
    raise FedsdnError(f"{' '.join(command)}: {said}")
