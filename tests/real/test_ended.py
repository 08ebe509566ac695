"""What an operator is told of connections that failed or were ended."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from fedsdn.proxy.ended.record import Reason, Who, from_document
from fedsdn.socket_address import SocketAddress
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.failures import failures
from tests.real.proxy_connections import Net, connection, proxies
from tests.real.site_host import wait_until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as sites:
        yield sites


def test_a_refused_connection_leaves_a_record_at_both_sites(net: Net, family: int) -> None:
    near, far = net
    with far.vm.listen(far.addresses[family]) as closed:
        port = closed.getsockname()[1]
    with (
        near.counts(ended_refused=1),
        far.counts(ended_refused=1),
        pytest.raises(ConnectionRefusedError),
    ):
        near.vm.connect(far.addresses[family], port)
    for site, who, peer in ((near, Who.VM_THERE, "b"), (far, Who.VM_HERE, "a")):
        last = site.ended()[0]
        assert (last.reason, last.who, last.peer) == (Reason.REFUSED, who, peer)
        assert last.client is not None
        assert str(last.client.address) == near.addresses[family]
        assert last.destination == SocketAddress(ip_address(far.addresses[family]), port)
        assert failures(site.statistics()).endswith("refused")
        wait_until(lambda site=site: "refused: " in site.log)  # type: ignore[misc]


def test_commands_print_records_and_reasons(net: Net) -> None:
    near, _ = net
    last = near.ended()[0]
    _count, headings, row, *_ = near.output("fedsdn connections --ended").splitlines()
    assert headings.split() == [
        *("ago", "why", "by", "direction", "client", "destination", "peer", "detail")
    ]
    assert str(last.client) in row
    assert "refused" in row
    (first, *_) = json.loads(near.output("fedsdn connections --ended --json"))
    assert from_document(first) == last
    stats = near.output("fedsdn proxy stats")
    assert re.search(rf"^  refused +{near.statistics()['ended_refused']} ", stats, re.MULTILINE)


def test_what_workers_took_with_them_is_one_record_of_each(net: Net) -> None:
    near, _ = net
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connection(*net, 4))
        wait_until(lambda: near.statistics()["outbound_open"] == 5)
        _parent, *workers = near.proxy_pids()
        with near.counts(ended_worker_ended=5, outbound_open=-5):
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
    died = [one for one in near.ended() if one.reason is Reason.WORKER_ENDED]
    assert 1 <= len(died) <= len(workers)
    assert sum(one.count for one in died) == 5
    assert all("ended (status -9)" in one.detail for one in died)
    assert any(one.reason is Reason.REFUSED for one in near.ended()), "older records survive"
    with pytest.raises(CheckFailedError, match=r"the last worker ended \d+ s ago"):
        failures(near.statistics())
    wait_until(lambda: "worker ended: by proxy, worker " in near.log)


def test_what_a_peer_lost_is_told_by_the_other_site(net: Net) -> None:
    near, far = net
    wait_until(lambda: far.statistics()["inbound_open"] == 0)
    lost = [one for one in far.ended() if one.reason is Reason.LOST]
    assert len(lost) == 5
    assert {(one.who, one.peer) for one in lost} == {(Who.PEER, "a")}
    assert {str(one.client.address) for one in lost if one.client} == {near.addresses[4]}


def test_what_a_stop_ends_is_told_by_the_log(net: Net) -> None:
    near, far = net
    wait_until(lambda: near.statistics()["running"] == near.statistics()["workers"])
    with connection(near, far, 6):
        near.signal_proxy(signal.SIGTERM)
        wait_until(lambda: "stopping" in near.log)
        assert near.stop_proxy() == 0
    assert "proxy stopped: outbound, [fd00:1::11]:" in near.log


def test_without_a_proxy_the_remedy_is_named(net: Net) -> None:
    near, _ = net
    done = near.run("fedsdn connections --ended")
    assert done.returncode == 1
    assert "start it with 'fedsdn proxy run'" in done.stderr
    assert "Traceback" not in done.stderr
