"""fedsdn policy: which rule decides, by file and line, and a table of expectations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsdn.config.document import ConfigError
from fedsdn.config.expectations import read_expectations, unmet
from fedsdn.config.loader import dump_federation, load_federation
from tests.unit.federations import three_sites

RULES = """\
groups:
  web: [10.2.0.16/28, "fd00:2::10/124"]
allow:
  - {from: a, to: web, protocol: tcp, ports: [80, 443]}
  - {from: [b, c], to: 10.1.0.11}
  - {protocol: icmp}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    one = tmp_path / "federation.yaml"
    one.write_text(dump_federation(three_sites()) + RULES)
    return one


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "expectations.yaml"


def policy(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedsdn.cli.main", "policy", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"LANG": "C.UTF-8"},
    )


def line_of(file: Path, text: str) -> int:
    return next(
        number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line
    )


def test_check_says_which_rule_decides_and_where_it_is(file: Path) -> None:
    at = f"{file}:{line_of(file, '- {from: a, to: web')}"
    done = policy("check", "10.1.0.11", "10.2.0.17:443", "--federation", file)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"allowed: allow[0]: from a to web, tcp ports 80, 443 ({at})\n",
        "",
    )
    done = policy("check", "10.1.0.11", "10.2.0.17:22", "--federation", file)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "refused: no rule allows tcp from 10.1.0.11 to 10.2.0.17 port 22 (site a to site b): "
        f"the nearest is allow[0], from a to web, tcp ports 80, 443 ({at})\n",
        "",
    )


