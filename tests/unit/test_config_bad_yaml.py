"""Every file that is no YAML, or more than plain YAML, gives one exact line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsdn.config.document import ConfigError, parse_document
from fedsdn.config.loader import load_federation, parse_federation
from tests.unit.bad_files import FILE, GOOD, UP1, A, message

KEYS = (
    "the keys 'proxy_port', 'encryption', 'pairs', 'probes', 'datagrams', "
    "'sites', 'groups' and 'allow'"
)

BAD = {
    "empty": (
        GOOD,
        "",
        f"1: found nothing; write {KEYS}",
    ),
    "comment only": (
        GOOD,
        "# x",
        f"1: found nothing; write {KEYS}",
    ),
    "a word": (
        GOOD,
        "hello",
        f"1: found 'hello'; write {KEYS}",
    ),
    "a list": (
        GOOD,
        "[]",
        f"1: found an empty list; write {KEYS}",
    ),
    "unclosed": (
        GOOD,
        "sites: {a: [1,",
        "1: found no YAML at column 15 (expected the node content, but found '<stream end>'); "
        "write YAML",
    ),
    "tab": (
        "    prefixes",
        "\tprefixes",
        "5: found no YAML at column 1 (found character '\\t' that cannot start any token); "
        "write spaces instead of tabs",
    ),
    "IPv6 ending in a colon": (
        "fd00:1::2",
        "fd00:1::",
        "9: found no YAML at column 31 (mapping values are not allowed here); "
        "write 'KEY: VALUE', with IPv6 addresses in quotes",
    ),
    "two documents": (
        "sites:",
        "---\nsites:",
        "2: found a second YAML document; write one",
    ),
    "control character": (
        "eth1",
        "et\x07h1",
        "12: found the character '\\x07', which YAML does not allow; write the file as plain text",
    ),
    "too deep": (
        GOOD,
        "[" * 5000,
        "1: found lists or mappings nested too deep; write fewer levels",
    ),
    "bad escape": (
        "eth1",
        '"\\UFFFFFFFF"',
        "12: found an escape or directive that YAML does not have; write plain text",
    ),
    "duplicate key": (
        "  b:",
        "  a:",
        "18: sites.a: found the same key as on line 3; write each key once",
    ),
    "key that is a list": (
        "proxy_port: 1080",
        "[1]: 2",
        "1: found a list or mapping as key; write a name as key",
    ),
    "tag": (
        "eth1",
        "!secret eth1",
        f"12: {A}.{UP1}.port: found the tag '!secret'; write the value without a tag",
    ),
    "tag that libyaml alone refuses": (
        "eth1",
        "!]",
        "12: found no YAML at column 16 (did not find expected whitespace or line break); "
        "write YAML",
    ),
    "alias to itself": (
        GOOD,
        "sites: &x\n  a: *x",
        "2: sites.a: found an alias to the value it is part of; write the value itself",
    ),
    "alias without anchor": (
        "eth1",
        "*port",
        f"12: {A}.{UP1}.port: found the alias '*port' without an anchor before it; "
        "write the value itself",
    ),
    "alias as key": (
        "port: eth1",
        "&x port: eth1\n        *x : eth1",
        f"13: {A}.{UP1}: found an alias as key; write a name as key",
    ),
    "aliases without end": (
        GOOD,
        "a: &a [1,2,3,4,5,6,7,8,9]\n"
        + "".join(
            f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]\n"
            for m, n in zip("abcde", "bcdef", strict=True)
        ),
        "1: found aliases to more than 100000 values; write fewer aliases",
    ),
}


@pytest.mark.parametrize(("old", "new", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_file_has_one_exact_message(old: str, new: str, expected: str) -> None:
    assert message(old, new) == f"federation.yaml:{expected}"


def test_the_file_they_are_made_from_is_good() -> None:
    assert len(parse_federation(parse_document(GOOD, FILE), of_lab=True).sites) == 2


def test_a_large_file_is_no_fault() -> None:
    """What aliases may stand for is limited, not what a file holds itself."""
    document = parse_document("\n".join(["a:", *["- [1]"] * 60_000, "b: [&x [1], *x, *x]"]), FILE)
    assert document.value == {"a": [[1]] * 60_000, "b": [[1], [1], [1]]}
    assert document.section("a").section(59_999).line == 60_001


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    with pytest.raises(ConfigError) as caught:
        load_federation(path)
    assert str(caught.value) == (
        f"{path}: found no readable file (No such file or directory); write the path of a YAML file"
    )


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_federation(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: found no readable file (Is a directory); write the path of a YAML file"
    )


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    path.write_bytes(b"# one\n# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_federation(path)
    assert str(caught.value) == (
        f"{path}:2: found the byte 0xe9, which is not UTF-8; write the file in UTF-8"
    )
