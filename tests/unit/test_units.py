"""The units of systemd: each gives its processes what they need."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from fedsdn.users import PROXY_USER
from tests.real.sandbox import UNITS, settings_of

MOST_EXPOSED = 3.0
"""Of ten, by systemd's own measure (systemd-analyze(1), ``security``)."""

NAMES = [file.stem for file in sorted(UNITS.glob("*.service"))]
NEVER = {"CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_BPF"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
@pytest.mark.parametrize("name", NAMES)
def test_no_unit_is_exposed_more_than_it_has_to_be(name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    done = subprocess.run(
        [*command, str(UNITS / f"{name}.service")], capture_output=True, text=True, check=True
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) <= MOST_EXPOSED, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_no_unit_may_read_others_files_or_processes(name: str) -> None:
    (capabilities,) = settings_of(name)["CapabilityBoundingSet"]
    assert not NEVER & set(capabilities.split())


def test_what_mounts_and_unmounts_alone_has_the_hosts_mounts() -> None:
    commands = [
        (name, value)
        for name in NAMES
        for setting, values in settings_of(name).items()
        for value in values
        if setting.startswith("Exec") and value.startswith(("+", "!"))
    ]
    enter = "+/usr/bin/nsenter --target=1 --mount -- "
    assert set(commands) == {
        ("fedsdn-site", f"{enter}/opt/fedsdn/bin/fedsdn site {command}")
        for command in ("prepare", "forget")
    }


def test_units_name_the_user_of_the_proxy() -> None:
    account = (UNITS.parent / "sysusers.d/fedsdn.conf").read_text()
    assert re.search(rf"^u fedsdn {PROXY_USER} ", account, re.MULTILINE)


def test_a_tunnels_program_outlives_the_application_that_has_started_it() -> None:
    settings = settings_of("fedsdn-app")
    assert settings["KillMode"] == ["process"]
    assert settings["RuntimeDirectory"] == ["fedsdn wireguard"]
    assert settings["RuntimeDirectoryPreserve"] == ["yes"]
