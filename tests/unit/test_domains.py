# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's VMs, with libvirt's own test driver in the place of QEMU's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import domains
from vif_driver.host.domains import Domains, Happening, State

from .conftest import MAC, VM_ID, VNIC_ID

NO_VM = VNIC_ID

_DOMAIN = f"""\
<domain type='test'>
  <name>a-vm</name>
  <uuid>{VM_ID}</uuid>
  <memory>1024</memory>
  <os><type>hvm</type></os>
  <devices>
    <interface type='bridge'>
      <mac address='{MAC}'/>
      <source bridge='br-int'/>
      <target dev='tap1'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:02'/>
      <source bridge='ovirtmgmt'/>
    </interface>
  </devices>
</domain>
"""

Scenario = Callable[[Domains], Awaitable[Any]]


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A VM that runs, beside the one that the driver has from the start."""
    monkeypatch.setattr(domains, "URI", "test:///default")
    connection = libvirt.open("test:///default")
    domain = connection.createXML(_DOMAIN)
    yield domain
    with contextlib.suppress(libvirt.libvirtError):  # the test has ended it
        domain.destroy()
    connection.close()


def asking(scenario: Scenario) -> Any:
    """Run a scenario on a connection that is made when it is needed."""

    async def main() -> Any:
        asked = Domains()
        try:
            return await asyncio.wait_for(scenario(asked), 10)
        finally:
            await asked.close()

    return asyncio.run(main())


def watching(scenario: Scenario) -> Any:
    """Run a scenario on a connection that is watched and there."""

    async def watched(asked: Domains) -> Any:
        asked.watch()
        assert await asked.wait_connected(5)
        await told_of_all_before(asked)
        return await scenario(asked)

    return asking(watched)


async def told_of_all_before(asked: Domains) -> None:
    """Wait for the events so far, with which the driver may be late, to be told.

    Those after them are of the VM that the driver has from the start.
    """
    told: list[str | None] = []
    unsubscribe = asked.subscribe(told.append)
    connection = libvirt.open(domains.URI)
    other = connection.lookupByName("test")
    other.suspend()
    other.resume()
    while told.count(other.UUIDString()) < 2:
        await asyncio.sleep(0.002)
    unsubscribe()
    connection.close()


# ---- questions and requests ------------------------------------------------------------------


def test_a_vm_that_runs_is_running(vm: Any) -> None:
    assert asking(lambda asked: asked.state(VM_ID)) is State.RUNNING


def test_a_vm_that_stands_still_is_paused(vm: Any) -> None:
    vm.suspend()

    assert asking(lambda asked: asked.state(VM_ID)) is State.PAUSED


@pytest.mark.usefixtures("vm")
def test_a_vm_that_does_not_exist_has_no_state() -> None:
    assert asking(lambda asked: asked.state(NO_VM)) is None


@pytest.mark.usefixtures("vm")
def test_an_error_whose_reason_is_lost_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if another connection had ended in the same thread just then.
    lost = [None]
    real = libvirt.libvirtmod.virGetLastError
    monkeypatch.setattr(
        libvirt.libvirtmod, "virGetLastError", lambda: lost.pop() if lost else real()
    )

    assert asking(lambda asked: asked.state(NO_VM)) is None


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (libvirt.VIR_DOMAIN_BLOCKED, State.RUNNING),
        (libvirt.VIR_DOMAIN_SHUTDOWN, State.OTHER),
        (libvirt.VIR_DOMAIN_PMSUSPENDED, State.OTHER),
        (libvirt.VIR_DOMAIN_SHUTOFF, None),
        (libvirt.VIR_DOMAIN_CRASHED, None),
        (libvirt.VIR_DOMAIN_NOSTATE, State.OTHER),
    ],
)
@pytest.mark.usefixtures("vm")
def test_libvirts_other_states_are_told_in_ours(
    monkeypatch: pytest.MonkeyPatch, number: int, expected: State | None
) -> None:
    monkeypatch.setattr(libvirt.virDomain, "state", lambda _self: [number, 0])

    assert asking(lambda asked: asked.state(VM_ID)) is expected


def test_one_vm_is_told_as_among_all(vm: Any) -> None:
    vm.suspend()

    async def both(asked: Domains) -> Any:
        return await asked.get(VM_ID), await asked.all()

    one, every = asking(both)

    assert one in every
    assert (one.id, one.name, one.state) == (VM_ID, "a-vm", State.PAUSED)
    assert len(one.interfaces()) == 2


@pytest.mark.usefixtures("vm")
def test_a_vm_that_does_not_exist_is_not_told() -> None:
    assert asking(lambda asked: asked.get(NO_VM)) is None


@pytest.mark.usefixtures("vm")
def test_a_vm_without_a_process_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt.virDomain, "state", lambda _self: [libvirt.VIR_DOMAIN_SHUTOFF, 0])

    assert asking(lambda asked: asked.get(VM_ID)) is None


def test_a_vm_that_was_started_paused_is_resumed(vm: Any) -> None:
    vm.suspend()

    assert asking(lambda asked: asked.resume(VM_ID)) is True
    assert vm.state()[0] == libvirt.VIR_DOMAIN_RUNNING


@pytest.mark.usefixtures("vm")
@pytest.mark.parametrize("vm_id", [VM_ID, NO_VM], ids=["it runs", "it is gone"])
def test_a_vm_that_does_not_stand_still_needs_no_resuming(vm_id: str) -> None:
    assert asking(lambda asked: asked.resume(vm_id)) is False


@pytest.mark.parametrize(
    "reason",
    [
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
        libvirt.VIR_DOMAIN_PAUSED_IOERROR,
        libvirt.VIR_DOMAIN_PAUSED_DUMP,
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
    ],
)
def test_a_vm_that_stands_still_for_another_reason_is_left_so(
    vm: Any, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    vm.suspend()
    with monkeypatch.context() as patched:
        state = [libvirt.VIR_DOMAIN_PAUSED, reason]
        patched.setattr(libvirt.virDomain, "state", lambda _self: state)

        assert asking(lambda asked: asked.resume(VM_ID)) is False

    assert vm.state()[0] == libvirt.VIR_DOMAIN_PAUSED


def test_a_refusal_of_libvirts_is_told(vm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: object) -> None:
        raise libvirt.libvirtError("no lock")

    vm.suspend()
    monkeypatch.setattr(libvirt.virDomain, "resume", refuse)

    with pytest.raises(HostError, match=f"libvirt refuses to resume VM {VM_ID}") as refused:
        asking(lambda asked: asked.resume(VM_ID))

    assert not isinstance(refused.value, Unavailable)


def test_every_vm_that_is_active_is_listed_with_its_interfaces(vm: Any) -> None:
    vm.suspend()

    found = {domain.id: domain for domain in asking(lambda asked: asked.all())}

    listed = found[VM_ID]
    assert (listed.name, listed.state) == ("a-vm", State.PAUSED)
    assert [MAC.encode() in xml for xml in listed.interfaces()] == [True, False]
    assert len(found) == 2


@pytest.mark.parametrize("vm_id", [VM_ID, NO_VM])
@pytest.mark.parametrize("mac", [MAC, "52:54:00:00:00:99"])
@pytest.mark.usefixtures("vm")
def test_an_interface_is_found_by_vm_and_address_or_not_at_all(vm_id: str, mac: str) -> None:
    xml = asking(lambda asked: asked.interface_xml(vm_id, mac))

    if (vm_id, mac) == (VM_ID, MAC):
        assert xml.startswith(b"<interface") and b"br-int" in xml
    else:
        assert xml is None


@pytest.mark.usefixtures("vm")
def test_libvirts_version_is_a_number() -> None:
    assert asking(lambda asked: asked.version()) >= 4_000_000


def test_a_libvirt_that_is_away_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(domains, "URI", f"test://{tmp_path}/none.xml")

    with pytest.raises(Unavailable, match="check libvirtd"):
        asking(lambda asked: asked.state(VM_ID))


@pytest.mark.usefixtures("vm")
def test_a_libvirt_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "TIMEOUT", 0.1)
    monkeypatch.setattr(libvirt.virDomain, "state", lambda _self: time.sleep(0.5))

    with pytest.raises(Unavailable, match=r"does not answer within 0\.1 s"):
        asking(lambda asked: asked.state(VM_ID))


@pytest.mark.usefixtures("vm")
def test_what_libvirt_says_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    asking(lambda asked: asked.state(NO_VM))

    assert capfd.readouterr() == ("", "")


class Told:
    """A listener, and how to wait until it was told so many times."""

    def __init__(self) -> None:
        self.of: list[str | None] = []
        self._changed = asyncio.Event()

    def __call__(self, vm_id: str | None) -> None:
        self.of.append(vm_id)
        self._changed.set()

    async def times(self, number: int) -> list[str | None]:
        while len(self.of) < number:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 5)
        return self.of


# ---- while it is watched ---------------------------------------------------------------------


def test_each_event_of_a_vms_life_is_told(vm: Any) -> None:
    async def scenario(asked: Domains) -> list[str | None]:
        told = Told()
        asked.subscribe(told)
        for number, change in enumerate((vm.suspend, vm.resume, vm.destroy), 1):
            change()
            await told.times(number)
        return told.of

    assert watching(scenario) == [VM_ID] * 3


def test_who_has_unsubscribed_is_told_nothing(vm: Any) -> None:
    async def scenario(asked: Domains) -> list[str | None]:
        told, last = Told(), Told()
        asked.subscribe(told)()
        asked.subscribe(last)
        vm.suspend()
        await last.times(1)
        return told.of

    assert watching(scenario) == []


def test_the_end_of_a_vm_is_waited_for(vm: Any) -> None:
    async def scenario(asked: Domains) -> bool:
        waiting = asyncio.ensure_future(asked.wait_gone(VM_ID))
        vm.suspend()
        await asyncio.sleep(0.05)
        before = waiting.done()
        vm.destroy()
        await waiting
        return before

    assert watching(scenario) is False


@pytest.mark.usefixtures("vm")
def test_a_vm_that_is_gone_already_is_not_waited_for() -> None:
    watching(lambda asked: asyncio.wait_for(asked.wait_gone(NO_VM), 5))


def test_nobody_listens_any_more_when_a_wait_is_given_up(vm: Any) -> None:
    async def scenario(asked: Domains) -> int:
        waiting = asyncio.ensure_future(asked.wait_gone(VM_ID))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        return len(asked._listeners)

    assert watching(scenario) == 0


def test_libvirt_may_come_after_the_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = tmp_path / "node.xml"
    monkeypatch.setattr(domains, "URI", f"test://{node}")
    monkeypatch.setattr(domains, "RECONNECT", (0.01, 0.02))

    async def scenario(asked: Domains) -> tuple[bool, bool, list[str | None]]:
        told: list[str | None] = []
        asked.subscribe(told.append)
        asked.watch()
        before = await asked.wait_connected(0.1)
        node.write_text("<node/>")
        return before, await asked.wait_connected(5), told

    before, after, told = asking(scenario)

    assert (before, after) == (False, True)
    assert told == [None]  # whatever was known of any VM is to be looked at again


def test_while_libvirt_is_away_its_watcher_says_so_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(domains, "URI", f"test://{tmp_path}/none.xml")

    async def scenario(asked: Domains) -> None:
        asked.watch()
        await asked.state(VM_ID)

    with pytest.raises(Unavailable, match="start libvirtd"):
        asking(scenario)


class Connections:
    """Those that were made, and how to break them as a libvirtd that ends does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._callbacks: list[tuple[Any, Callable[..., None]]] = []
        register = libvirt.virConnect.registerCloseCallback

        def registered(connection: Any, callback: Callable[..., None], opaque: Any) -> Any:
            self._callbacks.append((connection, callback))
            return register(connection, callback, opaque)

        monkeypatch.setattr(libvirt.virConnect, "registerCloseCallback", registered)

    @property
    def made(self) -> int:
        return len(self._callbacks)

    def break_last(self) -> None:
        connection, callback = self._callbacks[-1]
        callback(connection, libvirt.VIR_CONNECT_CLOSE_REASON_EOF, None)


