"""What the keeper of the namespace has put back, by what it sees changed."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from fedsdn import namespace
from fedsdn.site import keeper, record, setup, uplink_mtus
from fedsdn.site.keeper import Keeper
from fedsdn.site.plan import SitePlan
from fedsdn.site.setup import Part
from fedsdn.site.sysctls import port_sysctls
from fedsdn.site.values import BridgeFacts
from tests.unit.federations import two_sites


class Watched:
    """A namespace in which what has changed is what a test says."""

    def __init__(self, *_words: object) -> None:
        self.changes = self.settings = self
        self.different = False

    def read(self, _wires: Collection[str], _neighbours: Collection[bytes]) -> frozenset[Part]:
        return frozenset()

    def differ(self) -> bool:
        return self.different

    def open_settings(self, _settings: object) -> None:
        self.different = False


def test_a_setting_may_differ_because_its_interface_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel tells of that a moment later; settings cannot be written before it is back."""
    watched, asked = Watched(), list[frozenset[Part]]()

    def put_back(_plan: SitePlan, parts: Collection[Part], _follow: None) -> tuple[Part, ...]:
        asked.append(frozenset(parts))
        return ()

    monkeypatch.setattr(keeper, "_Watched", lambda *_words: watched)
    monkeypatch.setattr(namespace, "identity", lambda _name: 1)
    monkeypatch.setattr(record, "applied", lambda: (BridgeFacts(), "digest"))
    monkeypatch.setattr(setup, "put_back", put_back)
    monkeypatch.setattr(uplink_mtus, "now", lambda _site, facts: facts)
    kept = Keeper("fedsdn", "a")
    federation = two_sites()
    kept.look(federation)  # all parts, at first
    watched.different = True
    kept.look(federation)
    assert asked[1:] == [{Part.INTERFACES, Part.SYSCTLS, Part.PORT_SYSCTLS}]
    assert kept.look(federation) == ()
    assert len(asked) == 2


def test_an_interface_that_is_gone_is_not_taken_for_an_old_kernel() -> None:
    gone = port_sysctls(["no-such-port"])
    assert len(gone) > 10
    for setting in gone:
        with pytest.raises(LookupError, match=r"^no-such-port$"):
            setting.write()
