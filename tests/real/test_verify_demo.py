"""The demo, as far as a test has time for: whatever stops it, the lab goes with it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedsdn.lab.state import lab_names

pytestmark = pytest.mark.real

FEDSDN = str(Path(sys.executable).parent / "fedsdn")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["wires", "one connection at a time"])
def test_an_interrupted_demo_takes_its_lab_along(
    lab_name: str, tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    command = [FEDSDN, "demo", "--name", lab_name, "--output", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any(moment in line for line in demo.stdout)
        assert lab_name in lab_names()
        demo.send_signal(number)
        demo.communicate(timeout=60)
    assert demo.returncode != 0
    assert lab_name not in lab_names()


def test_a_topology_that_is_not_there_is_one_line(lab_name: str, tmp_path: Path) -> None:
    command = [FEDSDN, "demo", "--name", lab_name, "--topology", "nowhere.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "nowhere.yaml" in done.stderr
    assert not list(tmp_path.iterdir())
