"""``fedsdn identity``: what a person sees who makes, checks and replaces a site's keys."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from typer.testing import CliRunner

from fedsdn.cli.main import _application
from fedsdn.config.identities import identity_document
from fedsdn.config.loader import dump_federation, load_federation
from fedsdn.config.model import Federation, Identity
from fedsdn.errors import FedsdnError, FinalError
from fedsdn.identity import dates, new, rotation, store
from fedsdn.identity.new import make
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.identity import IdentityView, identity, in_force, others, peers
from tests.unit.federations import own_identity, three_sites, two_sites, with_foreign_proxy
from tests.unit.test_identity import as_before_tunnels


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
def tmp_path() -> Iterator[Path]:
    """One that the proxy's workers may go through."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


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
    assert host.printed("show") == both
    assert host.printed("init") == both
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

    assert host.printed("init") == [both[1]], "and never the retired one"
    shown = host.run("show").stdout
    assert yaml.safe_load(shown)["identity"] == [identity_document(both[1])]
    assert f"# also on this host: {first.name}, until " in shown
    assert f"{first.name}, of " in host.run("check").stdout


def test_each_rotation_makes_new_keys(host: Host) -> None:
    """Those that wait on the host are in the hands of whoever broke into it."""
    host.printed("init")
    both = host.printed("rotate")
    federation = load_federation(host.federation)
    host.federation.write_text(dump_federation(with_identities_of_a(federation, both[0])))
    again = host.printed("rotate")
    assert again[0] == both[0]
    assert again[1] != both[1]


def test_an_identity_that_cannot_be_used_is_replaced_by_one_alone(host: Host) -> None:
    host.printed("init")
    (own,) = store.load(host.keys)
    own.tls_key_file.unlink()
    (fresh,) = host.printed("rotate")
    assert fresh != own.identity
    assert host.run("check").returncode == 0


def test_of_two_that_are_listed_the_usable_one_is_to_be_left(host: Host) -> None:
    host.printed("init")
    both = host.printed("rotate")
    for own in store.load(host.keys):
        if own.identity == both[0]:
            own.tls_key_file.unlink()
    done = host.run("rotate")
    assert f"take one of them out of every site's file so that {both[1].name} is left" in (
        done.stderr
    )


def test_no_key_is_called_old_by_its_date(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was two days ahead when the keys in force were made."""
    with monkeypatch.context() as ahead:
        ahead.setattr(new, "datetime", Ahead)
        (first,) = host.printed("init")
    done = host.run("rotate")
    assert done.returncode == 1
    assert "set the clock (timedatectl)" in done.stderr
    store.save(host.keys, make("a"))
    assert "rm " not in host.run("check").stdout
    assert host.printed("init") == [first]


class Ahead(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Ahead:
        return super().now(tz) + timedelta(2)


def test_a_host_that_is_another_site(host: Host) -> None:
    (made,) = host.printed("init")
    federation = load_federation(host.federation)
    for command in ("init", "show", "check", "rotate"):
        done = host.run(command, "--site", "b")
        assert done.returncode == 1
        said = " ".join((done.stdout + done.stderr).split())
        assert "found the identity of site a, but this host is said to be site b" in said
    view = IdentityView(federation, federation.site("b"), host.keys)
    assert others(view) == f"{made.name} is in the federation file, as site a's"


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
    ("days", "said", "remedy"),
    [
        (-29, "expires on", "fedsdn identity rotate"),
        (1, "has expired on", "fedsdn identity rotate"),
        (-3660, "does not hold before", "timedatectl"),
    ],
)
def test_dates_are_told_before_they_come(
    view: IdentityView, days: int, said: str, remedy: str
) -> None:
    one = own_identity("a").identity
    found, fix = failed(lambda: in_force(view, dates.end(one) + timedelta(days)))
    assert found.startswith(f"{one.name} {said} ")
    assert fix == remedy


def test_an_end_that_comes_is_well_while_another_is_listed(
    view: IdentityView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new, "LIFE", timedelta(10))
    old = store.save(tmp_path, make("a")).identity
    (good,) = view.site.identities
    federation = with_identities_of_a(view.federation, old, good)
    view = replace(view, federation=federation, site=federation.site("a"))
    now = datetime.now(UTC)
    assert in_force(view, now).endswith(f", then {good.name}")
    fix = f"take {old.name} out of the federation file"
    assert failed(lambda: in_force(view, now + timedelta(11)))[1] == fix


def test_peers_dates_are_told_too(view: IdentityView, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that has its next identity in the file already is no reason to worry."""
    end = dates.end(own_identity("b").identity)
    found, fix = failed(lambda: peers(view, end - timedelta(10)))
    assert found.startswith("site b's expires on ")
    assert "site c's" in found
    assert fix == "there: fedsdn identity rotate"
    assert failed(lambda: peers(view, end + timedelta(10)))[0].startswith("site b's has expired on")
    assert peers(view, end - timedelta(31)).startswith("peers' until ")
    (b,) = view.federation.site("b").identities
    monkeypatch.setattr(new, "LIFE", timedelta(10))
    both = replace(view.federation.site("b"), identities=(make("b").identity, b))
    two = replace(view.federation, sites=(view.site, both))
    assert peers(replace(view, federation=two), datetime.now(UTC)).startswith("peers' until ")
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


@pytest.mark.parametrize(("mode", "said"), [(0o700, "cannot reach"), (0o777, "anybody may")])
def test_the_way_to_the_keys(view: IdentityView, tmp_path: Path, mode: int, said: str) -> None:
    tmp_path.chmod(0o755)
    store.save(tmp_path / "fedsdn" / "identity", own_identity("a"))
    view = replace(view, directory=tmp_path / "fedsdn" / "identity")
    identity(view)
    (tmp_path / "fedsdn").chmod(mode)
    found, fix = failed(lambda: identity(view))
    assert said in found
    assert fix == f"run 'chmod 755 {tmp_path}/fedsdn'"


def test_keys_of_the_version_before_get_one_for_tunnels(host: Host) -> None:
    (old,) = host.printed("init")
    as_before_tunnels(*store.load(host.keys))
    host.federation.write_text(host.federation.read_text().replace("tunnel_key:", "was:"))
    assert "run 'fedsdn identity init', which adds one" in host.run("show").stderr
    (added,) = host.printed("init")
    assert (added.certificate, added.key) == (old.certificate, old.key)
    assert host.run("check").returncode == 0
    assert host.printed("init") == [added]


def test_one_makes_keys_at_a_time(host: Host) -> None:
    with store.alone(host.keys):
        assert "locked by somebody else" in host.run("init").stderr
    host.printed("init")


def test_what_else_the_host_has(view: IdentityView, tmp_path: Path) -> None:
    assert others(view) == "none"
    other = store.save(tmp_path, make("a")).identity
    day = dates.day(dates.begin(other))
    assert others(view) == f"{other.name}, of {day}, is not in the federation file"
    both = with_identities_of_a(view.federation, *view.site.identities, other)
    assert others(IdentityView(both, both.site("a"), tmp_path)) == "none"


def test_rotation_needs_an_identity_in_force(view: IdentityView, tmp_path: Path) -> None:
    strange = replace(view.site, identities=(make("a").identity,))
    with pytest.raises(FinalError, match="no identity in the federation file"):
        rotation.rotate(strange, tmp_path)
    assert os.listdir(tmp_path)
    assert datetime.now(UTC) < dates.end(view.site.identities[0])
