"""A file that is read again says what a whole read of it says, good or bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsdn.config import sections
from fedsdn.config.document import ConfigError, Document, parse_document
from fedsdn.config.identities import identity_document
from fedsdn.config.loader import dump_federation, load_federation
from fedsdn.config.model import Federation
from fedsdn.config.sections import FederationReader
from tests.unit.bad_files import GOOD
from tests.unit.federations import own_identity, three_sites, with_identities

WRITTEN = dump_federation(three_sites())

BY_HAND = with_identities(f"""\
# All sites.
{GOOD}\
  # The third one.

  c:
    provider_network: {{bridge: 'br-provider', "type": flat}}   # as at a
    prefixes:
      # VMs
      - {{prefix: 10.3.0.0/24, proxy_address: 10.3.0.2}}
    uplinks: {{up1: {{port: eth1, address: 198.18.0.2/24, gateway: 198.18.0.1, \
mac: dynamic, gateway_mac: 00:00:5e:00:01:01}}}}
probes: {{"hold_ms": 100}}  # the default: with {{signs}}, 'of' YAML
encryption: none
pairs:
  - {{sites: [c, a], encryption: tls}}
groups: {{web: [c, 10.1.0.11]}}
allow:
  - {{from: web, to: a, ports: [80, 8000-8099]}}
  - to: c
