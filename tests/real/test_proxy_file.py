"""The proxy takes up a changed federation file; what that forbids is reset."""

from __future__ import annotations

import errno
import re
import signal
import socket
from dataclasses import replace
from functools import partial

import pytest

from tests.real.proxy_connections import is_reset
from tests.real.proxy_life import (
    Net,
    ask_in_vain,
    beginning,
    exchange,
    listens_with_all_workers,
    open_connections,
    without_the_vm,
)
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real


def is_refused(net: Net) -> bool:
    """Whether the worker that gets the next connection finds its client foreign."""
    before: int = net.far.statistics()["ended_foreign_client"]
    ask_in_vain(net, net.far.addresses[6])
    after: int = net.far.statistics()["ended_foreign_client"]
    return after == before + 1


def test_a_changed_file_is_taken_up_and_what_it_allows_goes_on(net: Net) -> None:
    forbidden, allowed = net.connection(6), net.connection(4)
    net.far.write(without_the_vm(two_sites()))
    net.far.signal_proxy(signal.SIGHUP)
    wait_until(lambda: all(is_refused(net) for _ in range(10)))
    assert [is_reset(end) for end in forbidden] == [True, True]
    # One of those that ask whether they are refused may be reset with it, by any worker.
    said = re.compile(r"[12] connections? reset: fd00:1::/64 is no longer a prefix of site a")
    wait_until(lambda: said.search(net.far.log) is not None)
    assert len(said.findall(net.far.log)) <= 2
    exchange(*allowed)
    exchange(*net.connection(4))
    net.far.write(two_sites())
    net.far.signal_proxy(signal.SIGHUP)
    wait_until(lambda: not any(is_refused(net) for _ in range(10)))
    exchange(*net.connection(6))
    assert net.far.log.count("reloaded: ") == 2


@pytest.mark.parametrize("which", [0, 1], ids=["outbound", "inbound"])
def test_a_changed_file_also_resets_what_is_still_being_opened(net: Net, which: int) -> None:
    """Near, the peer does not answer; far, the VM does not."""
    site, port, opening = [(net.near, 1080, (1, 0)), (net.far, 9, (1, 1))][which]
    silence = "table inet silence { chain output { type filter hook output priority 0; }; }"
    site.inside(f"nft '{silence}'")
    try:
        site.inside(f"nft add rule inet silence output tcp dport {port} drop")
        with beginning(net, net.far.addresses[6], 9) as client:
            wait_until(lambda: open_connections(net) == opening)
            site.write(without_the_vm(two_sites()))
            site.signal_proxy(signal.SIGHUP)
            wait_until(lambda: open_connections(net) == (0, 0))
            # Its SYN is repeated. Near, it comes from nobody's prefix now, and nobody answers.
            told = 0 if site is net.near else errno.EACCES
            wait_until(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == told)
    finally:
        site.inside("nft delete table inet silence")
        site.write(two_sites())
        site.signal_proxy(signal.SIGHUP)
    wait_until(lambda: not any(is_refused(net) for _ in range(10)))


def test_a_bad_file_is_named_once_and_changes_nothing(net: Net) -> None:
    file = net.far.run_directory / "fedsdn/federation.yaml"
    file.write_text("sites: 7\n")
    said = re.compile(r"not reloaded, going on as before: .*federation\.yaml:1: .*\n")
    net.far.signal_proxy(signal.SIGHUP)
    wait_until(lambda: said.search(net.far.log) is not None)
    exchange(*net.connection(4))
    exchange(*net.connection(6))
    assert len(said.findall(net.far.log)) == 1
    assert "Traceback" not in net.far.log


def test_another_port_for_peers_is_listened_on(net: Net) -> None:
    elsewhere = replace(two_sites(), proxy_port=1200)
    client, server = net.connection()
    for site in (net.near, net.far):
        site.inside("nft insert rule inet fedsdn from_peer tcp dport 1200 accept")
        site.write(elsewhere)
        site.signal_proxy(signal.SIGHUP)
        wait_until(partial(listens_with_all_workers, site, 1200))
        wait_until(lambda: not site.inside("ss -Hltn sport = :1080"))  # noqa: B023 -- called at once
    exchange(*net.connection())
    exchange(client, server)
    for site in (net.near, net.far):
        assert site.stop_proxy() == 0
