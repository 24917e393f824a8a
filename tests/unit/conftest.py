# SPDX-License-Identifier: GPL-2.0-or-later
"""What the unit tests are given."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ovs.reconnect
import pytest
from hypothesis import settings

from vif_driver.host import kernel, ovsdb_once, ovsdb_socket, replica
from vif_driver.host.links import Links

from . import own_sysfs, programs
from .database_server import DatabaseServer, create

if TYPE_CHECKING:
    from vif_driver.config import Config

    from .hook_process import Hook, ScriptedAgent
    from .moving_vm import Play, Provider
    from .paper_host import OnPaper, PaperHost
    from .southbound_server import Authority
    from .stage import OnStage

VNIC_ID = "3c1ad1e9-4d6a-4f0e-9f5b-0d6c2a7b1e11"
VM_ID = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
MAC = "56:6f:1a:2b:00:01"

# The whole folder is to take seconds.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.load_profile("quick")

_CLONE_NEWNET = 0x40000000

#: What VDSM gives a hook for a vNIC that is not connected to one of its own networks.
VDSM_INTERFACE = f"""\
<?xml version='1.0' encoding='utf-8'?>
<interface type="bridge">
    <address bus="0x02" domain="0x0000" function="0x0" slot="0x00" type="pci" />
    <mac address="{MAC}" />
    <model type="virtio" />
    <source bridge=";vdsmdummy;" />
    <filterref filter="vdsm-no-mac-spoofing" />
    <link state="up" />
    <boot order="2" />
    <mtu size="1442" />
    <alias name="ua-0b6a3c1d-7e1c-4a5b-8a55-4a7c6f0d9e11" />
</interface>
""".encode()


@pytest.fixture(autouse=True)
def soon_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that was restarted, or had moved on, is asked again at once.

    Not after the library's second, and a tenth of ours.
    """

    def set_backoff(reconnect: Any, _lowest: int, _highest: int) -> None:
        reconnect.min_backoff = reconnect.max_backoff = 20  # milliseconds

    monkeypatch.setattr(ovs.reconnect.Reconnect, "set_backoff", set_backoff)
    monkeypatch.setattr(replica, "_PAUSE", 0.01)
    monkeypatch.setattr(ovsdb_once, "_PAUSE", 0.01)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA."""
    from .southbound_server import Authority

    return Authority.make(tmp_path_factory.mktemp("own") / "ours")


@pytest.fixture
def ovn_properties() -> dict[str, str]:
    """The properties of a vNIC of oVirt's own OVN provider."""
    return {
        "provider_type": "EXTERNAL_NETWORK",
        "plugin_type": "OVIRT_PROVIDER_OVN",
        "vnic_id": VNIC_ID,
        "vmId": VM_ID,
    }


@pytest.fixture
def ovs_properties(ovn_properties: dict[str, str]) -> dict[str, str]:
    """The properties of a vNIC of Neutron with Open vSwitch."""
    return {
        **ovn_properties,
        "provider_type": "OPENSTACK_NETWORK",
        "plugin_type": "OPEN_VSWITCH",
    }


@pytest.fixture
def linux_bridge_properties(ovs_properties: dict[str, str]) -> dict[str, str]:
    """The properties of a vNIC of Neutron with Linux bridge."""
    return {**ovs_properties, "plugin_type": "LINUX_BRIDGE"}


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The network devices of the host, to be changed by the test; a bridge br-int to begin with."""
    present = {"br-int", ";vdsmdummy;"}
    monkeypatch.setattr(kernel, "has_device", present.__contains__)
    monkeypatch.setattr(ovsdb_socket, "is_down", lambda: False)
    return present


RunInNamespace = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture
def in_network_namespace() -> RunInNamespace:
    """Run a coroutine in a network namespace of its own, which ends with it."""
    if os.geteuid() != 0:
        pytest.fail("network namespaces need root: run the tests as root")

    def run(body: Callable[[], Awaitable[Any]]) -> Any:
        outcome: dict[str, Any] = {}

        def thread() -> None:
            # A namespace belongs to a thread, and the threads that it starts inherit it.
            libc = ctypes.CDLL(None, use_errno=True)
            try:
                if libc.unshare(_CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "unshare")

                async def main() -> Any:
                    return await body()

                outcome["result"] = asyncio.run(main())
            except BaseException as error:
                outcome["error"] = error

        runner = threading.Thread(target=thread)
        runner.start()
        runner.join()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]

    return run


WithLinks = Callable[[Callable[[Links], Awaitable[Any]]], Any]


@pytest.fixture
def with_links(in_network_namespace: RunInNamespace) -> WithLinks:
    """Run a scenario on real devices: at first there is none but the loopback's."""

    def run(scenario: Callable[[Links], Awaitable[Any]]) -> Any:
        async def body() -> Any:
            own_sysfs.mount()
            links = Links()
            await links.all()  # it is open from now on
            try:
                # Far below the time after which a wait looks for the last time.
                return await asyncio.wait_for(scenario(links), 20)
            finally:
                await links.close()

        return in_network_namespace(body)

    return run


