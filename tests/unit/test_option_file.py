# SPDX-License-Identifier: GPL-2.0-or-later
"""Options are set in files of oslo.config's format, and nothing else in them changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vif_driver.configuration.option_file import OptionFile
from vif_driver.errors import ConfigError

PATH = Path("/etc/neutron/neutron.conf")

SAMPLE = """\
[DEFAULT]
# How to reach it, and more.
#transport_url = rabbit://
debug = True   # no comment but part of the value

[ovs]
; the old ones
bridge_mappings = p1:br-1
multi = one
multi = two
long = a,
  b,
  c

[unknown]
what : ever
"""


def edited(text: str, section: str, option: str, value: str) -> str:
    file = OptionFile(text.encode(), PATH)
    file.set(section, option, value)
    return file.raw.decode()


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        ("DEFAULT", "debug", "True   # no comment but part of the value"),
        ("ovs", "bridge_mappings", "p1:br-1"),
        ("OVS", "multi", "two"),
        ("ovs", "long", "a,\nb,\nc"),
        ("unknown", "what", "ever"),
        ("DEFAULT", "transport_url", None),
        ("default", "debug", None),
    ],
)
def test_values_are_those_that_oslo_config_finds(
    section: str, option: str, value: str | None
) -> None:
    assert OptionFile(SAMPLE.encode(), PATH).get(section, option) == value


def test_quotes_around_a_value_do_not_belong_to_it() -> None:
    file = OptionFile(b"[a]\nb = 'c d'\ne=\"\n", PATH)

    assert (file.get("a", "b"), file.get("a", "e")) == ("c d", "")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("[DEFAULT]\nno option\n", 2, "sets no option"),
        ("[DEFAULT]\n= x\n", 2, "sets no option"),
        ("[DEFAULT\n", 1, "is no section"),
        ("[]\n", 1, "is no section"),
        ("a = b\n", 1, "stands before the first section"),
        ("[a]\n  b = c\n", 2, "continues nothing"),
        ("[a]\nb = c\n# d\n  e\n", 4, "continues nothing"),
    ],
)
def test_a_file_that_oslo_config_refuses_is_refused(text: str, line: int, what: str) -> None:
    with pytest.raises(ConfigError) as raised:
        OptionFile(text.encode(), PATH)

    assert str(raised.value).startswith(f"{PATH}: line {line} {what}; ")


def test_what_is_wrong_is_not_quoted_since_it_may_be_a_secret() -> None:
    with pytest.raises(ConfigError) as raised:
        OptionFile(b"[DEFAULT]\nrabbit//user-secret\n", PATH)

    assert "secret" not in str(raised.value)


# ---- setting -------------------------------------------------------------------------------------


def test_a_set_option_gets_its_new_value_and_all_else_stays() -> None:
    changed = edited(SAMPLE, "ovs", "bridge_mappings", "p1:br-2")

    assert changed == SAMPLE.replace("p1:br-1", "p1:br-2")


def test_a_new_option_stands_below_its_commented_sample() -> None:
    changed = edited(SAMPLE, "DEFAULT", "transport_url", "rabbit://mq/")

    sample = "#transport_url = rabbit://\n"
    assert changed == SAMPLE.replace(sample, sample + "transport_url = rabbit://mq/\n")


def test_a_sample_of_another_section_is_none() -> None:
    changed = edited(SAMPLE + "[last]\n", "last", "transport_url", "x")

    assert changed == SAMPLE + "[last]\ntransport_url = x\n"


def test_a_new_option_without_a_sample_stands_after_the_last_of_its_section() -> None:
    changed = edited(SAMPLE, "ovs", "new", "1")

    assert changed == SAMPLE.replace("  c\n", "  c\nnew = 1\n")


def test_a_new_section_is_the_last() -> None:
    assert edited(SAMPLE, "agent", "new", "1") == SAMPLE + "\n[agent]\nnew = 1\n"


def test_of_several_values_the_last_is_set() -> None:
    assert edited(SAMPLE, "ovs", "multi", "2") == SAMPLE.replace("multi = two", "multi = 2")


def test_a_value_of_several_lines_becomes_one_of_one() -> None:
    changed = edited(SAMPLE, "ovs", "long", "d")

    assert changed == SAMPLE.replace("long = a,\n  b,\n  c\n", "long = d\n")


def test_a_value_that_is_so_already_changes_nothing() -> None:
    file = OptionFile(b"[a]\nb='c'\n", PATH)

    assert not file.set("a", "b", "c")
    assert file.raw == b"[a]\nb='c'\n"


@pytest.mark.parametrize("text", ["[a]\r\nb=c\r\n", "[a]\r\nb=c", "[a]\nb : c", "[a]\nb=\n"])
def test_the_way_a_line_is_written_stays(text: str) -> None:
    changed = edited(text, "a", "b", "d")

    expected = {"[a]\nb=\n": "[a]\nb= d\n"}
    assert changed == expected.get(text, text.replace("c", "d"))


def test_a_last_line_without_end_gets_one_when_another_follows() -> None:
    assert edited("[a]\r\nb=c", "a", "d", "e") == "[a]\r\nb=c\r\nd = e\r\n"


def test_an_empty_file_can_be_written_to() -> None:
    assert edited("", "a", "b", "c") == "[a]\nb = c\n"


def test_bytes_that_are_no_text_survive() -> None:
    file = OptionFile(b"[a]\n# caf\xe9\nb = \xff\n", PATH)

    file.set("a", "c", "d")

    assert file.raw == b"[a]\n# caf\xe9\nb = \xff\nc = d\n"


def test_what_was_set_can_be_removed() -> None:
    file = OptionFile(SAMPLE.encode(), PATH)
    file.set("DEFAULT", "transport_url", "x")

    assert file.remove("DEFAULT", "transport_url")
    assert not file.remove("DEFAULT", "transport_url")
    assert file.raw.decode() == SAMPLE


# ---- any file ------------------------------------------------------------------------------------

SECTIONS = ("DEFAULT", "ovs", "AGENT", "agent")
OPTIONS = ("one", "two", "transport_url")
values = st.text("abz:=#;,/ '\"%", max_size=6).map(str.strip)
lines = st.one_of(
    st.sampled_from(["", "   ", "# a comment", ";x = y", "#one = 1", "#two=", "# café"]),
    st.sampled_from(SECTIONS).map("[{}]".format),
    st.builds(
        "{}{}{}".format, st.sampled_from(OPTIONS), st.sampled_from(["=", " = ", ": "]), values
    ),
    values.map("   {}".format),
)
contents = st.builds(
    lambda body, ending, last: ending.join(["[DEFAULT]", *body]) + (ending if last else ""),
    st.lists(lines, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
plain_values = st.text("abz:=#;,/%", min_size=1, max_size=8)


def _readable(text: str) -> OptionFile | None:
    try:
        return OptionFile(text.encode(), PATH)
    except ConfigError:
        return None


@given(contents, st.sampled_from(SECTIONS), st.sampled_from(OPTIONS), plain_values)
def test_what_is_set_is_what_is_read_and_everything_else_reads_as_before(
    text: str, section: str, option: str, value: str
) -> None:
    file = _readable(text)
    if file is None:
        return
    others = {
        (other, name): file.get(other, name)
        for other in SECTIONS
        for name in OPTIONS
        if (other.lower(), name) != (section.lower(), option)
    }

    file.set(section, option, value)

    again = OptionFile(file.raw, PATH)
    assert again.get(section, option) == value
    assert {key: again.get(*key) for key in others} == others
    assert not again.set(section, option, value)


@given(contents, st.sampled_from(SECTIONS), st.sampled_from(OPTIONS), plain_values)
def test_no_comment_and_no_other_line_is_touched(
    text: str, section: str, option: str, value: str
) -> None:
    file = _readable(text)
    if file is None:
        return

    file.set(section, option, value)

    after = file.raw.decode().splitlines()
    kept = iter(after)
    remarks = [line for line in text.splitlines() if line[:1] in ("#", ";", "[")]
    assert all(line in kept for line in remarks)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oslo") / "file.conf"


@settings(max_examples=60)
@given(text=contents)
def test_oslo_config_reads_the_same(on_disk: Path, text: str) -> None:
    cfg = pytest.importorskip("oslo_config.cfg")
    on_disk.write_bytes(text.encode())
    file = _readable(text)
    found: dict[str, dict[str, list[str]]] = {}
    parser = cfg.ConfigParser(str(on_disk), found)
    try:
        parser.parse()
    except cfg.ParseError:
        assert file is None
        return
    assert file is not None
    for section in {"DEFAULT", "ovs"} & found.keys():
        for option, values in found[section].items():
            assert file.get(section, option) == values[-1]