""")

LINES = [
    *BY_HAND.splitlines(),
    *WRITTEN.splitlines(),
    *(
        "",
        "# Grüße …",
        "# \u2028",
        "# \x85 x",
        "  d:",
        "  a: {}",
        "sites:",
        "sites: {}",
        "---",
        "...",
        "%YAML 1.2",
        "  - x",
    ),
    *("    proxy: socks5", "    proxy: 'socks5", "    '", "    source_restore: |", "      nat"),
    *("    provider_network: &same {bridge: br1}", "    provider_network: *same", "    ? proxy"),
    *("    uplinks: {", "    }", "\tx: 1", "federation:", "  'a':", "   a:", " a:", "    <<: x"),
    *("    bridge:", "    prefixes: [", "    ]", '    "proxy": "fedsdn"', "proxy_port: 1081"),
    *("      - prefix: 10.1.0.0/16", "        address: 192.0.2.1/24", "        port: server"),
    *("encryption: tls", "pairs: []", "pairs:", "  - {sites: [b, a], encryption: none}"),
    *("groups: {web: [c, 10.1.0.11]}", "allow: []", "  - from: c", "    ports: [80, 90-99]"),
    *("  c: # comment", "  c: &c", "  c: !x", "  a b:", "  c:  ", "  c:\r", "  c:\x85", "\ufeff"),
]


def whole(text: str, path: Path) -> Federation | str:
    path.write_text(text, newline="")
    try:
        return load_federation(path)
    except ConfigError as error:
        return str(error)


def again(reader: FederationReader) -> Federation | str:
    try:
        return reader.read()
    except ConfigError as error:
        return str(error)


@st.composite
def edited(draw: st.DrawFn, text: str) -> str:
    """Change some lines or characters of a text as an editor might."""
    lines = text.split("\n")
    places = st.integers(0, len(lines))
    first, last = sorted((draw(places), draw(places)))
    first = draw(st.sampled_from([first, max(first, last - 3), max(first, last - 1)]))
    block = lines[first:last]
    match draw(st.sampled_from(["put", "delete", "move", "copy", "indent", "characters", "port"])):
        case "put":
            lines[first:first] = draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=3))
        case "delete":
            del lines[first:last]
        case "move":
            del lines[first:last]
            to = draw(st.integers(0, len(lines)))
            lines[to:to] = block
        case "copy":
            to = draw(places)
            lines[to:to] = block
        case "indent":
            by = draw(st.sampled_from([-2, -1, 1, 2]))
            lines[first:last] = [" " * by + line if by > 0 else line[-by:] for line in block]
        case "characters":
            start = draw(st.integers(0, len(text)))
            new = draw(
                st.text(st.sampled_from("ab:[]{}&*!|>'\"#-\n\t \\1./,\r\x85\u2028"), max_size=3)
            )
            return text[:start] + new + text[start + draw(st.integers(0, 3)) :]
        case _:
            return text.replace("1", draw(st.sampled_from("1234")), draw(st.integers(0, 9)))
    return "\n".join(lines)


@settings(max_examples=300)
@given(st.sampled_from([WRITTEN, BY_HAND]), st.data())
def test_whatever_was_edited_is_read_as_if_it_were_new(
    tmp_path_factory: pytest.TempPathFactory, text: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "federation.yaml"
    assert isinstance(whole(text, path), Federation)
    reader = FederationReader(path)
    reader.read()
    for _ in range(data.draw(st.integers(1, 3))):
        text = data.draw(edited(text))
        assert whole(text, path) == again(reader), text


IN_ONE_LINE = (
    "  z: {prefixes: [{prefix: 10.9.0.0/24, proxy_address: 10.9.0.2}], "
    "uplinks: {up1: {port: eth1, address: 198.18.9.2/24, gateway: 198.18.9.1}}}\n"
)
MISS = "      table_miss: normal"

TRICKS = {
    "the first site in one line": BY_HAND.replace("  a:\n", IN_ONE_LINE + "  a:\n"),
    "a later site in one line": BY_HAND.replace("  b:\n", IN_ONE_LINE + "  b:\n"),
    "the last site in one line": BY_HAND.replace("probes:", IN_ONE_LINE + "probes:"),
    "a site twice": BY_HAND.replace("probes:", "  a:\n    proxy: socks5\nprobes:"),
    "a site twice, word by word": BY_HAND.replace(
        "probes:", BY_HAND[BY_HAND.index("  c:\n") : BY_HAND.index("probes:")] + "probes:"
    ),
    "sites twice": BY_HAND + "sites:\n  a:\n    proxy: socks5\n",
    "sites in a value before them": BY_HAND.replace("encryption: none\n", "").replace(
        "# All sites.", "encryption: 'tls,\nsites:\n  a:\n    b: c\n'"
    ),
    "a site in a value behind them": BY_HAND.replace(
        "encryption: none\n", "encryption: 'tls,\n  b:\n\n with'\n"
    ),
    "a site in a comment": BY_HAND.replace("  b:\n", "  #b:\n  b:\n"),
    "a name in quotes": BY_HAND.replace("  b:\n", "  'b':\n"),
    "a name with a comment": BY_HAND.replace("  b:\n", "  b: # second\n"),
    "no line feed at the end": BY_HAND.rstrip(),
    "sites at another depth": BY_HAND.replace("\n  ", "\n    "),
    "only two sites": BY_HAND[: BY_HAND.index("  # The third")],
    "only one site": BY_HAND[: BY_HAND.index("  b:\n")],
    "a name like a number": BY_HAND.replace("  b:\n", "  1:\n"),
    "a name like nothing": BY_HAND.replace("  b:\n", "  null:\n"),
}


@pytest.mark.parametrize("text", TRICKS.values(), ids=TRICKS.keys())
def test_what_is_not_where_it_seems_is_read_right(tmp_path: Path, text: str) -> None:
    """With a site changed, too, so that not all is as it was."""
    path = tmp_path / "federation.yaml"
    for after in (text, text.replace("eth1", "eth9", 1)):
        path.write_text(BY_HAND)
        reader = FederationReader(path)
        reader.read()
        assert whole(after, path) == again(reader)
        back = after.replace("198.51.100.2/24", "198.51.100.3/24")
        assert whole(back, path) == again(reader)


def test_an_alias_in_a_site_that_is_as_before_means_what_is_new(tmp_path: Path) -> None:
    """Site c is changed by the anchor in site a, though its own text is as it was."""
    path = tmp_path / "federation.yaml"
    first, other, last = WRITTEN.replace(MISS, "      table_miss: &miss none", 1).rpartition(MISS)
    before = f"{first}      table_miss: *miss{last}"
    path.write_text(before)
    reader = FederationReader(path)
    reader.read()
    federation = whole(before.replace("&miss none", "&miss normal"), path)
    assert other
    assert isinstance(federation, Federation)
    assert [site.provider_network.table_miss for site in federation.sites] == ["normal"] * 3
    assert again(reader) == federation
    path.write_text(before.replace("&miss none", "none"))
    assert "the alias '*miss' without an anchor" in str(again(reader))


def test_an_alias_means_the_nearest_anchor(tmp_path: Path) -> None:
    """A new site's alias is not taken for that of a site before the one it means."""
    path = tmp_path / "federation.yaml"
    first = WRITTEN.replace(MISS, "      table_miss: &same normal", 1)
    path.write_text(first)
    reader = FederationReader(path)
    reader.read()
    head, _, last = first.rpartition(MISS)
    middle = head.replace(MISS, "      table_miss: &same none")
    text = f"{middle}      table_miss: *same{last}"
    federation = whole(text, path)
    assert isinstance(federation, Federation)
    assert [site.provider_network.table_miss for site in federation.sites] == [
        *("normal", "none", "none")
    ]
    assert again(reader) == federation


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The sites that were parsed, read by read."""
    reads = []

    def noted(text: str, path: Path) -> Document:
        document = parse_document(text, path)
        reads.append(list(document.value["sites"]))
        return document

    monkeypatch.setattr(sections, "parse_document", noted)
    return reads


def _with_identity_of_d(text: str) -> str:
    """The text, in which site c has the identity of a site called d."""
    before, after = (identity_document(own_identity(name).identity) for name in "cd")
    for key in before:
        text = text.replace(before[key], after[key])
    return text


EDITS: dict[str, tuple[str, Callable[[str], str], list[str]]] = {
    "one site less": (WRITTEN, lambda text: text[: text.index("  c:\n")], ["a", "b"]),
    "another name and address": (
        WRITTEN,
        lambda text: _with_identity_of_d(text).replace("  c:\n", "  d:\n").replace("2.3/", "2.4/"),
        ["d", "a"],
    ),
    "a field of two sites": (
        BY_HAND,
        lambda text: text.replace("port: eth1", "port: e1"),
        ["a", "b", "c"],
    ),
    "a comment in one of them": (
        BY_HAND,
        lambda text: text.replace("# VMs", "# Our VMs …"),
        ["c", "a"],
    ),
    "what all share": (BY_HAND, lambda text: text.replace("1080", "1079"), ["a", "b"]),
    "what stands behind the sites": (
        BY_HAND,
        lambda text: text.replace("100}", "200}"),
        ["a", "b"],
    ),
}


@pytest.mark.parametrize(("text", "edit", "expected"), EDITS.values(), ids=EDITS.keys())
def test_sites_whose_text_is_as_before_are_not_parsed(
    parsed: list[list[str]],
    tmp_path: Path,
    text: str,
    edit: Callable[[str], str],
    expected: list[str],
) -> None:
    """But for those that make two of one: fewer are no federation."""
    path = tmp_path / "federation.yaml"
    path.write_text(text)
    reader = FederationReader(path)
    before = reader.read()
    path.write_text(edit(text))
    after = reader.read()
    assert after == load_federation(path)
    assert parsed == [["a", "b", "c"], expected]
    same = [site for site in after.sites if any(site is other for other in before.sites)]
    assert {site.name for site in after.sites} - {site.name for site in same} <= set(expected)


def test_after_an_error_what_was_known_still_is(parsed: list[list[str]], tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text(WRITTEN)
    reader = FederationReader(path)
    reader.read()
    path.write_text(WRITTEN.replace("192.0.2.3/", "192.0.2.1/"))
    with pytest.raises(
        ConfigError, match=r"sites\.c\.uplinks\.up1\.address: found '192\.0\.2\.1/24'"
    ):
        reader.read()
    path.write_text(WRITTEN.replace("192.0.2.3/", "192.0.2.33/"))
    reader.read()
    assert parsed[-1] == ["c", "a"]


def test_a_file_that_is_not_plain_is_read_as_a_whole(
    parsed: list[list[str]], tmp_path: Path
) -> None:
    path = tmp_path / "federation.yaml"
    text = WRITTEN.replace("bridge: br-provider", "bridge: &same br-provider", 1)
    path.write_text(text)
    reader = FederationReader(path)
    reader.read()
    path.write_text(
        text.replace("192.0.2.3/", "192.0.2.33/").replace("bridge: br-provider", "bridge: *same")
    )
    assert reader.read() == load_federation(path)
    assert parsed == [["a", "b", "c"]] * 2


NOT_PLAIN = {
    "what is before the sites": ("proxy_port: 1080", "proxy_port: &port 1080"),
    "what is behind the sites": ("encryption: none", "encryption: &encryption none"),
}


@pytest.mark.parametrize(("plain", "not_plain"), NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_where_what_is_around_the_sites_is_not_plain_all_are_parsed(
    parsed: list[list[str]], tmp_path: Path, plain: str, not_plain: str
) -> None:
    path = tmp_path / "federation.yaml"
    for text, expected in ((BY_HAND, ["c", "a"]), (BY_HAND.replace(plain, not_plain), None)):
        path.write_text(text)
        reader = FederationReader(path)
        reader.read()
        path.write_text(text.replace("198.18.0.2/24", "198.18.0.3/24"))
        assert reader.read() == load_federation(path)
        assert parsed[-1] == (expected or parsed[-2]), text


def test_a_new_site_that_is_not_plain_has_all_parsed(
    parsed: list[list[str]], tmp_path: Path
) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text(WRITTEN)
    reader = FederationReader(path)
    reader.read()
    path.write_text(WRITTEN.replace("bridge: br-provider", "bridge: &same br-provider", 1))
    assert reader.read() == load_federation(path)
    assert parsed == [["a", "b", "c"]] * 2
