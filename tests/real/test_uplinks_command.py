"""fedsdn uplinks, as an operator runs it on a lab's host."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fedsdn.lab.host import Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from fedsdn.uplinks.status import (
    PathState,
    PathStatus,
    PortState,
    SiteStatus,
    UplinkStatus,
    write_status,
)
from tests.real.test_proxy_lab import Vm, connections

pytestmark = pytest.mark.real

LIMIT_SECONDS = 60.0


@pytest.fixture
def host(lab: Lab) -> Host:
    return lab.host("a")


def document(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run("fedsdn", "uplinks", "--json"))
    return found


def test_everything_is_up(lab: Lab, host: Host) -> None:
    with connections(Vm(lab, "a", "vm1", 4), Vm(lab, "b", "vm2", 4), count=3):
        found: dict[str, Any] = {}

        def good() -> bool:
            found.update(document(host))
            return all(
                one["state"] == "up" and one["subflows"] >= 3  # and those that are ready
                for one in found["uplinks"] + found["paths"]
            )

        wait_until(good, LIMIT_SECONDS, lambda: f"not all is up: {found}")
    assert (found["site"], found["application"]) == ("a", True)
    addresses = [(one["name"], one["port"], one["address"]) for one in found["uplinks"]]
    assert addresses == [("up1", "up1", "192.0.2.1"), ("up2", "up2", "2001:db8:2::1")]
    for uplink in found["uplinks"]:
        assert uplink["endpoint"] > 0
        assert min(uplink["bytes_sent"], uplink["bytes_received"]) > 0
        assert uplink["since"] <= found["taken"]
    for path in found["paths"]:
        assert 29 < path["rtt_ms"] < 1000, "the wires' delay"
        assert path["since"] <= found["taken"]


@pytest.fixture
def run_directory(host: Host, tmp_path: Path) -> Path:
    """What the command will see in place of /run/fedsdn, where the application writes."""
    for name in ("fedsdn.conf", "federation.yaml"):
        (tmp_path / name).write_bytes((host.run_directory / "fedsdn" / name).read_bytes())
    return tmp_path


def run_with(host: Host, run_directory: Path) -> str:
    script = 'mount --bind "$0" /run/fedsdn && exec fedsdn uplinks'
    return host.run("unshare", "--mount", "sh", "-c", script, str(run_directory))


def status(written: float) -> SiteStatus:
    return SiteStatus(
        "a",
        written,
        (UplinkStatus("up1", PortState.ABSENT, written - 3700, None),),
        (PathStatus("up2", "b", "up2", PathState.DOWN, written - 130, "it is a test", 7.25, 0.5),),
    )


def test_the_tables_tell_what_the_application_wrote(host: Host, run_directory: Path) -> None:
    write_status(status(time.time()), run_directory / "uplinks.json")
    words = [line.split() for line in run_with(host, run_directory).splitlines()]
    assert words[0] == ["uplinks", "of", "a"]
    assert words[2][:4] == ["up1", "up1", "192.0.2.1", "absent"]
    assert words[2][-2:] == ["1", "h"]
    assert words[3][:4] == ["up2", "up2", "2001:db8:2::1", "unknown"]
    assert words[6][:4] == ["up1", "to", "b/up1", "unknown"]
    up2 = ["up2", "to", "b/up2", "down", "7.2", "ms", "50.0", "%"]
    assert words[7][: len(up2)] == up2
    assert words[7][-6:] == ["2", "min", "it", "is", "a", "test"]


@pytest.mark.parametrize("old", [True, False], ids=["an old file", "no file"])
def test_without_an_application_it_says_so(host: Host, run_directory: Path, old: bool) -> None:
    if old:
        file = run_directory / "uplinks.json"
        write_status(status(time.time()), file)
        os.utime(file, (time.time() - 60,) * 2)
    first, *rest = run_with(host, run_directory).splitlines()
    assert first.startswith("the application does not run here")
    assert rest[2].split()[:4] == ["up1", "up1", "192.0.2.1", "unknown"]


def test_watch_refreshes_until_ctrl_c(host: Host) -> None:
    terminal, there = pty.openpty()
    command = [*host.prefix, "TERM=xterm", "COLUMNS=130", "fedsdn", "uplinks", "--watch"]
    with subprocess.Popen(command, stdout=there, stderr=there) as process:
        os.close(there)
        shown = b""
        while shown.count(b"uplinks of a") < 3:
            shown += os.read(terminal, 1 << 16)
        # nsenter has forked, to be in the host's PID namespace; the command is its child.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        child = int(children.read_text())
        os.kill(child, signal.SIGINT)
        try:
            assert process.wait(LIMIT_SECONDS) == 0
        except subprocess.TimeoutExpired:
            os.kill(child, signal.SIGKILL)
            raise
    os.close(terminal)
    assert b"sent/s" in shown
    assert b"Traceback" not in shown


def test_watch_and_json_are_refused_together(host: Host) -> None:
    done = subprocess.run(
        [*host.prefix, "fedsdn", "uplinks", "--watch", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 1
    assert done.stderr == "fedsdn: --json prints one document: leave out --watch\n"
