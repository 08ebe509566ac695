"""Whether ovs-vswitchd runs: without it the database still answers, with its last report."""

from __future__ import annotations

from fedsdn.errors import FedsdnError
from fedsdn.ovs.commands import VERSION, check_switch, run
from fedsdn.shell import Shell


def switch_version(shell: Shell) -> str:
    """Ask ovs-vswitchd for its version.

    Raises:
        OvsError: it does not run, or does not answer.

    """
    check_switch(shell)
    return run(shell, *VERSION).split()[-1]


def switch_answers(shell: Shell) -> bool:
    """Whether ovs-vswitchd runs and answers."""
    try:
        check_switch(shell)
    except FedsdnError:
        return False
    return True