def test_a_connection_that_breaks_is_made_again(vm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections(monkeypatch)

    async def scenario(asked: Domains) -> tuple[list[str | None], State | None]:
        told = Told()
        asked.subscribe(told)
        connections.break_last()
        return await told.times(2), await asked.state(VM_ID)

    told, state = watching(scenario)

    assert (told, state) == ([None, None], State.RUNNING)  # it broke, it is there again
    assert connections.made == 2


def test_events_are_told_after_the_connection_was_made_again(
    vm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = Connections(monkeypatch)

    async def scenario(asked: Domains) -> None:
        waiting = asyncio.ensure_future(asked.wait_gone(VM_ID))
        connections.break_last()
        while connections.made < 2 or not asked.connected:
            await asyncio.sleep(0.005)
        vm.destroy()
        await asyncio.wait_for(waiting, 5)

    watching(scenario)


# ---- migration -------------------------------------------------------------------------------


def test_a_follower_is_told_what_happens(vm: Any) -> None:
    async def scenario(asked: Domains) -> list[tuple[str | None, Happening]]:
        told: list[tuple[str | None, Happening]] = []
        asked.follow(lambda vm_id, happening: told.append((vm_id, happening)))
        vm.suspend()
        vm.resume()
        vm.destroy()
        while len(told) < 3:
            await asyncio.sleep(0.002)
        return told

    assert watching(scenario) == [
        (VM_ID, Happening.OTHER),
        (VM_ID, Happening.RUNS),
        (VM_ID, Happening.GONE),
    ]


@pytest.mark.parametrize(
    ("event", "detail", "happening"),
    [
        ("SUSPENDED", "SUSPENDED_MIGRATED", Happening.STANDS_STILL),
        ("SUSPENDED", "SUSPENDED_POSTCOPY", Happening.STANDS_STILL),
        ("SUSPENDED", "SUSPENDED_PAUSED", Happening.OTHER),
        ("SUSPENDED", "SUSPENDED_IOERROR", Happening.OTHER),
        ("RESUMED", "RESUMED_MIGRATED", Happening.RUNS),
        ("STARTED", "STARTED_MIGRATED", Happening.OTHER),
    ],
)
def test_a_guest_stands_still_for_its_migration(
    event: str, detail: str, happening: Happening
) -> None:
    numbers = (getattr(libvirt, f"VIR_DOMAIN_EVENT_{name}") for name in (event, detail))

    assert domains.happening(*numbers) is happening


def test_a_follower_is_told_before_everybody_else(vm: Any) -> None:
    async def scenario(asked: Domains) -> list[str]:
        told: list[str] = []
        asked.subscribe(lambda _vm_id: told.append("listener"))
        asked.follow(lambda _vm_id, _happening: told.append("follower"))
        vm.suspend()
        while len(told) < 2:
            await asyncio.sleep(0.002)
        return told

    assert watching(scenario) == ["follower", "listener"]


def test_who_does_not_follow_any_more_is_not_told(vm: Any) -> None:
    async def scenario(asked: Domains) -> list[Happening]:
        told: list[Happening] = []
        others = Told()
        asked.subscribe(others)
        asked.follow(lambda _vm_id, happening: told.append(happening))()
        vm.suspend()
        await others.times(1)
        return told

    assert watching(scenario) == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (libvirt.VIR_DOMAIN_JOB_NONE, False),
        (libvirt.VIR_DOMAIN_JOB_BOUNDED, True),
        (libvirt.VIR_DOMAIN_JOB_UNBOUNDED, True),
    ],
)
@pytest.mark.usefixtures("vm")
def test_a_vm_is_being_migrated_or_not(
    monkeypatch: pytest.MonkeyPatch, kind: int, expected: bool
) -> None:
    monkeypatch.setattr(libvirt.virDomain, "jobInfo", lambda _self: [kind, 0])

    assert asking(lambda asked: asked.is_migrating(VM_ID)) is expected


