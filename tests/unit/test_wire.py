# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vif_driver import wire
from vif_driver.errors import BadRequest
from vif_driver.vnic import PROPERTIES
from vif_driver.wire import Reply, Request

VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
REQUESTS = st.builds(
    Request,
    event=st.from_regex(r"[a-z][a-z_]{0,39}", fullmatch=True),
    properties=st.dictionaries(st.sampled_from(PROPERTIES), VALUES),
    data=st.binary(),
)
REPLIES = st.builds(Reply, status=st.integers(0, 2), message=VALUES, data=st.none() | st.binary())


def decode_request(frame: bytes) -> Request:
    header, rest = frame[: frame.index(b"\n") + 1], frame[frame.index(b"\n") + 1 :]
    event, properties_length, data_length = wire.parse_header(header)
    properties, data = rest[:properties_length], rest[properties_length:]
    assert len(data) == data_length
    return Request(event, wire.parse_properties(properties), data)


@given(REQUESTS)
def test_a_request_arrives_as_it_was_sent(request: Request) -> None:
    assert decode_request(wire.encode_request(request)) == request


@given(REPLIES)
def test_a_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    assert wire.decode_reply(wire.encode_reply(reply)) == reply


@given(REPLIES, st.data())
def test_a_reply_that_is_cut_off_is_never_taken_for_whole(
    reply: Reply, data: st.DataObject
) -> None:
    frame = wire.encode_reply(reply)
    cut = frame[: data.draw(st.integers(0, len(frame) - 1))]

    try:
        decoded = wire.decode_reply(cut)
    except BadRequest:
        return
    raise AssertionError(decoded)


@given(st.binary(max_size=200))
def test_any_header_is_understood_or_refused(header: bytes) -> None:
    try:
        wire.parse_header(header)
    except BadRequest as refusal:
        assert refusal.remedy


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\n",
        b"vif2 before_device_create 0 0\n",
        b"vif1 before_device_create 0 0",
        b"vif1 before_device_create 0 0\r\n",
        b"vif1 before_device_create -1 0\n",
        b"vif1 before_device_create 01 0\n",
        b"vif1 ../../bin/sh 0 0\n",
        b"vif1 before_device_create 0 99999999999999\n",
        b"vif1 before_device_create 0 1048577\n",
        b"vif1 before_device_create 65537 0\n",
    ],
)
def test_a_header_outside_the_grammar_or_the_limits_is_refused(header: bytes) -> None:
    with pytest.raises(BadRequest):
        wire.parse_header(header)


@given(st.binary(max_size=200))
def test_any_properties_are_understood_or_refused(block: bytes) -> None:
    try:
        properties = wire.parse_properties(block)
    except BadRequest as refusal:
        assert refusal.remedy
    else:
        assert set(properties) <= set(PROPERTIES)


@pytest.mark.parametrize(
    "block",
    [
        b"vnic_id=1",
        b"vnic_id\0",
        b"PATH=/bin\0",
        b"vnic_id=1\0vnic_id=2\0",
        b"vnic_id=\xff\0",
        b"=\0",
    ],
)
def test_properties_outside_the_grammar_are_refused(block: bytes) -> None:
    with pytest.raises(BadRequest):
        wire.parse_properties(block)
