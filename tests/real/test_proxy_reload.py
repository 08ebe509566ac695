"""A reload: the proxy becomes the program on disk, and no connection notices."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.real.proxy_connections import (
    Net,
    connection,
    is_reset,
    proxies,
    wait_until_none_is_open,
)
from tests.real.proxy_life import without_the_vm
from tests.real.proxy_net import ROOT, SiteOfNet
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real


class Echo:
    """A server on the far VM that sends back what it reads; it counts its connections."""

    def __init__(self, site: SiteOfNet) -> None:
        self.address = site.addresses[4]
        self.listener = site.vm.listen(self.address)
        self.port: int = self.listener.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    @staticmethod
    def _serve(sock: socket.socket) -> None:
        with sock:
            sock.settimeout(None)
            while data := sock.recv(1 << 16):
                sock.sendall(data)


def say(sock: socket.socket, text: bytes) -> None:
    """Say something, and see it come back."""
    sock.sendall(text)
    seen = b""
    while len(seen) < len(text):
        more = sock.recv(1 << 16)
        assert more, "the connection has ended"
        seen += more
    assert seen == text


class Load:
    """New connections one after another, each with something to say."""

    def __init__(self, net: Net, echo: Echo) -> None:
        self._near, self._echo = net[0], echo
        self._end = threading.Event()
        self.done = 0
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                with self._near.vm.connect(self._echo.address, self._echo.port) as client:
                    say(client, b"new")
                self.done += 1
            except (OSError, AssertionError) as error:
                self.wrong.append(repr(error))

    def finish(self) -> None:
        self._end.set()
        self._thread.join()
        assert self.wrong == []


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as sites:
        yield sites


def reload(site: SiteOfNet) -> str:
    return site.output("fedsdn proxy reload")


def leaving(site: SiteOfNet) -> int:
    found: int = site.statistics()["leaving"]
    return found


def own_copy(directory: Path) -> None:
    """Copy the program, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fedsdn", directory / "fedsdn", ignore=ignored)


@contextmanager
def program(site: SiteOfNet, directory: Path) -> Iterator[Path]:
    """Run a copy of the program at a site, whose files the block may change."""
    own_copy(directory)
    site.stop_proxy()
    environment = site.environment() | {"PYTHONPATH": str(directory)}
    site.environment = lambda: environment  # type: ignore[method-assign]
    try:
        site.start_proxy()
        yield directory / "fedsdn"
    finally:
        del site.environment
        os.kill(site.proxy_pids()[0], signal.SIGKILL)
        assert site.process is not None
        site.process.wait()
        wait_until(lambda: not site.inside("ss -Hltn").strip())
        site.start_proxy()


def change(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))


def test_under_load_nothing_is_reset_or_refused_at_either_site(net: Net) -> None:
    near, far = net
    echo = Echo(far)
    with ExitStack() as stack:
        held = [stack.enter_context(near.vm.connect(echo.address, echo.port)) for _ in range(20)]
        load = Load(net, echo)
        for site in (near, far, near):
            pids = site.proxy_pids()
            assert "reloaded: 2 workers" in reload(site)
            assert site.proxy_pids()[0] == pids[0], "for whoever supervises it, it is the same"
            for number, sock in enumerate(held):
                say(sock, b"%d" % number * 1000)
        load.finish()
        assert load.done > 4
        wait_until(
            lambda: (
                near.statistics()["outbound_open"] == far.statistics()["inbound_open"] == len(held)
            )
        )
        assert leaving(near)
        assert leaving(far)
        assert near.statistics()["reloads"] == 2
    wait_until_none_is_open(net)
    wait_until(lambda: leaving(near) == leaving(far) == 0)
    for site in net:
        assert len(site.proxy_pids()) == 1 + site.statistics()["workers"]
        assert site.statistics()["restarts"] == 0
        assert not [one for one in site.ended() if one.reason.name == "WORKER_ENDED"]
        assert "ERROR" not in site.log


def test_a_syn_that_is_held_meanwhile_is_answered_and_asked_for_once(net: Net) -> None:
    near, far = net
    address = far.addresses[4]
    with far.vm.listen(address) as listener, near.vm.open(address) as client:
        port = listener.getsockname()[1]
        far.inside("nft 'table inet deaf { chain out { type filter hook output priority 0; }; }'")
        try:
            far.inside(f"nft add rule inet deaf out tcp dport {port} drop")
            client.setblocking(False)
            client.connect_ex((address, port))
            wait_until(lambda: far.statistics()["inbound_open"] == 1)
            reload(near)
            reload(far)
            assert near.statistics()["outbound_held"] == 1
        finally:
            far.inside("nft delete table inet deaf")
        server, name = listener.accept()
        with server:
            client.settimeout(20)
            server.sendall(b"!")
            assert client.recv(1) == b"!"
            assert name == client.getsockname()
            listener.settimeout(0.5)
            with pytest.raises(TimeoutError):
                listener.accept()


