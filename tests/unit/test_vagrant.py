"""The Vagrant lab and the units, as far as they can be judged without virtual machines.

The machines themselves are brought up by ``make vagrant-test``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from fedsdn.config.model import Federation, Probes
from fedsdn.lab.operator import CONTROLLER_PRIORITY
from fedsdn.lab.topology import load_topology

TOP = Path(__file__).parents[2]
LAB = TOP / "vagrant"
UNITS = sorted((TOP / "systemd").glob("*.service"))
SCRIPTS = [
    TOP / "scripts" / "install-packages",
    *(LAB / name for name in ("carrier", "check", "federate", "provision", "start", "test")),
    *(LAB / "box" / name for name in ("customize", "make")),
]
BIN = Path(sys.executable).parent


def test_vagrant_takes_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        ["vagrant", "validate"],
        cwd=LAB,
        env={**os.environ, "VAGRANT_HOME": str(tmp_path), "VAGRANT_DOTFILE_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_shell_takes_the_script(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_machines_are_the_sites_of_the_lab_of_namespaces() -> None:
    """So that their bridges have the same flows, but for the ports' names."""

    def but_for_ports(federation: Federation) -> Federation:
        sites = tuple(
            replace(site, uplinks=tuple(replace(up, port=up.name) for up in site.uplinks))
            for site in federation.sites
        )
        return replace(federation, sites=sites, probes=Probes())

    ours = load_topology(LAB / "two-site.yaml")
    theirs = load_topology(TOP / "topo" / "two-site.yaml")
    assert but_for_ports(ours.federation) == but_for_ports(theirs.federation)
    assert ours.sites == theirs.sites


def test_the_box_has_every_package_that_a_site_needs() -> None:
    """Or provisioning would look for a Debian mirror, which there may not be."""
    lines = (TOP / "scripts" / "install-packages").read_text().partition("start_nothing()")[0]
    needed = {line.split()[1] for line in lines.splitlines() if line.startswith("need ")}
    box = (LAB / "box" / "make").read_text()
    packages = {
        package
        for line in box.splitlines()
        if line.startswith("packages=")
        for package in line.partition("=")[2].split(",")
    }
    assert needed
    assert needed <= packages


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    """With this checkout's commands in the place of those that a site has in /opt."""
    for other in UNITS:
        text = other.read_text()
        assert "/opt/fedsdn/bin/" in text
        (tmp_path / other.name).write_text(text.replace("/opt/fedsdn/bin", str(BIN)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one", tmp_path / unit.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_lab_runs_the_application_as_the_unit_does() -> None:
    unit = (TOP / "systemd" / "fedsdn-app.service").read_text().splitlines()
    assert f"Nice={CONTROLLER_PRIORITY}" in unit


def test_units_are_installed_with_the_package() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["data-files"] == {
        "lib/systemd/system": ["systemd/*.service"],
        "lib/sysusers.d": ["sysusers.d/*.conf"],
    }
    assert {unit.stem for unit in UNITS} == {"fedsdn-app", "fedsdn-proxy", "fedsdn-site"}
