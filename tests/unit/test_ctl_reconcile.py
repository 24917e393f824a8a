# SPDX-License-Identifier: GPL-2.0-or-later
"""vifctl reconcile: who may, what is shown of a look, of the agent's work and of the journal."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from vif_driver import ctl, wire
from vif_driver.agent.main import RECONCILE, Agent
from vif_driver.config import Config
from vif_driver.ctl import agent, reconciling, restoring, service, status
from vif_driver.ctl.restoring import Restored
from vif_driver.errors import ConfigError, HostError, Unavailable, VifError
from vif_driver.host import journal_reader, kernel
from vif_driver.host.journal_reader import Removal
from vif_driver.host.links import Links
from vif_driver.marks import GROUP
from vif_driver.reconciliation.report import Report, Told

from .conftest import VM_ID, VNIC_ID, OvsdbServer
from .inspected_host import Devices, Vms, a_vm, add_plugged, an_interface, inspected, virtualport
from .test_restoring import PORT, PORT_ID, QUEUE, QUEUE_ID, parse
from .vms import Vms as LibvirtsVms

TAP = f"tap{VNIC_ID[:11]}"
THERE = {"version": "1", "grace": 10.0}


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's user is root, whoever runs the tests."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def run(
    capsys: pytest.CaptureFixture[str], *arguments: str, status: int = ctl.FINE
) -> dict[str, Any]:
    """Run ``vifctl reconcile --json``, and give its output."""
    assert ctl.main(["reconcile", "--json", *arguments]) == status
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def text(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = ctl.FINE) -> list[str]:
    """Run ``vifctl reconcile``, and give the lines of its output."""
    assert ctl.main(["reconcile", *arguments]) == status
    return capsys.readouterr().out.splitlines()


# ---- who may, and how ----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--list"], ["--restore", PORT_ID]])
def test_only_root_may(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 36)

    assert ctl.main(["reconcile", *arguments]) == ctl.WRONG
    assert capsys.readouterr().err == "vifctl: vifctl reconcile needs root; run it as root\n"


@pytest.mark.parametrize(
    "arguments",
    [["--restore"], ["--restore", "7"], ["--dry-run", "--list"], ["--list", "--restore", PORT_ID]],
)
def test_wrong_usage_ends_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ctl.main(["reconcile", *arguments])

    assert ended.value.code == ctl.USAGE


# ---- --dry-run -----------------------------------------------------------------------------------


@contextmanager
def host(
    monkeypatch: pytest.MonkeyPatch,
    server: OvsdbServer,
    vms: Vms | None = None,
    devices: tuple[str, ...] = (),
    agent: service.Service | None = None,
    links: Devices | None = None,
) -> Iterator[None]:
    """A host with these VMs and devices, on which nothing else runs than this database."""
    present = {"br-int", *devices, *(link.name for link in (links or Devices()).present)}
    monkeypatch.setattr(kernel, "devices", lambda: present)
    monkeypatch.setattr(kernel, "has_device", present.__contains__)
    monkeypatch.setattr(reconciling, "look", lambda work: inspected(work, server, links, vms))
    monkeypatch.setattr(service, "look", lambda: agent or service.Service(True, True, THERE, None))
    before = server.vsctl("list", "Interface")
    yield
    assert server.vsctl("list", "Interface") == before


def test_a_dry_run_tells_what_would_be_removed_and_why(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_plugged(ovsdb_server, TAP, VNIC_ID)

    with host(monkeypatch, ovsdb_server):
        answer = run(capsys, "--dry-run", status=ctl.WRONG)

    (told,) = answer["to_remove"]
    assert told["what"] == f"port {TAP} of br-int (VM {VM_ID}, vNIC {VNIC_ID})"
    assert told["why"] == f"its device is gone, and libvirt has no VM {VM_ID}"
    assert (told["vm_id"], told["vnic_id"]) == (VM_ID, VNIC_ID)
    assert told["row_id"] == ovsdb_server.vsctl("get", "Port", TAP, "_uuid")
    assert (answer["to_plug"], answer["kept"], answer["grace"]) == ([], [], 10.0)


def test_a_dry_run_tells_what_would_be_plugged_again(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vms = Vms([a_vm(an_interface("br-int", TAP, more=virtualport(VNIC_ID)))])

    with host(monkeypatch, ovsdb_server, vms, devices=(TAP,)):
        lines = text(capsys, "--dry-run", status=ctl.WRONG)

    assert lines[0].startswith(f"would be plugged again  port {TAP} (VM {VM_ID}, vNIC {VNIC_ID}): ")
    assert lines[1:] == [
        "0 to be removed, 1 to be plugged again",
        "vif-agent does it if a look 10 s later finds the same",
    ]


def test_a_dry_run_tells_which_ports_without_a_device_stay(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_plugged(ovsdb_server, TAP, VNIC_ID)
    add_plugged(ovsdb_server, "tap2", VNIC_ID)
    ovsdb_server.vsctl("set", "Interface", "tap2", "external_ids:skip_cleanup=true")

    with host(monkeypatch, ovsdb_server, Vms([a_vm()])):
        answer = run(capsys, "--dry-run")

    assert [(told["what"].split()[1], told["why"]) for told in answer["kept"]] == [
        ("tap2", "it is not a VM's, or other software wants it left alone"),
        (TAP, f"VM {VM_ID} is there"),
    ]


def test_a_dry_run_tells_what_must_be_of_no_use_for_longer(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unnamed = Devices()
    unnamed.add(f"qbr{VNIC_ID[:11]}", group=GROUP)

    with host(monkeypatch, ovsdb_server, links=unnamed):
        (told,) = run(capsys, "--dry-run", status=ctl.WRONG)["to_remove"]

    assert told["why"].endswith("; that must be so for 120 s")


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (
            service.Service(False, False, {}, Unavailable("vif-agent does not answer", "start it")),
            "nobody will do it: vif-agent does not answer; start it",
        ),
        (
            service.Service(True, True, {**THERE, "configuration_error": "[x] y"}, None),
            "nobody will do it: vif-agent does not look after this host: [x] y",
        ),
    ],
)
def test_a_dry_run_says_if_nobody_will_do_it(
    ovsdb_server: OvsdbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    known: service.Service,
    words: str,
) -> None:
    with host(monkeypatch, ovsdb_server, agent=known):
        lines = text(capsys, "--dry-run")

    assert lines == ["0 to be removed, 0 to be plugged again", words]


def test_a_dry_run_without_libvirt_says_who_does_not_answer(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with host(monkeypatch, ovsdb_server, Vms(None)):
        code = ctl.main(["reconcile", "--dry-run"])

    assert code == ctl.WRONG
    assert capsys.readouterr().err == "vifctl: libvirt does not answer; restart libvirtd\n"


# ---- the agent -----------------------------------------------------------------------------------


def answering(
    monkeypatch: pytest.MonkeyPatch, report: Report, state: dict[str, Any] | None = None
) -> list[float]:
    """Have the agent answer; gives for how many seconds it is waited for."""
    waited: list[float] = []

    def ask(timeout: float) -> dict[str, object]:
        waited.append(timeout)
        return cast("dict[str, object]", json.loads(json.dumps(report.as_dict())))

    monkeypatch.setattr(agent, "ask_status", lambda: THERE if state is None else state)
    monkeypatch.setattr(agent, "ask_reconcile", ask)
    return waited


GONE = Told("port tap1", "its device is gone", VM_ID, VNIC_ID, PORT_ID)


def test_what_the_agent_did_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Told("port tap2", "VM x is there")
    answering(monkeypatch, Report(removed=(GONE,), plugged=(Told("port tap3", "z"),), kept=(kept,)))

    lines = text(capsys)

    assert lines == [
        "removed        port tap1: its device is gone",
        "plugged again  port tap3: z",
        "stays          port tap2: VM x is there",
        "1 removed, 1 plugged again, 0 left",
        "vifctl reconcile --list shows what was removed, --restore ID puts it back",
    ]


def test_it_is_shown_to_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, Report(removed=(GONE,)))

    told = {"what": "port tap1", "why": "its device is gone", "vm_id": VM_ID, "vnic_id": VNIC_ID}
    assert run(capsys) == {
        "removed": [{**told, "row_id": PORT_ID}],
        **{"plugged": [], "left": [], "kept": [], "trouble": None, "left_out": []},
    }


@pytest.mark.parametrize(
    "report", [Report(left=(GONE,)), Report(trouble="libvirt does not answer; restart libvirtd")]
)
def test_what_is_not_done_ends_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: Report
) -> None:
    answering(monkeypatch, report)

    lines = text(capsys, status=ctl.WRONG)

    shown = "left  port tap1: its device is gone"
    assert lines[-1 if report.trouble else 0] == (
        "not finished: libvirt does not answer; restart libvirtd" if report.trouble else shown
    )


def test_the_agent_is_waited_for_beyond_its_grace_period(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited = answering(monkeypatch, Report(), {"grace": 600})

    run(capsys)

    assert waited == [660.0]


def test_an_agent_of_an_older_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, Report(), {"version": "0"})

    assert ctl.main(["reconcile"]) == ctl.WRONG
    assert "older than this vifctl; restart it" in capsys.readouterr().err


def asked(event: str, trouble: ConfigError | None = None) -> wire.Reply:
    """Have an agent that does not look after its host answer."""
    request = wire.Request(event, {}, b"")

    async def main() -> wire.Reply:
        answers = Agent(Config(), cast(Links, None), None, LibvirtsVms().domains, trouble)
        return await answers.handle(request)

    return asyncio.run(main())


def test_an_agent_with_a_mistake_in_its_configuration_says_so() -> None:
    reply = asked(RECONCILE, ConfigError("[x] y is not a setting", "correct it"))

    assert reply.data is not None
    assert "[x] y is not a setting; correct it" in json.loads(reply.data)["trouble"]


# ---- status --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (
            {"stale_removed": 3, "plugged_again": 1},
            ["3 left by VMs removed, 1 lost by VMs plugged again"],
        ),
        ({}, []),
    ],
)
def test_the_status_tells_how_much_was_done(state: dict[str, Any], told: list[str]) -> None:
    known = status.Status(service.Service(True, True, state, None), ())

    found = [finding.detail for finding in known.findings if finding.name == "reconciliation"]

    assert found == told


# ---- the journal ---------------------------------------------------------------------------------


def removal(uuid: str, record: object, hour: int = 1) -> Removal:
    time = datetime.datetime(2026, 1, 2, hour, tzinfo=datetime.timezone.utc)
    return Removal(time, uuid, json.dumps(record), "removing it")


def journal(monkeypatch: pytest.MonkeyPatch, *removals: Removal) -> None:
    def known(uuid: str | None = None) -> list[Removal]:
        return [one for one in removals if uuid in (None, one.uuid)]

    monkeypatch.setattr(journal_reader, "removals", known)


def test_removals_are_listed_with_time_and_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(monkeypatch, removal(PORT_ID, PORT), removal(QUEUE_ID, QUEUE, hour=2))

    lines = text(capsys, "--list")

    assert lines[0].split() == ["TIME", "ID", "WHAT"]
    assert lines[1:] == [
        f"2026-01-02 01:00:00  {PORT_ID}  port tap1 of br-int (VM {VM_ID}, vNIC {VNIC_ID})",
        f"2026-01-02 02:00:00  {QUEUE_ID}  Queue {QUEUE_ID} (VM {VM_ID})",
    ]


def test_a_row_that_went_at_the_second_attempt_is_listed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(monkeypatch, removal(PORT_ID, PORT), removal(PORT_ID, PORT, hour=3))

    (listed,) = run(capsys, "--list")["removals"]

    assert listed["time"] == "2026-01-02T03:00:00+00:00"


def test_what_cannot_be_put_back_is_listed_as_such(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(monkeypatch, removal(PORT_ID, {"Bridge": {}}))

    (listed,) = run(capsys, "--list")["removals"]

    assert listed["what"].startswith("cannot be put back: ")


def test_an_empty_journal_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(monkeypatch)

    assert text(capsys, "--list") == ["the journal knows of nothing that was removed"]


@contextmanager
def no_database(_timeout: float) -> Iterator[None]:
    yield None


def test_what_is_put_back_is_the_latest_of_its_id_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(monkeypatch, removal(PORT_ID, {}), removal(PORT_ID, PORT, hour=2))
    monkeypatch.setattr(restoring, "connect", no_database)
    monkeypatch.setattr(restoring, "restore", lambda _db, _settings, it: Restored(it, True, ("n",)))

    answer = run(capsys, "--restore", PORT_ID.upper())

    assert answer == {
        "restored": str(parse()),
        "id": PORT_ID,
        "skip_cleanup": True,
        "notes": ["n"],
        "left_out": [],
    }


@pytest.mark.parametrize(
    ("removals", "words"),
    [
        ((), f"the journal knows of no removed row {PORT_ID}; vifctl reconcile --list shows"),
        ((removal(PORT_ID, {}),), "the record is not one of a removed row (of nothing)"),
    ],
)
def test_what_the_journal_does_not_have_is_not_put_back(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    removals: tuple[Removal, ...],
    words: str,
) -> None:
    journal(monkeypatch, *removals)

    assert ctl.main(["reconcile", "--restore", PORT_ID]) == ctl.WRONG
    assert words in capsys.readouterr().err


# ---- what comes over the socket ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "kind", "words"),
    [
        (b"", Unavailable, "no answer came"),
        (wire.encode_reply(wire.Reply(1, "vif-driver: too long")), HostError, "^too long; see"),
        (wire.encode_reply(wire.Reply(data=b"[]")), VifError, "cannot be understood"),
    ],
)
def test_an_agent_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, frame: bytes, kind: type[VifError], words: str
) -> None:
    def ask(_event: str, _timeout: float, _path: str) -> wire.Reply:
        if not frame:
            raise agent.NotAdmitted("the agent hung up", "run vifctl as root")
        return wire.decode_reply(frame)

    monkeypatch.setattr(agent, "_ask", ask)

    with pytest.raises(kind, match=words):
        agent.ask_reconcile(1.0)
