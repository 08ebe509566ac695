"""What the line of the peers says, and when it is no good news."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fedsdn.inspect.overview import _peers
from fedsdn.shell import Shell
from fedsdn.uplinks.status import PathState, PathStatus, SiteStatus
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.view import SiteView
from tests.unit.federations import two_sites, with_foreign_proxy

UP, DOWN, UNKNOWN = PathState.UP, PathState.DOWN, PathState.UNKNOWN


def line(*paths: tuple[PathState, float | None], age: float = 60.0, foreign: bool = False) -> str:
    """Return what is said of paths to site b, by their states and loss."""
    federation = with_foreign_proxy(two_sites(), "b") if foreign else two_sites()
    view = SiteView(federation, federation.site("a"), Shell("a"), Path())
    since = time.time() - age
    status = SiteStatus(
        "a",
        time.time(),
        (),
        tuple(
            PathStatus(f"up{number}", "b", f"up{number}", state, since, "why", 31.0, loss)
            for number, (state, loss) in enumerate(paths, 1)
        ),
    )
    return _peers(view, lambda: status)


def test_paths_that_are_well() -> None:
    assert line((UP, 0.0), (UP, 0.0)) == "b (2 of 2 paths, 31 ms)"


def test_some_loss_is_said() -> None:
    assert line((UP, 0.0), (UP, 0.02)) == "b (2 of 2 paths, 31 ms, up to 2 % loss)"


@pytest.mark.parametrize("paths", [((UP, 0.2), (UP, 0.0)), ((UP, 0.0), (DOWN, 0.0))])
def test_much_loss_and_a_dead_path_are_no_good_news(
    paths: tuple[tuple[PathState, float | None], ...],
) -> None:
    with pytest.raises(CheckFailedError) as raised:
        line(*paths)
    assert raised.value.fix == "fedsdn uplinks"


def test_a_peer_that_is_silent_on_every_path_is_none_either() -> None:
    silent = ((UNKNOWN, None), (UNKNOWN, None))
    with pytest.raises(CheckFailedError, match=r"b .*2 unknown.*: no probe of b comes") as raised:
        line(*silent)
    assert "at site b" in raised.value.fix
    assert line(*silent, age=1.0) == "b (0 of 2 paths, 2 unknown)"
    assert line(*silent, foreign=True) == "b (0 of 2 paths, 2 unknown)"
