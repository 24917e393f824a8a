# SPDX-License-Identifier: GPL-2.0-or-later
"""before_network_setup, with a real database and devices on paper."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vif_driver.config import Config
from vif_driver.errors import Unavailable
from vif_driver.events import Events
from vif_driver.host import Host, neutron_agent, ovsdb_socket, snapshot, switch, vdsm_config
from vif_driver.host.neutron_agent import Underlay
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.host.replica import Replica
from vif_driver.host.snapshot import Snapshot
from vif_driver.protection import allowances, guard, known
from vif_driver.wire import Declined, Reply, Request

from .conftest import OvsdbServer
from .underlay import PaperHost

EVENT = "before_network_setup"
TAKES = {"x": {"nic": "eth0"}}
LINE = (
    "vif-driver: setupNetworks refused: network 'x' would take eth0 as the port of its bridge, but "
    "eth0 carries this host's OVN tunnels (ovn-encap-ip 192.0.2.1); to do it deliberately: vifctl "
    "protect --allow eth0 --for 10m"
)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """VDSM's notes, allowances and what was known, in a folder of the test's."""
    for module, name, folder in [
        (vdsm_config.Entries.__init__, "__defaults__", (tmp_path,)),
        (allowances.all_, "__defaults__", (tmp_path / "allowed",)),
        (known.Known.__init__, "__defaults__", ((tmp_path / "agents", tmp_path / "roots"),)),
    ]:
        monkeypatch.setattr(module, name, folder)
    monkeypatch.setattr(known, "OF_AGENT", tmp_path / "agents")
    monkeypatch.setattr("vif_driver.events.network_setup.OF_ROOT", tmp_path / "roots")
    monkeypatch.setattr(neutron_agent, "files", lambda *_: [])
    monkeypatch.setattr(neutron_agent, "underlay", lambda *_: Underlay())
    (tmp_path / "nets").mkdir()
    return tmp_path


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> PaperHost:
    """eth0 with the address at which tunnels begin, and eth1."""
    host = PaperHost()
    host.nic("eth0", "eth1")
    host.address("eth0", "192.0.2.1/24")
    monkeypatch.setattr(snapshot, "take", lambda: host.foundation().snapshot)
    # What is on paper changes without the kernel's word.
    monkeypatch.setattr(snapshot.Snapshots, "_has_changed", lambda _self: True)
    return host


@pytest.fixture
def server(ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch) -> OvsdbServer:
    """Open vSwitch's database of a host of OVN's."""
    ovsdb_server.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-encap-ip=192.0.2.1")
    read = switch.read_once
    monkeypatch.setattr(switch, "read_once", lambda timeout: read(timeout, ovsdb_server.socket))
    return ovsdb_server


def asked(networks: Any = None, **options: Any) -> bytes:
    request = {"networks": networks or {}, "bondings": {}, "options": options}
    return json.dumps({"request": request}).encode()


def alone(data: bytes, config: Config | None = None) -> Reply:
    """Answer without the agent, as root."""
    return asyncio.run(Events(config or Config(), Host()).handle(Request(EVENT, {}, data)))


def by_agent(server: OvsdbServer, *requests: bytes, stop_after: int | None = None) -> list[Reply]:
    """Have an agent answer requests, one after the other."""

    async def main() -> list[Reply]:
        ovsdb = Ovsdb(server.socket)
        ovsdb.replica.open()
        await ovsdb.replica.wait_connected()
        settings, host = Config(), Host(ovsdb=ovsdb)
        agents = guard.Guard(settings, host, known.Known(known.OF_AGENT))
        events = Events(settings, host, guard=agents)
        replies = []
        for number, data in enumerate(requests):
            if number == stop_after:
                await asyncio.to_thread(server.stop)
                await ovsdb.replica.wait(lambda: not ovsdb.replica.connected, 5.0)
            replies.append(await events.handle(Request(EVENT, {}, data)))
        ovsdb.replica.close()
        return replies

    return asyncio.run(main())


@pytest.mark.usefixtures("devices")
def test_the_agent_refuses_with_one_line(server: OvsdbServer) -> None:
    assert by_agent(server, asked(TAKES)) == [Reply(2, LINE)]


@pytest.mark.usefixtures("devices", "server")
def test_without_the_agent_it_is_the_same() -> None:
    assert alone(asked(TAKES)) == Reply(2, LINE)


@pytest.mark.usefixtures("devices", "server")
def test_what_breaks_nothing_passes_as_it_is() -> None:
    assert alone(asked({"x": {"nic": "eth1"}})) == Reply()


@pytest.mark.usefixtures("devices", "server")
def test_a_restoration_passes() -> None:
    assert alone(asked(TAKES, _inRollback=True)) == Reply()


@pytest.mark.usefixtures("devices", "server")
def test_a_check_of_connectivity_is_no_licence() -> None:
    assert alone(asked(TAKES, connectivityCheck=True, connectivityTimeout=60)).status == 2


@pytest.mark.usefixtures("devices", "server")
def test_where_protection_is_switched_off_everything_passes() -> None:
    assert alone(asked(TAKES), Config(protects=False)) == Reply()


@pytest.mark.usefixtures("devices", "server")
def test_what_the_configuration_allows_passes_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    reply = alone(asked(TAKES), Config(allowed=frozenset(("eth0",))))

    assert reply == Reply()
    assert "setupNetworks may go on as the configuration allowed eth0: network 'x'" in caplog.text


@pytest.mark.usefixtures("devices", "server")
def test_what_root_has_allowed_passes_and_the_log_says_who(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allowances.allow("eth0", 600, "alice (root)", folders / "allowed")

    assert alone(asked(TAKES)) == Reply()
    assert "as alice (root) allowed eth0" in caplog.text


@pytest.mark.usefixtures("devices", "server")
def test_every_reason_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    alone(asked({**TAKES, "br-int": {"nic": "eth1"}}))

    assert "network 'x' would take eth0" in caplog.text
    assert "network 'br-int' would be made" in caplog.text


@pytest.mark.usefixtures("devices", "server")
def test_what_is_no_request_is_refused_with_what_is_wrong() -> None:
    reply = alone(b'{"request": {"networks": []}}')

    assert reply == Reply(
        2,
        "vif-driver: before_network_setup: networks is no JSON object; send it through the engine",
    )


@pytest.mark.usefixtures("devices", "server")
def test_a_name_with_a_line_break_gives_one_line() -> None:
    reply = alone(asked({"a\nb\u2028": {"nic": "eth0"}}))

    assert reply.status == 2
    assert reply.message.isprintable()


@pytest.mark.usefixtures("devices", "server")
def test_vdsms_notes_are_compared_with(folders: Path) -> None:
    network = {"nic": "eth0", "bridged": False, "ipaddr": "192.0.2.1", "prefix": 24}
    (folders / "nets" / "tun").write_text(json.dumps(network))

    again, gone = alone(asked({"tun": network})), alone(asked({"tun": {"remove": True}}))

    assert (again, gone.status) == (Reply(), 2)


# ---- when VDSM's notes cannot be read ------------------------------------------------------------

TUN = {"nic": "eth0", "bridged": False, "ipaddr": "192.0.2.1", "prefix": 24}
GOES = asked({"tun": {"remove": True}})


@pytest.fixture
def deny(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """VDSM has a network on eth0; call it, and its notes cannot be read any more."""
    (folders / "nets" / "tun").write_text(json.dumps(TUN))
    read = os.scandir

    def scan(path: Path) -> Any:
        if path == folders / "nets":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path)

    return lambda: monkeypatch.setattr(os, "scandir", scan)


@pytest.mark.usefixtures("devices")
def test_the_agent_leaves_it_to_root(server: OvsdbServer, deny: Callable[[], None]) -> None:
    deny()

    with pytest.raises(Declined):
        by_agent(server, asked({"x": {"nic": "eth1"}}))


@pytest.mark.usefixtures("devices")
def test_so_it_does_while_open_vswitchs_database_is_away(
    server: OvsdbServer, deny: Callable[[], None]
) -> None:
    deny()

    with pytest.raises(Declined):
        by_agent(server, asked({"x": {"nic": "eth1"}}), stop_after=0)


@pytest.mark.usefixtures("devices", "server")
def test_root_judges_by_what_was_known_then(
    deny: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    alone(asked({}))
    deny()

    replies = [alone(GOES), alone(asked(TAKES)), alone(asked({"x": {"nic": "eth1"}}))]

    assert [reply.status for reply in replies] == [2, 2, 0]
    assert "'tun' would change tun, but eth0 carries this host's OVN tunnels" in replies[0].message
    assert "judged by what was known: VDSM's notes of its networks cannot be read" in caplog.text


@pytest.mark.usefixtures("devices", "server")
def test_that_they_cannot_be_read_is_logged_once(
    deny: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    root = Events(Config(), Host())
    deny()

    for _ in range(3):
        asyncio.run(root.handle(Request(EVENT, {}, GOES)))

    assert caplog.text.count("setupNetworks cannot be judged well: ") == 1


# ---- when the host cannot be looked at -----------------------------------------------------------


@pytest.mark.usefixtures("devices")
def test_the_agent_judges_by_what_it_knew(
    server: OvsdbServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first request has the server; nobody waits for long for it to come back.
    monkeypatch.setattr(Replica.wait_connected, "__defaults__", (0.5,))
    other = asked({"x": {"nic": "eth1"}})

    replies = by_agent(server, asked({}), asked(TAKES), other, stop_after=1)

    assert [reply.status for reply in replies] == [0, 2, 0]
    assert "eth0 carries this host's OVN tunnels" in replies[1].message
    assert "--allow eth0" in replies[1].message
    assert "judged by what was known: Open vSwitch's database does not answer" in caplog.text


@pytest.mark.usefixtures("devices")
def test_root_judges_by_what_the_agent_knew(server: OvsdbServer) -> None:
    by_agent(server, asked({}))
    server.stop()

    replies = [alone(asked(TAKES)), alone(asked({"x": {"nic": "eth1"}}))]

    assert [reply.status for reply in replies] == [2, 0]


@pytest.mark.usefixtures("devices")
def test_root_knows_what_it_has_seen_itself(server: OvsdbServer) -> None:
    alone(asked({}))
    server.stop()

    assert alone(asked(TAKES)).status == 2


@pytest.mark.usefixtures("devices", "server")
def test_a_kernel_that_does_not_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(asked({}))

    def silent() -> Snapshot:
        raise Unavailable("the kernel does not tell its network devices", "see dmesg")

    monkeypatch.setattr(snapshot, "take", silent)

    assert [alone(asked(TAKES)).status, alone(asked({})).status] == [2, 0]


@pytest.mark.usefixtures("devices", "server")
def test_so_is_a_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone(asked({}))

    def fault(*_arguments: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(guard, "Foundation", fault)

    replies = [alone(asked(TAKES)), alone(asked({"x": {"nic": "eth1"}}))]

    assert [reply.status for reply in replies] == [2, 0]
    assert "internal error (ZeroDivisionError: a fault)" in caplog.text


@pytest.mark.usefixtures("devices")
def test_where_nothing_was_ever_known_everything_passes(server: OvsdbServer) -> None:
    server.stop()

    assert alone(asked(TAKES)) == Reply(0, "", None)


@pytest.mark.usefixtures("devices")
def test_a_host_without_open_vswitch_has_only_neutrons_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ovsdb_socket, "SCHEMA", tmp_path / "none")
    told = Underlay(tunnel_ends={"192.0.2.1": ("vxlan",)})
    monkeypatch.setattr(neutron_agent, "files", lambda *_: [tmp_path])
    monkeypatch.setattr(neutron_agent, "underlay", lambda *_: told)

    assert "carries Neutron's tunnels (local_ip 192.0.2.1)" in alone(asked(TAKES)).message


def test_a_network_is_noted_by_the_device_that_carries_something(devices: PaperHost) -> None:
    devices.settings["ovn-encap-ip"] = "192.0.2.1"
    devices.network("tun", nic="eth0", bridged=False)
    devices.network("other", nic="eth1")

    noted = guard.protected(devices.foundation(), devices.notes())

    assert noted.networks == {"tun": "eth0"}
    assert set(noted.devices) == {"eth0", "br-int"}
