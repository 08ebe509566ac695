"""The real application: whatever fails in it, it ends, and says why. systemd starts it again."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.real import failing_app
from tests.real.site_host import BRIDGE, LIMIT_S, Program, SiteHost, wait_until
from tests.real.test_site_bridge import application, own

pytestmark = pytest.mark.real

LIMIT_SECONDS = 20.0
"""Of a machine that has other things to do; what does not end at once would not end at all."""
FAILING = Path(failing_app.__file__)


@pytest.fixture(scope="module")
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        host.up()
        yield host


def to_its_end(program: Program) -> list[str]:
    """Read what it prints until it ends."""
    assert program.stdout is not None
    return program.stdout.read().splitlines()


def has_ended_by_news(host: SiteHost, program: Program) -> bool:
    """Give it news of flows, again and again: it may hear of the first before the signal."""
    host.output(f"ovs-ofctl -O OpenFlow13 del-flows {BRIDGE} table=110")
    with suppress(subprocess.TimeoutExpired):
        program.wait(0.5)
    return program.returncode is not None


@pytest.mark.parametrize("part", failing_app.PARTS)
def test_an_unexpected_exception_ends_the_process_with_its_reason(
    host: SiteHost, part: str
) -> None:
    host.output(f"ovs-ofctl -O OpenFlow13 del-flows {BRIDGE}")
    command = [sys.executable, str(FAILING), part, "--config-file=/run/fedsdn.conf", "fedsdn.app"]
    with host.program(*command, stderr=subprocess.STDOUT) as program:
        wait_until(lambda: len(own(host)) > 50)
        program.send_signal(signal.SIGUSR1)
        wait_until(lambda: has_ended_by_news(host, program))
        assert program.returncode != 0
        ended = time.monotonic()
        said = to_its_end(program)
        raised = next(line for line in said if "raised at" in line)
        assert ended - float(raised.split()[-1]) < LIMIT_SECONDS
        assert any("injected" in line for line in said), said
        if part in failing_app.TASKS:
            assert any(
                f"task '{part}' failed: ZeroDivisionError('injected')" in line for line in said
            )


def test_it_ends_when_it_is_told_to_whatever_fails_then(host: SiteHost) -> None:
    host.output(f"ovs-ofctl -O OpenFlow13 del-flows {BRIDGE}")
    command = [sys.executable, str(FAILING), failing_app.LEAVING]
    arguments = ["--config-file=/run/fedsdn.conf", "fedsdn.app"]
    with host.program(*command, *arguments, stderr=subprocess.STDOUT) as program:
        wait_until(lambda: len(own(host)) > 50)
        program.terminate()
        assert program.wait(LIMIT_S) == 0
        said = to_its_end(program)
        assert any("no leave taken" in line for line in said), said


def test_the_application_has_a_loop_and_seven_executors_besides_os_kens(host: SiteHost) -> None:
    with application(host) as program:
        wait_until(lambda: len(own(host)) > 50)
        [pid] = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        tasks = Path(f"/proc/{pid}/task")
        # The main thread; os-ken's two event threads, its connection's thread and the one that
        # sends; the loop, and its executors for endpoints, routes, the file, the namespace,
        # tunnels, rules and carriers. What opens a socket in the namespace comes and goes.
        wait_until(lambda: len(list(tasks.iterdir())) == 13)


def test_a_signal_that_another_thread_gets_ends_it(host: SiteHost) -> None:
    """The kernel may give a process's signal to any thread (signal(7))."""
    host.output(f"ovs-ofctl -O OpenFlow13 del-flows {BRIDGE}")
    with application(host) as program:
        [pid] = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        others = sorted({int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()})[1:]
        assert ctypes.CDLL(None).tgkill(int(pid), others[0], signal.SIGTERM) == 0
        said = to_its_end(program)
        assert any("stopping on SIGTERM" in line for line in said), said


def test_systemd_starts_it_again() -> None:
    unit = Path(__file__).parents[2] / "systemd/fedsdn-app.service"
    assert {"Restart=always", "RestartSec=1"} <= set(unit.read_text().splitlines())