@pytest.mark.usefixtures("vm")
def test_a_vm_that_does_not_exist_is_not_migrated() -> None:
    assert asking(lambda asked: asked.is_migrating(NO_VM)) is None


@pytest.mark.usefixtures("vm")
def test_a_vm_that_is_switched_off_is_not_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    # libvirt refuses to tell of its jobs.
    monkeypatch.setattr(libvirt.virDomain, "state", lambda _self: [libvirt.VIR_DOMAIN_SHUTOFF, 0])

    assert asking(lambda asked: asked.is_migrating(VM_ID)) is None


@pytest.mark.usefixtures("vm")
def test_a_vm_of_whose_jobs_libvirt_says_nothing_is_told() -> None:
    # As of one that is just arriving, where QEMU's driver refuses; this one always does.
    with pytest.raises(HostError, match="libvirt refuses to tell about VM"):
        asking(lambda asked: asked.is_migrating(VM_ID))


def test_an_interface_is_found_by_its_tap(vm: Any) -> None:
    async def scenario(asked: Domains) -> bytes | None:
        domain = await asked.get(VM_ID)
        assert domain is not None
        (tap, *_) = [name for name in _taps(domain.xml) if name]
        return await asked.interface_of_tap(VM_ID, tap)

    found = watching(scenario)

    assert found is not None and MAC.encode() in found


def _taps(xml: bytes) -> list[str]:
    return [
        target.get("dev") or ""
        for target in etree.fromstring(xml).iterfind("devices/interface/target")
    ]


@pytest.mark.parametrize(("vm_id", "tap"), [(VM_ID, "no-such-tap"), (NO_VM, "tap1")])
@pytest.mark.usefixtures("vm")
def test_an_interface_that_is_not_there_is_not_found(vm_id: str, tap: str) -> None:
    assert asking(lambda asked: asked.interface_of_tap(vm_id, tap)) is None
