from __future__ import annotations

from pathlib import Path

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.lab import state
from fedsdn.lab.process import Process, last_line
from fedsdn.lab.state import LabDirectory, State, lab_names


@pytest.fixture(autouse=True)
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "labs"
    monkeypatch.setattr(state, "LABS", path)
    monkeypatch.setattr(state, "KEPT_LOGS", tmp_path / "log")
    return path


def test_what_was_saved_is_read() -> None:
    directory = LabDirectory("one")
    with directory.locked():
        assert directory.state() == State()
        saved = State(hosts={"a": Process(10, 20)}, wan=Process(11, 21))
        directory.save(saved)
        assert directory.state() == saved
    assert lab_names() == ["one"]


def test_the_last_lab_takes_the_directory_of_labs_along(labs: Path) -> None:
    one, two = LabDirectory("one"), LabDirectory("two")
    with one.locked(), two.locked():
        one.remove()
        assert lab_names() == ["two"]
        two.remove()
    assert not labs.exists()


def test_logs_are_kept_until_they_are_removed(tmp_path: Path) -> None:
    directory = LabDirectory("one")
    with directory.locked():
        directory.log("wan").write_text("of the lab")
        of_the_host = directory.run_directory("a") / "log" / "proxy.log"
        of_the_host.parent.mkdir(parents=True)
        of_the_host.write_text("of the host")
        directory.keep_logs()
        directory.remove()
    assert (directory.kept_logs / "wan.log").read_text() == "of the lab"
    assert (directory.kept_logs / "a" / "log" / "proxy.log").read_text() == "of the host"
    directory.remove_kept_logs()
    assert list(tmp_path.iterdir()) == []


def test_two_commands_cannot_have_the_same_lab() -> None:
    with LabDirectory("one").locked():
        with (
            pytest.raises(FedsdnError, match="lab one is being built or removed by another"),
            LabDirectory("one").locked(),
        ):
            pass
        with LabDirectory("two").locked():
            assert lab_names() == ["one", "two"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a" * 33, "a\n", "ä"])
def test_a_name_that_is_no_directory_is_refused(name: str) -> None:
    with pytest.raises(FedsdnError, match="give --name with 1 to 32 letters"):
        LabDirectory(name)


def test_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert last_line(log) == f"{log}: empty"
    log.write_text("first\n  last  \n\n")
    assert last_line(log) == f"{log}: last"
