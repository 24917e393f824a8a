# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vif_driver import wire
from vif_driver.errors import BadRequest
from vif_driver.vnic import LAUNCH_FLAGS, PROPERTIES
from vif_driver.wire import Reply, Request

KNOWN = (*PROPERTIES, LAUNCH_FLAGS)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
REQUESTS = st.builds(
    Request,
    event=st.from_regex(r"[a-z][a-z_]{0,39}", fullmatch=True),
    properties=st.dictionaries(st.sampled_from(KNOWN), VALUES),
    data=st.binary(),
)
REPLIES = st.builds(
    Reply,
    status=st.integers(0, 2),
    message=VALUES,
    data=st.none() | st.binary(),
    launch_flags=st.integers(0, 2**31 - 1),
)


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
        assert set(properties) <= set(KNOWN)


@pytest.mark.parametrize(
    "block",
    [
        b"vnic_id=1",
        b"vnic_id\0",
        b"PATH=/bin\0",
        b"vnic_id=1\0vnic_id=2\0",
        b"vnic_id=\xff\0",
        b"=\0",
        b"launch_flags=0\0launch_flags=1\0",
    ],
)
def test_properties_outside_the_grammar_are_refused(block: bytes) -> None:
    with pytest.raises(BadRequest):
        wire.parse_properties(block)


def test_the_flags_of_a_vms_start_are_a_property_like_those_of_the_vnic() -> None:
    assert wire.parse_properties(b"vnic_id=1\0launch_flags=4\0") == {
        "vnic_id": "1",
        "launch_flags": "4",
    }


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"vif1 0 0 -\n",
        b"vif1 0 0 - x\n",
        b"vif1 0 0 - 1 1\n",
        b"vif2 0 0 - 1\n",
        b"vif1 0 0 - 1",
        b"vif1 0 0 - 1\nmore",
        b"vif1 0 1 - 0\n\xff",
    ],
)
def test_a_reply_outside_the_grammar_is_refused(frame: bytes) -> None:
    with pytest.raises(BadRequest, match="cannot be understood"):
        wire.decode_reply(frame)
