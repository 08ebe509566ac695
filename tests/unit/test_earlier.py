"""How long a new connection waits for its client's last one, and when that is ended."""

from __future__ import annotations

import logging
from ipaddress import ip_address

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.mptcp.orphan import Standing
from fedsdn.pipeline.declarations import SocketMark
from fedsdn.proxy.sockets import earlier
from fedsdn.proxy.sockets.earlier import Earlier, Patience, Verdict
from fedsdn.socket_address import SocketAddress

CLIENT = SocketAddress(ip_address("10.1.0.11"), 50_000)
VM = SocketAddress(ip_address("10.2.0.11"), 80)
SOCKET = (2, b"socket")
QUIET, MOST = 3.0, 20.0


def standing(acknowledged: int = 0, unacknowledged: int = 0) -> Standing:
    return Standing(SOCKET, acknowledged, unacknowledged)


def judged(*looks: tuple[float, Standing | None]) -> list[Verdict]:
    patience = Patience(QUIET, MOST)
    return [patience.judge(found, now) for now, found in looks]


def test_one_that_is_quiet_is_ended_after_the_time_of_reuse() -> None:
    assert judged((10, standing()), (12.9, standing()), (13, standing())) == [
        Verdict.WAIT,
        Verdict.WAIT,
        Verdict.END,
    ]


def test_one_that_moves_is_left_alone_until_it_has_been_quiet() -> None:
    looks = [(second, standing(acknowledged=second)) for second in range(5)]
    assert set(judged(*looks)) == {Verdict.WAIT}
    assert judged(*looks, (6.9, standing(4)), (7, standing(4)))[-2:] == [Verdict.WAIT, Verdict.END]


def test_what_waits_for_a_slow_reader_is_never_thrown_away_while_any_of_it_moves() -> None:
    slow = [(second, standing(second // 5, 1000)) for second in range(21)]
    assert judged(*slow) == [Verdict.WAIT] * 20 + [Verdict.GIVE_UP]


def test_what_waits_for_one_that_does_not_read_at_all_is_given_the_time_of_connecting() -> None:
    stuck = [(second, standing(7, 1000)) for second in range(21)]
    assert judged(*stuck) == [Verdict.WAIT] * 20 + [Verdict.END]


def test_none_that_is_the_clients_is_waited_for_as_long_as_a_quiet_one() -> None:
    assert judged((0, None), (2.9, None), (3, None)) == [
        Verdict.WAIT,
        Verdict.WAIT,
        Verdict.GIVE_UP,
    ]


def test_after_one_has_gone_by_itself_the_new_one_is_tried_again() -> None:
    assert judged((0, standing(0, 9)), (10, standing(1, 8)), (10.1, None))[-1] is Verdict.WAIT


class Kernel:
    """What stands between the two ends, and what becomes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: Standing | Exception | None = standing()
        self.left: Exception | None = None
        self.ended = 0
        monkeypatch.setattr(earlier, "standing_between", self._look)
        monkeypatch.setattr(earlier, "end", self._end)

    def _look(self, *_: object) -> Standing | None:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def _end(self, *_: object) -> bool:
        self.ended += 1
        if self.left is not None:
            raise self.left
        return True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def in_the_way(quiet: float = 0) -> Earlier:
    return Earlier(CLIENT, VM, SocketMark.SERVER, Patience(quiet, MOST))


def test_one_that_is_ended_is_ended_once(kernel: Kernel) -> None:
    new = in_the_way()
    assert [new.try_again(0), new.try_again(1)] == [True, False]
    assert kernel.ended == 1


def test_a_socket_that_the_kernel_does_not_end_is_said_to_stay(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.left = FedsdnError("this kernel does not")
    assert not in_the_way().try_again(0)
    assert [(one.levelno, one.message) for one in caplog.records] == [
        (
            logging.WARNING,
            f"{CLIENT} to {VM}: an earlier connection stays: this kernel does not",
        )
    ]


def test_a_kernel_that_shows_nothing_is_said_once_and_ends_nothing(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.found = FedsdnError("not shown")
    new = in_the_way(QUIET)
    assert [new.try_again(now) for now in (0, 1, 3)] == [True, True, False]
    assert [one.message for one in caplog.records] == [
        f"{CLIENT} to {VM}: an earlier connection stays: not shown"
    ]
    assert kernel.ended == 0
