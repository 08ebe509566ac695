"""PID 1 of a lab's host: its own network, mounts, processes and name, and a private /run.

``python -m fedsdn.lab.init NAME RUN_DIRECTORY``; everything on the host ends with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

from fedsdn.lab.namespaces import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, unshare
from fedsdn.lab.process import detach


def main() -> None:
    """Make the namespaces, set the host up, and reap orphans until killed."""
    name, run_directory = sys.argv[1:]
    unshare(CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS)
    ready = detach()
    socket.sethostname(name)
    for mount in (
        ["--make-rprivate", "/"],
        ["--bind", run_directory, "/run"],
        ["-t", "proc", "proc", "/proc"],
        ["-t", "sysfs", "sysfs", "/sys"],
    ):
        subprocess.run(["mount", *mount], stdin=subprocess.DEVNULL, check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], stdin=subprocess.DEVNULL, check=True)
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    ready()
    while True:
        signal.sigwait({signal.SIGCHLD})
        _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    main()
