# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that say which VMs are being started."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vif_driver.errors import HostError
from vif_driver.host.starts import Start, Starts, uptime
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import VM_ID, VNIC_ID

VNIC = VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, VM_ID)
START = Start(VM_ID, (VNIC,))

UUIDS = st.uuids().map(str)
VMS = st.shared(UUIDS, key="vm")
STARTS = st.builds(
    Start,
    vm_id=VMS,
    vnics=st.lists(st.builds(VnicIdentity, UUIDS, st.sampled_from(Plugin), VMS), max_size=4).map(
        tuple
    ),
    resume=st.booleans(),
    started=st.booleans(),
    arrives=st.booleans(),
    seen=st.booleans(),
    token=st.text("0123456789abcdef", min_size=32, max_size=32),
    since=st.floats(0, 1e9),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the files, as systemd-tmpfiles makes it."""
    path = tmp_path / "starting"
    path.mkdir(mode=0o755)
    return path


@pytest.fixture
def starts(folder: Path) -> Starts:
    """No start yet."""
    released = folder.with_name("released")
    released.mkdir()
    return Starts(folder, released)


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    """What systemd's UMask=0077 gives a service."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def another_process(folder: Path) -> Starts:
    """As the next agent, or a hook without one, has the starts."""
    return Starts(folder, folder.with_name("released"))


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / VM_ID
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_vm_of_which_nothing_is_known_is_not_being_started(starts: Starts) -> None:
    assert starts.get(VM_ID) is None
    assert starts.all() == []


def test_without_a_folder_nothing_is_being_started(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "none", tmp_path / "none")

    assert starts.get(VM_ID) is None
    assert starts.all() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(STARTS)
def test_a_start_is_read_as_it_was_written(starts: Starts, folder: Path, start: Start) -> None:
    starts.put(start)

    assert another_process(folder).get(start.vm_id) == start
    assert start in another_process(folder).all()


def test_another_process_reads_it(starts: Starts, folder: Path) -> None:
    starts.put(START)

    assert another_process(folder).all() == [START]


def test_a_vm_has_one_start_the_latest(starts: Starts) -> None:
    latest = Start(VM_ID, started=True)
    starts.put(START)

    starts.put(latest)

    assert starts.all() == [latest]


def test_every_start_has_a_token_of_its_own() -> None:
    assert Start(VM_ID).token != Start(VM_ID).token


def test_a_start_knows_its_vnics_by_their_id() -> None:
    other = VnicIdentity(VM_ID, Plugin.OVIRT_PROVIDER_OVN, VM_ID)
    elsewhere = VnicIdentity(VNIC_ID, Plugin.OPEN_VSWITCH, None)

    assert START.has(elsewhere)
    assert not START.has(other)


def test_a_start_that_began_a_minute_ago_is_a_minute_old() -> None:
    assert Start(VM_ID, since=uptime() - 60).age == pytest.approx(60, abs=1)


def test_what_is_forgotten_is_gone_and_may_be_forgotten_again(starts: Starts) -> None:
    starts.put(START)

    starts.forget(VM_ID)
    starts.forget(VM_ID)

    assert starts.all() == []


def test_a_start_that_was_dealt_with_without_the_agent_is_not_found(starts: Starts) -> None:
    starts.put(START)

    starts.release(START)

    assert starts.get(VM_ID) is None
    assert starts.all() == []


def test_a_later_start_of_a_vm_that_was_dealt_with_is_found(starts: Starts) -> None:
    again = Start(VM_ID)
    starts.put(START)
    starts.release(START)

    starts.put(again)

    assert starts.all() == [again]


def test_a_note_that_cannot_be_made_is_told(folder: Path) -> None:
    starts = Starts(folder, folder.with_name("none"))

    with pytest.raises(HostError, match=r"cannot be made .*; restart vif-agent"):
        starts.release(START)


def test_a_start_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the folder's place")

    with pytest.raises(HostError, match="would not be resumed; see that /run has space"):
        Starts(tmp_path / "file", tmp_path).put(START)


@pytest.mark.usefixtures("narrow_umask")
def test_everybody_may_read_a_start_whatever_the_umask_is(starts: Starts, folder: Path) -> None:
    starts.put(START)

    assert stat.S_IMODE((folder / VM_ID).stat().st_mode) == 0o644


@pytest.mark.usefixtures("narrow_umask")
def test_everybody_may_look_into_a_folder_that_had_to_be_made(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "starting", tmp_path / "released")

    starts.put(START)

    assert stat.S_IMODE((tmp_path / "starting").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"token": "',
    ],
)
def test_a_damaged_file_is_disregarded_and_logged(
    starts: Starts, folder: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (folder / VM_ID).write_bytes(content)

    assert starts.get(VM_ID) is None
    assert starts.all() == []
    assert f"{folder / VM_ID} is not understood" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "../../etc/passwd"},
        {"token": "0" * 31},
        {"token": "0" * 32 + "\n"},
        {"token": 5},
        {"vnics": None},
        {"vnics": [{"id": "eth0", "plugin": "OPEN_VSWITCH"}]},
        {"vnics": [{"id": VNIC_ID, "plugin": "NSX"}]},
        {"vnics": [{"plugin": "OPEN_VSWITCH"}]},
        {"vnics": ["tap0"]},
        {"since": "yesterday"},
        {"since": None},
    ],
)
def test_a_file_with_something_foreign_in_it_is_disregarded_and_logged(
    starts: Starts, folder: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    starts.put(START)
    rewrite(folder, **changes)

    assert another_process(folder).get(VM_ID) is None
    assert another_process(folder).all() == []
    assert "is not understood" in caplog.text


@pytest.mark.parametrize("resume", ["true", 1, None])
def test_in_doubt_a_vm_is_not_ours_to_resume(starts: Starts, folder: Path, resume: object) -> None:
    starts.put(START)
    rewrite(folder, resume=resume)

    start = another_process(folder).get(VM_ID)

    assert start is not None and start.resume is False


@pytest.mark.parametrize("name", [f".{VM_ID}", VM_ID.upper(), f"{VM_ID}.rpmsave", "README"])
def test_a_file_whose_name_is_no_vms_id_is_no_start(
    starts: Starts, folder: Path, name: str
) -> None:
    starts.put(START)

    (folder / VM_ID).rename(folder / name)

    assert another_process(folder).all() == []


@pytest.mark.parametrize("vm_id", ["", ".", "../starting", "/etc/passwd", "x" * 300])
def test_what_is_no_vms_id_is_not_looked_for(
    folder: Path, vm_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(exist_ok=True)

    assert another_process(folder).get(vm_id) is None
    assert caplog.text == ""


def test_a_damaged_file_hides_no_other(starts: Starts, folder: Path) -> None:
    starts.put(START)
    (folder / VNIC_ID).write_text("nonsense")
    (folder / VNIC_ID.replace("3c", "3d")).mkdir()

    assert another_process(folder).all() == [START]


def test_a_start_is_found_by_a_vnic_of_its_vm(starts: Starts) -> None:
    starts.put(START)

    assert starts.of_vnic(VnicIdentity(VNIC_ID, Plugin.OPEN_VSWITCH, None)) == [START]
    assert starts.of_vnic(VnicIdentity(VM_ID, Plugin.OPEN_VSWITCH, None)) == []


def test_a_start_that_was_dealt_with_is_found_by_no_vnic(starts: Starts) -> None:
    starts.put(START)
    starts.release(START)

    assert starts.of_vnic(VnicIdentity(VNIC_ID, Plugin.OPEN_VSWITCH, None)) == []


def test_old_starts_are_found(starts: Starts) -> None:
    old = Start(VNIC_ID, since=uptime() - 100)
    starts.put(dataclasses.replace(START, since=uptime()))
    starts.put(old)

    assert starts.older_than(99) == [old]


def test_there_are_no_more_starts_than_a_host_can_have(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vif_driver.host.starts.MAX_STARTS", 1)
    starts.put(START)

    with pytest.raises(HostError, match="would not be resumed"):
        starts.put(Start(VNIC_ID))

    starts.put(START)  # which is one of them
    assert starts.all() == [START]


# ---- which start a vNIC belongs to ---------------------------------------------------------------

SECOND = VnicIdentity("4d2be2fa" + VNIC_ID[8:], Plugin.OVIRT_PROVIDER_OVN, VM_ID)


@pytest.mark.parametrize(
    ("vnics", "expected"),
    [
        ((), True),
        ((SECOND,), True),
        ((SECOND, VNIC), True),
        ((VNIC,), False),
        ((VNIC, SECOND), False),
    ],
    ids=["the first", "another", "the last, again", "the only one, again", "the first, again"],
)
def test_a_vnic_continues_a_start_or_begins_another(
    vnics: tuple[VnicIdentity, ...], expected: bool
) -> None:
    assert Start(VM_ID, vnics).continues(VNIC) is expected


def test_a_start_is_the_same_one_with_another_vnic() -> None:
    longer = START.with_vnic(SECOND)

    assert (longer.vnics, longer.token) == ((VNIC, SECOND), START.token)


def test_a_start_has_a_vnic_once() -> None:
    assert START.with_vnic(VNIC) is START


@pytest.mark.parametrize("arrives", [True, False])
def test_whether_a_vm_arrives_is_read_as_it_was_written(
    starts: Starts, folder: Path, arrives: bool
) -> None:
    starts.put(Start(VM_ID, (VNIC,), arrives=arrives))

    assert [start.arrives for start in another_process(folder).all()] == [arrives]


def test_what_an_earlier_version_wrote_is_no_arrival(starts: Starts, folder: Path) -> None:
    starts.put(START)
    record = json.loads((folder / VM_ID).read_text())
    del record["arrives"]
    (folder / VM_ID).write_text(json.dumps(record))

    assert [start.arrives for start in another_process(folder).all()] == [False]