def test_what_is_on_disk_runs_after_it_and_what_does_not_start_changes_nothing(
    net: Net, tmp_path: Path
) -> None:
    near, far = net
    with program(near, tmp_path) as files, connection(near, far, 6) as (client, server):
        change(files / "cli/proxy.py", "from fedsdn import namespace\n", "import no_such_module\n")
        near.signal_proxy(signal.SIGHUP)
        said = "not reloaded, going on as before: ModuleNotFoundError: No module named"
        wait_until(lambda: said in near.log)
        assert leaving(near) == 0
        change(files / "cli/proxy.py", "import no_such_module\n", "from fedsdn import namespace\n")
        change(
            files / "proxy/stats.py",
            "    ASKED_AGAIN = auto()\n",
            "    SOMETHING_NEW = auto()\n    ASKED_AGAIN = auto()\n",
        )
        reload(near)
        assert near.statistics()["something_new"] == 0, "it counts what the new program counts"
        assert near.statistics()["outbound_open"] == 1, "and what the old workers count"
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        client.close()
        server.close()
        wait_until(lambda: near.statistics()["outbound_open"] == leaving(near) == 0)


FAULTS = {
    "none begins": (
        "proxy/process/worker.py",
        "    with ExitStack() as opened:\n",
        "    raise OSError('it does not work')\n    with ExitStack() as opened:\n",
    ),
    "the unit's filter kills for a system call": (
        "proxy/process/worker.py",
        "    with ExitStack() as opened:\n",
        "    signal.raise_signal(signal.SIGKILL)\n    with ExitStack() as opened:\n",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_new_workers_that_fail_leave_the_others_where_they_are(
    net: Net, tmp_path: Path, fault: str
) -> None:
    near, far = net
    file, *text = FAULTS[fault]
    with program(near, tmp_path) as files, connection(near, far, 4) as (client, server):
        workers = near.proxy_pids()
        change(files / file, *text)
        refused = near.run("fedsdn proxy reload")
        assert refused.returncode == 1
        assert refused.stderr == (
            "fedsdn: not reloaded, the proxy goes on as before: its log says why "
            "(journalctl -u fedsdn-proxy)\n"
        )
        assert "not reloaded, going on as before: worker " in near.log
        wait_until(lambda: near.proxy_pids() == workers)
        assert near.statistics()["running"] == 2
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        with connection(near, far, 6) as (_, other):
            assert other.getpeername()


def test_a_leaving_worker_that_is_killed_resets_its_own_alone_and_is_not_started_again(
    net: Net,
) -> None:
    near, far = net
    with connection(near, far, 4) as (client, server):
        before = near.proxy_pids()[1:]
        reload(near)
        wait_until(lambda: leaving(near) == 1)  # the others had nothing to carry, and end
        (old,) = [pid for pid in near.proxy_pids() if pid in before]
        with connection(near, far, 4) as (other, _):
            os.kill(old, signal.SIGKILL)
            assert is_reset(client)
            assert is_reset(server)
            wait_until(lambda: leaving(near) == 0)
            assert len(near.proxy_pids()) == 1 + len(before)
            assert near.statistics()["outbound_open"] == 1
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.recv(1)


def test_what_a_changed_file_forbids_is_reset_with_the_old_workers_too(net: Net) -> None:
    near, far = net
    with connection(near, far, 6) as (client, server), connection(near, far, 4) as allowed:
        reload(far)
        far.write(without_the_vm(two_sites()))
        try:
            reload(far)
            assert is_reset(client)
            assert is_reset(server)
            allowed[0].sendall(b"?")
            assert allowed[1].recv(1) == b"?"
        finally:
            far.write(two_sites())
            reload(far)


def test_a_stop_ends_old_workers_too(net: Net) -> None:
    near, far = net
    with connection(near, far, 4) as (client, server):
        reload(near)
        wait_until(lambda: leaving(near) == 1)
        near.signal_proxy(signal.SIGTERM)
        wait_until(lambda: not near.inside("ss -Hltn").strip())
        assert near.stop_proxy() == 0
        assert is_reset(client)
        assert is_reset(server)
    near.start_proxy()
