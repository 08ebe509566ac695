"""``fedsdn identity``: what a person sees who makes, checks and replaces a site's keys."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedsdn.cli.main import _application
from fedsdn.config.loader import dump_federation, load_federation
from fedsdn.config.model import Federation, Identity
from fedsdn.errors import FedsdnError, FinalError
from fedsdn.identity import dates, rotation, store
from fedsdn.identity.new import make
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.identity import IdentityView, identity, in_force, others, peers
from tests.unit.federations import own_identity, three_sites, two_sites, with_foreign_proxy


def with_identities_of_a(federation: Federation, *identities: Identity) -> Federation:
    sites = (
        replace(site, identities=identities) if site.name == "a" else site
        for site in federation.sites
    )
    return replace(federation, sites=tuple(sites))


class Host:
    """Site a's settings in a directory, and its commands."""

    def __init__(self, directory: Path) -> None:
        self.federation = directory / "federation.yaml"
        self.keys = directory / "identity"
        self.config = directory / "fedsdn.conf"
        self.config.write_text(f"[fedsdn]\nsite = a\nfederation = {self.federation}\n")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ("identity", *words, "--config-file", str(self.config))
        done = CliRunner().invoke(_application(["identity"]), command)
        if isinstance(done.exception, FedsdnError):
            return subprocess.CompletedProcess(command, 1, done.stdout, f"fedsdn: {done.exception}")
        return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)

    def printed(self, *words: str) -> list[Identity]:
        """Run a command, and read its block as the federation file would."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        assert "PRIVATE" not in done.stdout + done.stderr
        whole = yaml.safe_load(dump_federation(two_sites()))
        whole["sites"]["a"] |= yaml.safe_load(done.stdout)
        self.federation.write_text(yaml.safe_dump(whole))
        return list(load_federation(self.federation).site("a").identities)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_whole_way(host: Host) -> None:
    """Made once, put into the file, replaced, and the old one taken out."""
    (first,) = host.printed("init")
    assert host.printed("init") == [first]
    assert host.printed("show") == [first]
    done = host.run("check")
    assert done.returncode == 0, done.stdout
    end = dates.day(dates.end(first))
    assert done.stdout.splitlines()[:2] == [
        "identity of site a",
        f"  ✓ in force     {first.name} until {end}",
    ]

    both = host.printed("rotate")
    assert both[0] == first
    assert (
        store.current(load_federation(host.federation).site("a"), store.load(host.keys)).identity
        == first
    )
    again = host.run("rotate")
    assert again.returncode == 1
    assert again.stderr.startswith("fedsdn: the federation file lists two identities of site a, ")

    federation = load_federation(host.federation)
    host.federation.write_text(dump_federation(with_identities_of_a(federation, both[1])))
    done = host.run("check")
    assert done.returncode == 0, done.stdout
    assert f"in force     {both[1].name}" in done.stdout


def test_a_rotation_that_was_begun_goes_on_with_the_same_keys(host: Host) -> None:
    host.printed("init")
    both = host.printed("rotate")
    federation = load_federation(host.federation)
    host.federation.write_text(dump_federation(with_identities_of_a(federation, both[0])))
    assert host.printed("rotate") == both
    assert len(store.load(host.keys)) == 2


def test_json_says_the_same(host: Host) -> None:
    (made,) = host.printed("init")
    (shown,) = json.loads(host.run("show", "--json").stdout)
    assert (shown["name"], shown["fingerprint"]) == (made.name, made.fingerprint.hex())
    assert shown["listed"]
    checked = json.loads(host.run("check", "--json").stdout)
    assert [part["fix"] for part in checked["parts"]] == ["", "", ""]


@pytest.mark.parametrize("command", ["show", "check", "rotate"])
def test_nothing_was_made_yet(host: Host, command: str) -> None:
    host.federation.write_text(dump_federation(two_sites()))
    done = host.run(command)
    assert done.returncode == 1
    assert "fedsdn identity init" in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 1


def test_a_name_that_no_site_may_have(host: Host) -> None:
    done = host.run("init", "--site", "a site")
    assert done.returncode == 1
    assert done.stderr.startswith("fedsdn: found the site's name 'a site'; write a name of 1 to 32")
    assert not host.keys.exists()


@pytest.fixture
def view(tmp_path: Path) -> IdentityView:
    federation = three_sites()
    store.save(tmp_path, own_identity("a"))
    return IdentityView(federation, federation.site("a"), tmp_path)


def test_all_is_well(view: IdentityView) -> None:
    end = dates.day(dates.end(own_identity("a").identity))
    assert (
        identity(view)
        == f"{own_identity('a').identity.name} until {end}; peers' until {end} or later"
    )


def failed(look: Callable[[], str]) -> tuple[str, str]:
    with pytest.raises(CheckFailedError) as raised:
        look()
    return raised.value.found, raised.value.fix


@pytest.mark.parametrize(
    ("days", "said"), [(-29, "expires on"), (1, "has expired on"), (-3660, "does not hold before")]
)
def test_dates_are_told_before_they_come(view: IdentityView, days: int, said: str) -> None:
    one = own_identity("a").identity
    found, fix = failed(lambda: in_force(view, dates.end(one) + timedelta(days)))
    assert found.startswith(f"{one.name} {said} ")
    assert fix == "fedsdn identity rotate"


def test_peers_dates_are_told_too(view: IdentityView) -> None:
    """A peer that has its next identity in the file already is no reason to worry."""
    end = dates.end(own_identity("b").identity)
    found, fix = failed(lambda: peers(view, end - timedelta(10)))
    assert found.startswith("site b's expires on ")
    assert "site c's" in found
    assert fix == "there: fedsdn identity rotate"
    assert failed(lambda: peers(view, end + timedelta(10)))[0].startswith("site b's has expired on")
    assert peers(view, end - timedelta(31)).startswith("peers' until ")
    alone = with_foreign_proxy(two_sites(), "b")
    assert peers(replace(view, federation=alone), end) == "no peer has one"


def test_keys_that_are_not_private_or_others(view: IdentityView, tmp_path: Path) -> None:
    (own,) = store.load(tmp_path)
    own.probes_key_file.chmod(0o644)
    assert "mode 0644" in failed(lambda: identity(view))[0]
    own.probes_key_file.chmod(0o600)
    other = store.save(tmp_path / "other", make("a"))
    own.tls_key_file.write_bytes(other.tls_key_file.read_bytes())
    found, fix = failed(lambda: identity(view))
    assert found.startswith(f"{own.tls_key_file}: found another key than the one of")
    assert "fedsdn identity rotate" in fix
    own.tls_key_file.unlink()
    assert failed(lambda: identity(view))[0].startswith(f"{own.tls_key_file}: cannot be read")


def test_what_else_the_host_has(view: IdentityView, tmp_path: Path) -> None:
    assert others(view) == "none"
    new = store.save(tmp_path, make("a")).identity
    assert others(view) == f"{new.name} is for the federation file"
    both = with_identities_of_a(view.federation, *view.site.identities, new)
    assert others(IdentityView(both, both.site("a"), tmp_path)) == "none"


def test_keys_that_are_in_no_file_any_more_may_go(
    view: IdentityView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = store.save(tmp_path, make("a")).identity
    began = dates.begin
    monkeypatch.setattr(rotation, "begin", lambda one: began(one) + timedelta(seconds=one == new))
    only = with_identities_of_a(view.federation, new)
    (old,) = view.site.identities
    said = others(IdentityView(only, only.site("a"), tmp_path))
    assert said == f"{old.name} is in the federation file no more: rm {tmp_path}/{old.name}*"


def test_rotation_needs_an_identity_in_force(view: IdentityView, tmp_path: Path) -> None:
    strange = replace(view.site, identities=(make("a").identity,))
    with pytest.raises(FinalError, match="no identity in the federation file"):
        rotation.rotate(strange, tmp_path)
    assert os.listdir(tmp_path)
    assert datetime.now(UTC) < dates.end(view.site.identities[0])