class OvsdbServer(DatabaseServer):
    """A real ovsdb-server with Open vSwitch's schema.

    Args:
        folder: for its files.
    """

    NAME = "Open_vSwitch"
    _SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "conf.db")
        create(self.database, self._SCHEMA)

    def vsctl(self, *arguments: str) -> str:
        return programs.run(
            "ovs-vsctl", f"--db=unix:{self.socket}", "--no-wait", *arguments
        ).strip()

    def reset(self) -> None:
        """Have nothing in the database but what ``ovs-vsctl add-br br-int`` makes."""
        rows = {
            "Interface": {"name": "br-int", "type": "internal"},
            "Port": {"name": "br-int", "interfaces": ["named-uuid", "Interface"]},
            "Bridge": {"name": "br-int", "ports": ["named-uuid", "Port"]},
            "Open_vSwitch": {"bridges": ["named-uuid", "Bridge"]},
        }
        self.replace(
            {"op": "insert", "table": name, "uuid-name": name, "row": row}
            for name, row in rows.items()
        )


@pytest.fixture(scope="session")
def open_vswitch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OvsdbServer]:
    """The server for the tests that ask for one; not for use by itself."""
    server = OvsdbServer(tmp_path_factory.mktemp("ovsdb"))
    yield server
    server.stop()


@pytest.fixture
def ovsdb_server(open_vswitch: OvsdbServer) -> OvsdbServer:
    """A real ovsdb-server with a bridge br-int."""
    open_vswitch.start()  # this test is the first one to ask, or one before it has stopped it
    open_vswitch.reset()
    return open_vswitch


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """OVN's databases with the ports of a VM that moves."""
    from .moving_vm import Provider

    provider = Provider(tmp_path_factory.mktemp("ovn"))
    yield provider
    provider.stop()


@pytest.fixture
def play(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a scenario in which a VM moves."""
    from . import moving_vm

    (tmp_path / "released").mkdir()
    moving_vm.hurry(monkeypatch)
    return functools.partial(moving_vm.play, folder=tmp_path, patch=monkeypatch, provider=provider)


@pytest.fixture
def hook(tmp_path: Path, ovn_properties: dict[str, str]) -> Hook:
    """The hook, with the environment of an OVN vNIC and no agent."""
    from .hook_process import Hook

    return Hook(tmp_path, ovn_properties)


@pytest.fixture
def agent(hook: Hook) -> Iterator[ScriptedAgent]:
    """An agent of the hook's that gives the answers which the test puts in."""
    from .hook_process import ScriptedAgent

    scripted = ScriptedAgent(hook.socket)
    yield scripted
    scripted.stop()


@pytest.fixture
def on_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnStage:
    """Run a scenario in which one VM stands still."""
    from . import stage

    return functools.partial(stage.run, folder=tmp_path, patch=monkeypatch)


@pytest.fixture
def on_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnPaper:
    """Run a scenario at a host on paper, where nothing is."""
    from . import paper_host

    return functools.partial(paper_host.play, folder=tmp_path, patch=monkeypatch)


@pytest.fixture
def with_reconciler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnPaper:
    """Run a scenario with a reconciler that has taken its first look, at a host without VMs."""
    from . import paper_host

    return functools.partial(paper_host.play_started, folder=tmp_path, patch=monkeypatch)


@pytest.fixture
def look(on_paper: OnPaper) -> OnPaper:
    """Look at a host on paper once, after it was made so."""

    def run(arrange: Any, config: Config | None = None) -> Any:
        async def scenario(paper: PaperHost) -> Any:
            arrange(paper)
            return await paper.find()

        return on_paper(scenario, config=config)

    return run
