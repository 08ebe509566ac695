"""Both sites of a federation replace their identities, as docs/sites.md says; nobody notices.

Connections are open all the time, and at each step new ones are made at once.
``FEDSDN_CONNECTIONS=250 pytest tests/real/test_rotation.py`` has a thousand of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
import yaml

from fedsdn.config.differences import digest
from fedsdn.config.local import IDENTITY_DIRECTORY
from fedsdn.config.model import Federation, Identity
from fedsdn.lab import build, operator
from fedsdn.lab.host import FEDERATION_FILE, Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from fedsdn.proxy.process.stats_socket import read_ended
from fedsdn.uplinks.status import PathState, read_status
from tests.real.conftest import TWO_SITE
from tests.real.test_proxy_lab import LIMIT_SECONDS, Pair, Vm, connections
from tests.real.test_revocation import exchange
from tests.unit.test_config_identities import identities_of

pytestmark = pytest.mark.real

MANY = int(os.environ.get("FEDSDN_CONNECTIONS", "50"))
"""Connections of each family and direction that are open all the time."""


class Operators:
    """Those of both sites, who give each other files."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.federation = lab.topology.federation

    def rotate(self, name: str) -> tuple[Identity, Identity]:
        printed = self.lab.host(name).run("fedsdn", "identity", "rotate")
        old, new = identities_of(yaml.safe_load(printed)["identity"])
        return old, new

    def write(self, name: str, *identities: Identity) -> None:
        """Write the next file, in which a site has these."""
        sites = tuple(
            replace(site, identities=identities) if site.name == name else site
            for site in self.federation.sites
        )
        self.federation = replace(self.federation, sites=sites)

    def give(self, name: str) -> None:
        """Let a site have the file; return when it follows it."""
        host = self.lab.host(name)
        operator.write_settings(host, self.federation)
        self._wait_for(host, self.federation)

    @staticmethod
    def _wait_for(host: Host, federation: Federation) -> None:
        def followed() -> bool:
            status = read_status(host.run_directory / "fedsdn/uplinks.json")
            return status is not None and status.file == digest(federation)

        wait_until(followed, LIMIT_SECONDS, lambda: f"site {host.name} does not follow its file")

    def paths_live(self, name: str) -> bool:
        status = read_status(self.lab.host(name).run_directory / "fedsdn/uplinks.json")
        return status is not None and all(path.state is PathState.UP for path in status.paths)

    def checked(self, name: str) -> dict[str, str]:
        """What a site says of its identity, by the names of the parts."""
        shown = self.lab.host(name).run("fedsdn", "identity", "check", "--json")
        return {part["name"]: part["text"] for part in json.loads(shown)["parts"]}


@pytest.fixture
def operators() -> Iterator[Operators]:
    name = f"test-rotation-{os.getpid()}"
    try:
        yield Operators(build.up(TWO_SITE, name))
    finally:
        build.down(name)


def ends(lab: Lab) -> Iterator[tuple[Vm, Vm]]:
    for family in (4, 6):
        for near, far in ("ab", "ba"):
            yield Vm(lab, near, "vm1", family), Vm(lab, far, "vm1", family)


def go_on(lab: Lab, pairs: list[Pair], new: int = 1) -> None:
    """See that what is open goes on, and that so many new connections are made, all ways."""
    exchange(pairs)
    with ExitStack() as stack:
        made = [stack.enter_context(connections(*two, count=new)) for two in ends(lab)]
        exchange([pair for pairs in made for pair in pairs])


def test_both_sites_rotate_and_nobody_notices(operators: Operators) -> None:
    lab = operators.lab
    with ExitStack() as stack:
        pairs: list[Pair] = []
        for two in ends(lab):
            pairs += stack.enter_context(connections(*two, count=MANY))
        go_on(lab, pairs)
        for name, order in (("a", "ba"), ("b", "ba")):
            old, new = operators.rotate(name)
            go_on(lab, pairs)
            operators.write(name, old, new)
            for site in order:
                operators.give(site)
                go_on(lab, pairs)
            assert operators.checked(name)["in force"].startswith(old.name)
            operators.write(name, new)
            for site in (name, *(set("ab") - {name})):  # the site's own file comes first
                operators.give(site)
                go_on(lab, pairs)
            said = operators.checked(name)
            assert said["in force"].startswith(new.name)
            assert said["others here"].startswith(f"{old.name}, of ")
            keys = lab.host(name).run_directory / FEDERATION_FILE.parent.name / IDENTITY_DIRECTORY
            for file in list(keys.glob(f"{old.name}*")):
                file.unlink()
            go_on(lab, pairs, new=MANY)  # more than were ready before
    for name in "ab":
        wait_until(
            lambda name=name: operators.paths_live(name),  # type: ignore[misc]
            LIMIT_SECONDS,
            lambda: f"site {name} does not hear its peer",  # noqa: B023 -- called at once
        )
        ended = read_ended(lab.host(name).run_directory / "fedsdn/proxy.sock")
        assert [one for one in ended if one.client is not None] == []  # no VM's connection
