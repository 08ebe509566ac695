"""What is known of a bridge's ports when answers and news cross each other."""

from __future__ import annotations

import pytest
from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser

from fedsdn.openflow.ports import BridgePorts, Port

UP1, UP2 = Port(1, live=True), Port(2, live=True)


def status(name: str, port: Port, reason: int = ofproto.OFPPR_MODIFY) -> parser.OFPPortStatus:
    state = 0 if port.live else ofproto.OFPPS_LINK_DOWN
    desc = parser.OFPPort(port.number, "", name.encode(), 0, state, *[0] * 6)
    return parser.OFPPortStatus(None, reason, desc)


@pytest.fixture
def seen() -> list[dict[str, Port] | None]:
    return []


@pytest.fixture
def ports(seen: list[dict[str, Port] | None]) -> BridgePorts:
    ports = BridgePorts(seen.append)
    assert ports.answered({"up1": UP1, "up2": UP2}, ports.asking())
    return ports


def test_a_port_that_goes_down_is_told_and_keeps_its_number(
    ports: BridgePorts, seen: list[dict[str, Port] | None]
) -> None:
    assert not ports.changed(status("up1", Port(1, live=False)))
    assert seen[-1] == {"up1": Port(1, live=False), "up2": UP2}


def test_a_port_that_goes_or_comes_changes_numbers(
    ports: BridgePorts, seen: list[dict[str, Port] | None]
) -> None:
    assert ports.changed(status("up1", UP1, ofproto.OFPPR_DELETE))
    assert seen[-1] == {"up2": UP2}
    assert ports.changed(status("up1", Port(7, live=True), ofproto.OFPPR_ADD))
    assert seen[-1] == {"up1": Port(7, live=True), "up2": UP2}


def test_an_answer_that_may_be_older_than_the_news_is_not_taken(
    ports: BridgePorts, seen: list[dict[str, Port] | None]
) -> None:
    asked = ports.asking()
    ports.changed(status("up1", Port(1, live=False)))
    assert not ports.answered({"up1": UP1, "up2": UP2}, asked)
    assert seen[-1] == {"up1": Port(1, live=False), "up2": UP2}
    assert ports.answered({"up1": UP1, "up2": UP2}, ports.asking())
    assert seen[-1] == {"up1": UP1, "up2": UP2}


def test_nothing_is_known_of_the_ports_of_a_bridge_that_is_gone(
    ports: BridgePorts, seen: list[dict[str, Port] | None]
) -> None:
    asked = ports.asking()
    ports.forget()
    assert seen[-1] is None
    assert not ports.answered({"up1": UP1, "up2": UP2}, asked), "that was before"
    assert ports.changed(status("up1", UP1)), "to be asked anew"
    assert seen[-1] is None
