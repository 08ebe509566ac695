"""What a peer's answers say of a connection that was not made."""

from __future__ import annotations

import pytest

from fedsdn.proxy.ended.record import FAULTS, Who
from fedsdn.proxy.socks.causes import refused_by_peer
from fedsdn.proxy.socks.protocol import Reply


@pytest.mark.parametrize("reply", [one for one in Reply if one is not Reply.SUCCEEDED])
def test_no_answer_of_a_peer_is_a_fault_here(reply: Reply) -> None:
    assert refused_by_peer(reply)[0] not in FAULTS


def test_for_what_only_the_peer_knows_its_records_are_named() -> None:
    reason, who, detail = refused_by_peer(Reply.FAILURE)
    assert (str(reason), who) == ("failed at peer", Who.PEER)
    assert "fedsdn connections --ended" in detail
    assert refused_by_peer(Reply.REFUSED)[2] == ""
