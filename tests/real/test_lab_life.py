"""Labs coming and going: several at once, killed ones, ones that fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.lab import build
from fedsdn.lab.lab import Lab, open_lab
from fedsdn.lab.process import Process
from fedsdn.lab.state import KEPT_LOGS, LABS, LabDirectory, lab_names
from fedsdn.lab.wait import wait_until
from tests.real.conftest import TWO_SITE

pytestmark = pytest.mark.real
FEDSDN = str(Path(sys.executable).parent / "fedsdn")


def start_up(name: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [FEDSDN, "lab", "up", str(TWO_SITE), "--name", name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def network_namespaces() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(os.readlink(entry / "ns/net"))
            except OSError:
                continue
    return found


def processes_of(name: str) -> list[str]:
    """Return the command lines that name the lab's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_text()
        except OSError:
            continue
        if f"{LABS / name}/" in line:
            found.append(line)
    return found


def mounts() -> set[str]:
    """Return what is mounted, but for the namespaces that other tests make meanwhile."""
    others = re.compile(r" /run/(netns|netns/[a-z]+-\S*|[a-z]+-\S*\.netns) ")
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return {line for line in lines if not others.search(line)}


def test_down_leaves_nothing_and_can_be_repeated(lab_name: str) -> None:
    before = mounts()
    lab = build.up(TWO_SITE, lab_name)
    hosts = [host.process for host in lab.hosts]
    with ExitStack() as stack:
        inside = set()
        for host in hosts:
            # Its number is nobody else's as long as somebody has it open.
            stack.enter_context(Path(f"/proc/{host.pid}/ns/net").open("rb"))
            inside.add(os.readlink(f"/proc/{host.pid}/ns/net"))
        assert len(inside) == 2
        assert inside <= network_namespaces()
        assert mounts() == before
        for _ in range(2):
            done = subprocess.run([FEDSDN, "lab", "down", lab_name], check=True)
            assert done.returncode == 0
            assert lab_name not in lab_names()
            assert not any(host.alive() for host in hosts)
            assert processes_of(lab_name) == []
            assert not inside & network_namespaces()
    assert mounts() == before


def test_two_labs_do_not_touch_each_other(lab: Lab, lab_name: str) -> None:
    other = build.up(TWO_SITE, lab_name)
    assert lab.status()["up"]
    assert other.status()["up"]
    other.change_wire("wire1", carrier=False)
    assert lab.wires()["wire1"]["carrier"] is True
    build.down(lab_name)
    assert lab.status()["up"]


@pytest.mark.parametrize(
    "reached", ["state.json", "a/openvswitch/db.sock", "a/fedsdn/site.json", "b/log/proxy.pid"]
)
def test_a_killed_up_is_cleaned_by_the_next_down(lab_name: str, reached: str) -> None:
    killed = kill_up_at(lab_name, reached)
    assert killed, "state.json names what was started"
    build.down(lab_name)
    assert not any(process.alive() for process in killed)
    # One that was not yet written down ends by itself: it waits for a word that never comes.
    wait_until(lambda: not processes_of(lab_name), 60, lambda: str(processes_of(lab_name)))
    assert lab_name not in lab_names()


def test_a_killed_up_is_cleaned_by_the_next_up(lab_name: str) -> None:
    killed = kill_up_at(lab_name, "a/fedsdn/site.json")
    lab = build.up(TWO_SITE, lab_name)
    assert lab.status()["up"]
    assert not any(process.alive() for process in killed)


def kill_up_at(name: str, reached: str) -> list[Process]:
    """Kill ``fedsdn lab up`` when a file of the lab is there; return the lab's processes."""
    file = LABS / name / reached
    with start_up(name) as building:
        wait_until(file.exists, 120, lambda: f"no {file}")
        building.kill()
    # A child that it was starting has its lock until that child is another program.
    wait_until(lambda: not is_locked(name), 60, lambda: f"lab {name} is still locked")
    state = LabDirectory(name).state()
    return [*state.hosts.values(), *([state.wan] if state.wan else [])]


def is_locked(name: str) -> bool:
    try:
        with LabDirectory(name).locked():
            return False
    except FedsdnError:
        return True


def test_a_failed_up_is_one_line_with_the_log_and_leaves_only_that(lab_name: str) -> None:
    pid_file = LABS / lab_name / "a" / "log" / "controller.pid"
    with start_up(lab_name) as building:
        wait_until(
            lambda: pid_file.exists() and bool(pid_file.read_text()), 120, lambda: f"no {pid_file}"
        )
        open_lab(lab_name).host("a").daemon("controller").signal("KILL")
        _, said = building.communicate(timeout=120)
    assert building.returncode == 1
    log = KEPT_LOGS / lab_name / "a" / "log" / "controller.log"
    assert said.startswith(f"fedsdn: a: the controller ended: {log}: ")
    assert said.count("\n") == 1
    assert log.exists()
    assert lab_name not in lab_names()
    assert processes_of(lab_name) == []
    build.down(lab_name)
    assert not log.exists()


def test_an_interrupted_up_leaves_nothing(lab_name: str) -> None:
    database = LABS / lab_name / "a" / "openvswitch" / "db.sock"
    with start_up(lab_name) as building:
        wait_until(database.exists, 120, lambda: f"no {database}")
        building.send_signal(signal.SIGINT)
        building.wait(timeout=120)
    assert building.returncode != 0
    assert lab_name not in lab_names()
    # One that was just being started ends by itself, as in a killed one.
    wait_until(lambda: not processes_of(lab_name), 60, lambda: str(processes_of(lab_name)))


def test_a_machine_without_open_vswitch_is_told_so(lab_name: str, tmp_path: Path) -> None:
    with start_up(lab_name, PATH=str(tmp_path)) as building:
        _, said = building.communicate(timeout=120)
    assert building.returncode == 1
    assert said == (
        "fedsdn: found no ovs-vswitchd: install it, apt-get install openvswitch-switch\n"
    )
    assert lab_name not in lab_names()


def test_a_user_without_root_rights_is_told_so(lab_name: str) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", FEDSDN, "lab", "up", str(TWO_SITE), "--name", lab_name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("fedsdn: found no root rights: ")
    assert done.stderr.count("\n") == 1


def test_a_process_is_not_mistaken_for_another_with_its_number() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        earlier = Process(sleeping.pid, Process.of(sleeping.pid).started - 1)
        assert not earlier.alive()
        earlier.end()
        assert sleeping.poll() is None
        Process.of(sleeping.pid).end()
        assert sleeping.wait(10) == -signal.SIGKILL
