# SPDX-License-Identifier: GPL-2.0-or-later
"""What reaches systemd's journal of a log line."""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest

from vif_driver import journal
from vif_driver.journal import JournalHandler, about
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import VM_ID, VNIC_ID

VNIC = VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, VM_ID)

# The socket of the journal is at a fixed place; this runs where /run is another one.
_LISTEN = """
import logging, pathlib, socket, sys

pathlib.Path("/run/systemd/journal").mkdir(parents=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
    journal.bind("/run/systemd/journal/socket")
    from vif_driver.journal import JournalHandler, about
    from vif_driver.vnic import Plugin, VnicIdentity

    logging.basicConfig(level=logging.DEBUG, handlers=[JournalHandler("vif-agent")])
    journal.settimeout(5)
    log = logging.getLogger("vif_driver.test")
    exec(sys.argv[1])
    sys.stdout.buffer.write(journal.recv(1 << 20))
"""


def entry(statement: str) -> dict[str, str]:
    """Give the journal's entry for a statement that logs."""
    where = 'mount -t tmpfs none /run && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", where, "sh", sys.executable, "-c", _LISTEN, statement],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    return parse(done.stdout)


def parse(datagram: bytes) -> dict[str, str]:
    """Take an entry apart (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    fields: dict[str, str] = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, separator, value = line.partition(b"=")
        if not separator:
            (length,) = struct.unpack_from("<Q", datagram)
            value, datagram = datagram[8 : 8 + length], datagram[8 + length + 1 :]
        fields[name.decode()] = value.decode()
    return fields


class Sink:
    """Stands in for systemd's module ``journal``."""

    def __init__(self) -> None:
        self.entries: list[dict[str, str]] = []

    def sendv(self, *lines: str) -> None:
        pairs = (line.partition("=") for line in lines)
        self.entries.append({name: value for name, _, value in pairs})


@pytest.fixture
def sink() -> Sink:
    """Keeps what is sent."""
    return Sink()


@pytest.fixture
def log(sink: Sink) -> logging.Logger:
    """A log of its own that goes to the sink."""
    handler = JournalHandler("vif-agent")
    handler._journal = sink
    logger = logging.Logger("vif_driver.test")
    logger.addHandler(handler)
    return logger


def test_a_line_arrives_in_the_journal_with_what_it_is_about() -> None:
    vnic = f"VnicIdentity({VNIC_ID!r}, Plugin.OPEN_VSWITCH, {VM_ID!r})"

    fields = entry(f"log.warning('a\\nb %s', 5, extra=about({vnic}, event='x', seconds=0.25))")

    expected = {
        "MESSAGE": "a\nb 5",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "vif-agent",
        "LOGGER": "vif_driver.test",
        "VIF_VNIC": VNIC_ID,
        "VIF_VM": VM_ID,
        "VIF_EVENT": "x",
        "VIF_DURATION_MS": "250.0",
    }
    assert {name: fields.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, "3"),
        (logging.ERROR, "3"),
        (logging.WARNING, "4"),
        (logging.INFO, "6"),
        (logging.DEBUG, "7"),
    ],
)
def test_a_level_is_told_as_syslogs_priority(
    log: logging.Logger, sink: Sink, level: int, priority: str
) -> None:
    log.log(level, "something")

    assert [line["PRIORITY"] for line in sink.entries] == [priority]


def test_a_line_about_nothing_has_no_field_of_ours(log: logging.Logger, sink: Sink) -> None:
    log.info("something")

    assert not [name for name in sink.entries[0] if name.startswith("VIF_")]


def test_an_exception_is_a_field_and_no_line_of_its_own(log: logging.Logger, sink: Sink) -> None:
    try:
        raise KeyError("the reason")
    except KeyError:
        log.exception("failed")

    assert sink.entries[0]["MESSAGE"] == "failed"
    assert "KeyError: 'the reason'" in sink.entries[0]["EXCEPTION_TEXT"]


def test_what_is_about_a_vm_names_no_vnic() -> None:
    assert about(vm=VM_ID)["vif_fields"] == {"VIF_VM": VM_ID}


def test_what_is_about_a_vnic_names_its_vm() -> None:
    assert about(VNIC)["vif_fields"] == {"VIF_VNIC": VNIC_ID, "VIF_VM": VM_ID}


def test_what_is_about_no_more_than_the_id_of_a_vnic_names_that_and_its_vm() -> None:
    fields = about(vm=VM_ID, vnic_id=VNIC_ID)["vif_fields"]

    assert fields == {"VIF_VM": VM_ID, "VIF_VNIC": VNIC_ID}


def test_a_vnic_is_not_overruled_by_an_id_beside_it() -> None:
    assert about(VNIC, vnic_id="other")["vif_fields"]["VIF_VNIC"] == VNIC_ID


def test_what_is_about_a_row_has_it_whole_and_where_it_was() -> None:
    row = {"Port": {"tag": 7, "name": "tap1"}, "bridge": "br-int"}

    fields = about(row=row, row_id=VNIC_ID)["vif_fields"]

    assert json.loads(fields["VIF_ROW"]) == row
    assert fields["VIF_ROW_ID"] == VNIC_ID


def test_a_journal_that_takes_nothing_does_not_raise(
    log: logging.Logger, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sendv(*_: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(sink, "sendv", sendv)
    monkeypatch.setattr(logging, "raiseExceptions", False)

    log.info("something")


def test_a_program_that_is_no_service_sends_its_line_to_the_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []
    of_systemd = types.SimpleNamespace(sendv=lambda *fields: sent.extend(fields))
    monkeypatch.setitem(sys.modules, "systemd", types.SimpleNamespace(journal=of_systemd))

    journal.send("vifctl", "eth3 is allowed")

    assert sent == ["MESSAGE=eth3 is allowed", "PRIORITY=5", "SYSLOG_IDENTIFIER=vifctl"]


def test_without_a_journal_the_line_is_lost_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "systemd", None)

    journal.send("vifctl", "eth3 is allowed")
