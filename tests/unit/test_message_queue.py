# SPDX-License-Identifier: GPL-2.0-or-later
"""The message queue's address and credentials become a transport_url."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vif_driver.configuration.message_queue import (
    MessageQueue,
    parse_host,
    ports,
    read_password,
    read_password_file,
)
from vif_driver.errors import ConfigError

HOSTS = (("mq.example.com", 5672),)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("mq.example.com", ("mq.example.com", 5672)),
        ("mq:5671", ("mq", 5671)),
        ("192.0.2.7", ("192.0.2.7", 5672)),
        ("2001:db8::7", ("2001:db8::7", 5672)),
        ("[2001:db8::7]", ("2001:db8::7", 5672)),
        ("[2001:db8::7]:5671", ("2001:db8::7", 5671)),
    ],
)
def test_a_host_is_a_name_or_an_address(text: str, host: tuple[str, int]) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    ["", "mq:", "mq:0", "mq:70000", "mq:amqp", "a b", "[mq]", "[::1", "1.2.3", "-mq",
     "user@mq", "rabbit://mq", "mq/virtual", "mq,other", "$host", "fe80::1%eth0"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no host of a message queue; give a name"):
        parse_host(text)


def test_each_host_has_the_credentials() -> None:
    hosts = (("mq1", 5672), ("2001:db8::7", 5671))

    url = MessageQueue(hosts, "neutron", "secret", "/site").url

    assert url == "rabbit://neutron:secret@mq1:5672,neutron:secret@[2001:db8::7]:5671/%2Fsite"


def test_without_a_user_there_are_no_credentials() -> None:
    assert MessageQueue(HOSTS).url == "rabbit://mq.example.com:5672/"


def test_a_password_may_have_special_characters() -> None:
    url = MessageQueue(HOSTS, "u", "a:b@c,e$f%g'h i").url

    assert url == "rabbit://u:a%3Ab%40c%2Ce%24f%25g%27h%20i@mq.example.com:5672/"


@pytest.mark.parametrize(("user", "password"), [("a/b", "c"), ("a", "sec/ret")])
def test_a_slash_which_openstack_cannot_use_is_refused(user: str, password: str) -> None:
    with pytest.raises(ConfigError, match="has a slash") as raised:
        MessageQueue(HOSTS, user, password)

    assert "ret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("rabbit://u:p@mq:5671/", {5671}),
        ("rabbit://u:p@mq1,u:p@[::1]:5673/virtual?ssl=1", {5672, 5673}),
        ("rabbit://", set()),
        ("kombu+memory://mq:1/", set()),
    ],
)
def test_its_ports_are_known(url: str, found: set[int]) -> None:
    assert ports(url) == found


@given(*[st.text("aZ9é:@$%,' ?#&")] * 3)
def test_what_was_given_is_found_again(user: str, password: str, virtual: str) -> None:
    url = urlsplit(MessageQueue(HOSTS, user, password, virtual).url)

    login, _, place = url.netloc.rpartition("@")
    assert place == "mq.example.com:5672"
    assert [unquote(part) for part in login.split(":")] == [user, password]
    assert unquote(url.path[1:]) == virtual
    assert not url.query and not url.fragment


def test_nothing_that_is_shown_has_the_password() -> None:
    queue = MessageQueue(HOSTS, "neutron", "secret")

    assert str(queue) == "mq.example.com:5672 as neutron"
    assert "secret" not in repr(queue)


# ---- the password --------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"secret", b"secret\n", b"secret\r\n"])
def test_a_password_is_one_line(raw: bytes) -> None:
    assert read_password(raw, "it") == "secret"


@pytest.mark.parametrize("raw", [b"", b"\n", b"  \n", b"one\ntwo\n", b"x" * 2000])
def test_what_is_no_line_is_no_password(raw: bytes) -> None:
    with pytest.raises(ConfigError, match="standard input holds no password"):
        read_password(raw, "standard input")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="it is no text"):
        read_password(b"\xff\xfe", "it")


def test_control_characters_are_refused_without_being_quoted() -> None:
    with pytest.raises(ConfigError, match="control characters") as raised:
        read_password(b"sec\x07ret", "it")

    assert "ret;" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the password file .*/none cannot be read \(No such"):
        read_password_file(tmp_path / "none")


def test_a_password_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")

    assert read_password_file(tmp_path / "password") == "secret"