def test_check_tells_programs_too(file: Path) -> None:
    asked = ("fd00:2::11", "fd00:3::11", "--protocol", "icmp")
    done = policy("check", *asked, "--json", "--federation", file)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "allowed": True,
        "why": "allow[2]: icmp",
        "rule": {
            "name": "allow[2]",
            "text": "icmp",
            "file": str(file),
            "line": line_of(file, "protocol: icmp"),
        },
        "nearest": None,
    }
    done = policy("check", "10.1.0.11", "10.2.0.17:22", "--json", "--federation", file)
    refused = json.loads(done.stdout)
    assert (done.returncode, refused["allowed"], refused["rule"]) == (1, False, None)
    assert refused["nearest"] == {
        "name": "allow[0]",
        "text": "from a to web, tcp ports 80, 443",
        "file": str(file),
        "line": line_of(file, "- {from: a, to: web"),
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("10.1.0.11", "10.2.0.11"), "'10.2.0.11' has no port: write it behind, as "),
        (("10.1.0.11", "10.2.0.11:80", "--protocol", "icmp"), "'10.2.0.11:80' has a port, ICMP "),
        (("10.1.0.11", "[fd00:2::11]:80"), "10.1.0.11 and fd00:2::11 are of different families"),
        (("a", "10.2.0.11:80"), "'a' is no address: write "),
        (("10.1.0.11:5", "10.2.0.11:80"), "'10.1.0.11:5' has a port, rules know of no client's: "),
    ],
)
def test_what_cannot_be_said_is_one_line_and_exit_status_2(
    file: Path, asked: tuple[str, ...], said: str
) -> None:
    done = policy("check", *asked, "--federation", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fedsdn: {said}")
    assert done.stderr.count("\n") == 1


TABLE = """\
- {from: 10.1.0.11, to: [10.2.0.17, "fd00:2::11"], ports: [80, 443], expect: allowed}
- {from: "fd00:1::11", to: "fd00:2::11", ports: 80, protocol: udp, expect: refused}
- from: [10.2.0.11, 10.3.0.11, "fd00:3::11"]
  to: [10.1.0.11, "fd00:1::11"]
  ports: 22
  expect: allowed
- {from: 10.1.0.11, to: 10.3.0.11, protocol: icmp, expect: allowed}
- {from: 10.1.0.11, to: 10.2.0.255, ports: 80, expect: refused}
"""


def test_a_table_is_held_against_the_rules(file: Path, table: Path) -> None:
    table.write_text(TABLE)
    done = policy("test", table, "--federation", file)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"{table}:3: tcp from fd00:3::11 to fd00:1::11 port 22: expected allowed, found refused: "
        "no rule allows tcp from fd00:3::11 to fd00:1::11 port 22 (site c to site a): "
        f"the nearest is allow[2], icmp ({file}:{line_of(file, 'protocol: icmp')})",
        "7 of 8 expectations met",
    ]
    table.write_text(TABLE.replace(', "fd00:3::11"]', "]"))
    done = policy("test", table, "--federation", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7 of 7 expectations met\n", "")


def test_a_table_tells_programs_too(file: Path, table: Path) -> None:
    table.write_text("- {from: 10.1.0.11, to: 10.2.0.17, ports: 80, expect: refused}")
    report = json.loads(policy("test", table, "--json", "--federation", file).stdout)
    assert report["expectations"] == 1
    (one,) = report["unmet"]
    assert one["found"]["rule"]["name"] == "allow[0]"
    assert (one["line"], one["expected"]) == (1, "refused")


BAD = {
    "no list": ("x: 1", "found a mapping of 1; write a list of expectations, as "),
    "no expectation": ("[]", "found an empty list; write a list of expectations, as "),
    "what": ("- {from: 10.1.0.11, to: 10.2.0.11, ports: 80}", "[0].expect: found nothing; write "),
    "no port": (
        "- {from: 10.1.0.11, to: 10.2.0.11, expect: allowed}",
        "[0].ports: found nothing; write a port of the destination, 1 to 65535, or a list of these",
    ),
    "a port of ICMP": (
        "- {from: 10.1.0.11, to: 10.2.0.11, ports: 80, protocol: icmp, expect: allowed}",
        "[0].ports: found ports of ICMP, which has none; write 'ports' with 'tcp' or 'udp' alone",
    ),
    "two families": (
        "- {from: 10.1.0.11, to: 'fd00:2::11', ports: 80, expect: allowed}",
        "[0].to: found no address of the IP version of one under 'from'; "
        "write addresses of one IP version",
    ),
    "no address": (
        "- {from: a, to: 10.2.0.11, ports: 80, expect: allowed}",
        "[0].from: found 'a'; write an IPv4 or IPv6 address, as '192.0.2.1' or 'fd00::1'",
    ),
    "port 0": (
        "- {from: 10.1.0.11, to: 10.2.0.11, ports: 0, expect: allowed}",
        "[0].ports: found the number 0; write a port of the destination, 1 to 65535, or a list",
    ),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_table_has_one_message(table: Path, text: str, said: str) -> None:
    table.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_expectations(table)
    assert str(caught.value).startswith(f"{table}:1: {said}")


def test_a_bad_table_is_exit_status_2(file: Path, table: Path) -> None:
    table.write_text("[]")
    done = policy("test", table, "--federation", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fedsdn: {table}:1: found an empty list")


def test_without_rules_everything_between_sites_is_allowed(tmp_path: Path, table: Path) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text(dump_federation(three_sites()))
    table.write_text("- {from: 10.1.0.11, to: 10.2.0.17, ports: [1, 65535], expect: allowed}")
    assert unmet(load_federation(file), read_expectations(table)) == []


@pytest.mark.parametrize("asked", [("check", "10.1.0.11", "10.2.0.17:443"), ("--help",)])
def test_an_answer_that_cannot_be_written_is_no_answer(file: Path, asked: tuple[str, ...]) -> None:
    """Neither 0 nor 1, which say what the rules decide."""
    where = () if asked == ("--help",) else ("--federation", file)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fedsdn.cli.main", "policy", *asked, *map(str, where)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr == "fedsdn: the output cannot be written: No space left on device\n"


def test_an_answer_that_nobody_reads_is_no_traceback(file: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    asked = ("10.1.0.11", "10.2.0.17:443", "--federation", str(file))
    done = subprocess.run(
        [sys.executable, "-m", "fedsdn.cli.main", "policy", "check", *asked],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
