# SPDX-License-Identifier: GPL-2.0-or-later
"""A host becomes one of Neutron's: which agent, which order, and what is said besides."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from vif_driver import config, marks
from vif_driver.config import Config
from vif_driver.configuration import neutron_host, neutron_past
from vif_driver.configuration.bridges import MADE_FOR
from vif_driver.configuration.message_queue import MessageQueue
from vif_driver.configuration.neutron import LINUX_BRIDGE, OPEN_VSWITCH, Wish
from vif_driver.configuration.transaction import Rehearsal
from vif_driver.errors import Unavailable, VifError
from vif_driver.host import kernel, neutron_agent, ovs_bridges, processes, snapshot, switch, units
from vif_driver.host.ovs_bridges import Bridge
from vif_driver.host.snapshot import Address, Device, Snapshot
from vif_driver.host.switch import Switch, SwitchInterface
from vif_driver.host.units import Unit

ETH0 = Device("eth0", "", 1500, None, None, None, None, 0)
TAPS = {
    "as older drivers plug": Device("tap1", "tun", 1500, "brq1", None, None, None, 0),
    "as this one does": Device("tap1", "veth", 1500, "brq1", None, "qtp1", None, marks.GROUP),
}
with_taps = pytest.mark.parametrize("tap", TAPS.values(), ids=TAPS.keys())
TAP = TAPS["as older drivers plug"]
VNIC = SwitchInterface("tap1", "", "tap1", "br-int", vnic_id="3c1a")
IPS = tuple(ipaddress.ip_address(f"192.0.2.{number}") for number in (1, 2))


class Host:
    """Of paper.

    Attributes:
        etc: ``/etc/neutron``.
        state: where it is noted what was before.
        installed: units, and whether they run.
        switch: Open vSwitch; None if it does not answer.
        vswitchd: whether that runs.
        devices, addresses: the kernel's.
    """

    def __init__(self, folder: Path) -> None:
        self.etc = folder / "etc"
        self.state = folder / "state"
        self.state.mkdir()
        self.installed = {OPEN_VSWITCH.unit: False, "openvswitch.service": True}
        self.switch: Switch | None = Switch()
        self.vswitchd = True
        self.devices = {"eth0": ETH0}
        self.addresses: tuple[Address, ...] = ()
        (self.etc / "plugins/ml2").mkdir(parents=True)
        self.write("neutron.conf", "[DEFAULT]\ntransport_url = rabbit://u:p@mq/\n")
        self.write(OPEN_VSWITCH.file, "")
        self.write(LINUX_BRIDGE.file, "")

    def write(self, name: str, text: str) -> None:
        (self.etc / name).write_text(text)

    def look(self, name: str) -> Unit:
        runs = self.installed.get(name, False)
        return Unit(name, name in self.installed, runs, runs)

    def read_once(self, _timeout: float) -> Switch:
        if self.switch is None:
            raise Unavailable("Open vSwitch's database does not answer", "start it")
        return self.switch

    def configure(
        self, wish: Wish, agent: str | None = None, *, force: bool = False
    ) -> tuple[list[str], list[str]]:
        """Rehearse it; gives what would be done, and what is said besides."""
        rehearsal = Rehearsal()
        notes = neutron_host.configure(rehearsal, wish, agent, None, self.state, force=force)
        return [fact.what for fact in rehearsal.facts if not fact.is_so], notes

    def undo(self, *, force: bool = False) -> tuple[list[str], list[str]]:
        rehearsal = Rehearsal()
        notes = neutron_host.undo(rehearsal, self.state, force=force)
        return [fact.what for fact in rehearsal.facts if not fact.is_so], notes


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(neutron_agent, "FOLDER", host.etc)
    monkeypatch.setattr(neutron_agent.underlay, "__defaults__", (host.etc,))
    monkeypatch.setattr(units, "look", host.look)
    monkeypatch.setattr(switch, "read_once", host.read_once)
    monkeypatch.setattr(ovs_bridges, "look", dict)
    monkeypatch.setattr(snapshot, "take", lambda: Snapshot(host.devices, host.addresses))
    monkeypatch.setattr(kernel, "is_down", lambda _name: False)
    monkeypatch.setattr(processes, "find", lambda _name: 7 if host.vswitchd else None)
    monkeypatch.setattr(config, "load", Config)
    return host


BRIDGES = Wish(bridges={"p1": "br-ex"})


def refusal(host: Host, wish: Wish, agent: str | None = None) -> str:
    with pytest.raises(VifError) as raised:
        host.configure(wish, agent)
    return str(raised.value)


# ---- which agent ---------------------------------------------------------------------------------


def test_a_host_without_an_agent_needs_one(host: Host) -> None:
    del host.installed[OPEN_VSWITCH.unit]

    assert refusal(host, Wish()).startswith("this host has no agent of Neutron's; install ")


def test_of_two_agents_one_must_be_named(host: Host) -> None:
    host.installed[LINUX_BRIDGE.unit] = True

    assert refusal(host, Wish()) == (
        "this host has two agents, openvswitch and linuxbridge; name one with --agent"
    )


def test_what_only_one_agent_knows_names_it(host: Host) -> None:
    host.installed[LINUX_BRIDGE.unit] = False

    done, _ = host.configure(Wish(interfaces={"p1": "eth0"}))

    assert f"{LINUX_BRIDGE.unit} runs" in done


def test_an_agent_that_is_not_installed_is_named(host: Host) -> None:
    said = refusal(host, Wish(interfaces={"p1": "eth0"}))

    assert said.startswith("Neutron's Linux bridge agent is not installed (neutron-linuxbridge")


# ---- Open vSwitch --------------------------------------------------------------------------------


def test_the_open_vswitch_agent_needs_open_vswitch(host: Host) -> None:
    host.switch = None

    assert refusal(host, BRIDGES) == "Open vSwitch's database does not answer; start it"


def test_and_the_daemon_behind_its_database(host: Host) -> None:
    host.vswitchd = False

    assert refusal(host, BRIDGES).startswith("ovs-vswitchd does not run; start it: ")


def test_the_linux_bridge_agent_does_without(host: Host) -> None:
    host.installed = {LINUX_BRIDGE.unit: False}
    host.switch = None

    done, _ = host.configure(Wish(interfaces={"p1": "eth0"}))

    assert not [what for what in done if "bridge br-" in what]


# ---- what is done --------------------------------------------------------------------------------


def test_what_is_done_is_told_in_the_order_in_which_it_is_done(host: Host) -> None:
    done, _ = host.configure(Wish(bridges={"p1": "br-ex"}, uplinks={"br-ex": "eth0"}))

    assert done == [
        "what the host was before is noted",
        "Open vSwitch has the bridge br-int",
        "Open vSwitch has the bridge br-ex",
        "eth0 is a port of br-ex",
        f"{OPEN_VSWITCH.file}: [ovs] bridge_mappings = p1:br-ex",
        f"{OPEN_VSWITCH.unit} starts at boot",
        f"{OPEN_VSWITCH.unit} runs",
    ]


def test_an_agent_that_runs_is_restarted_for_its_new_options(host: Host) -> None:
    host.installed[OPEN_VSWITCH.unit] = True

    done, _ = host.configure(BRIDGES)

    assert done[-1] == f"{OPEN_VSWITCH.unit} was restarted"


def test_an_agent_whose_options_stay_is_not(host: Host) -> None:
    host.installed[OPEN_VSWITCH.unit] = True

    done, _ = host.configure(Wish())

    assert f"{OPEN_VSWITCH.unit} was restarted" not in done


def test_a_restart_that_would_cut_vms_off_is_refused(host: Host) -> None:
    host.installed[OPEN_VSWITCH.unit] = True
    host.write(OPEN_VSWITCH.file, "[agent]\ndrop_flows_on_start = true\n")

    assert "which would cut all VMs off ([agent] drop_flows_on_start is true)" in refusal(
        host, BRIDGES
    )


# ---- whom it would cut off -----------------------------------------------------------------------


@pytest.fixture
def serving(host: Host) -> Host:
    """A host that the Open vSwitch agent serves, with a VM."""
    host.installed[OPEN_VSWITCH.unit] = True
    host.addresses = tuple(Address(ip, 24, "eth0", lasting=True) for ip in IPS)
    host.write(
        OPEN_VSWITCH.file,
        "[ovs]\nbridge_mappings = p1:br-ex, p2 : br-2\nlocal_ip = 192.0.2.1\n"
        "[agent]\ntunnel_types = vxlan,gre\n",
    )
    uplinks = [SwitchInterface(f"eth{n}", "", f"eth{n}", f"br-{n}") for n in (2, 3)]
    host.switch = Switch(interfaces=[VNIC, *uplinks])
    return host


@pytest.mark.parametrize(
    ("wish", "lost"),
    [
        (Wish(integration_bridge="br-new"), "integration bridge br-int"),
        (Wish(bridges={}), "p1:br-ex, p2:br-2"),
        (Wish(bridges={"p1": "br-3", "p2": "br-2"}), "p1:br-ex"),
        (Wish(tunnel_ip=IPS[1]), "vxlan tunnels from 192.0.2.1, gre tunnels from 192.0.2.1"),
        (Wish(tunnel_types=("vxlan",)), "gre tunnels from 192.0.2.1"),
    ],
)
def test_vms_keep_their_ways_out(serving: Host, wish: Wish, lost: str) -> None:
    assert refusal(serving, wish) == (
        "vNIC 3c1a of a VM is on br-int and would be cut off: Neutron's Open vSwitch agent would "
        f"no longer have {lost}; migrate or stop the VMs with external networks first, or say "
        "--force"
    )


def test_unless_that_is_meant(serving: Host) -> None:
    done, _ = serving.configure(Wish(bridges={}), force=True)

    assert f"{OPEN_VSWITCH.file}: [ovs] bridge_mappings = " in done


def test_or_there_are_none(serving: Host) -> None:
    serving.switch = Switch()

    done, _ = serving.configure(Wish(bridges={}))

    assert f"{OPEN_VSWITCH.unit} was restarted" in done


@pytest.mark.parametrize(
    "wish",
    [
        Wish(bridges={"p2": "br-2", "p1": "br-ex", "p3": "br-3"}),
        Wish(tunnel_types=("gre", "vxlan", "geneve")),
        Wish(integration_bridge="br-int"),
    ],
)
def test_more_ways_out_cut_nobody_off(serving: Host, wish: Wish) -> None:
    done, _ = serving.configure(wish)

    assert f"{OPEN_VSWITCH.unit} was restarted" in done


def test_an_agent_that_is_to_be_beside_ovn_leaves_its_vms_alone(host: Host) -> None:
    host.switch = Switch({"ovn-remote": "tcp:192.0.2.9:6642"}, [VNIC])

    done, _ = host.configure(Wish(integration_bridge="br-n"))

    assert f"{OPEN_VSWITCH.file}: [ovs] integration_bridge = br-n" in done


@pytest.fixture
def serving_on_linux_bridges(host: Host) -> Host:
    """A host that the Linux bridge agent serves, with a VM."""
    host.installed = {LINUX_BRIDGE.unit: True}
    host.addresses = tuple(Address(ip, 24, "eth9", lasting=True) for ip in IPS)
    host.devices["eth1"] = ETH0._replace(name="eth1")
    host.devices["tap1"] = TAP
    host.write(
        LINUX_BRIDGE.file,
        "[linux_bridge]\nphysical_interface_mappings = p1:eth0\n[vxlan]\nlocal_ip = 192.0.2.1\n",
    )
    return host


@pytest.mark.parametrize(
    ("wish", "lost"),
    [
        (Wish(interfaces={"p1": "eth1"}), "p1:eth0"),
        (Wish(tunnel_ip=IPS[1]), "vxlan tunnels from 192.0.2.1"),
        (Wish(tunnel_types=()), "vxlan tunnels from 192.0.2.1"),
    ],
)
def test_so_do_vms_on_linux_bridges(serving_on_linux_bridges: Host, wish: Wish, lost: str) -> None:
    assert refusal(serving_on_linux_bridges, wish).startswith(
        "tap1 of a VM is on brq1 and would be cut off: Neutron's Linux bridge agent would no "
        f"longer have {lost}; "
    )


def test_a_restart_that_drops_flows_can_be_meant(host: Host) -> None:
    host.installed[OPEN_VSWITCH.unit] = True
    host.write(OPEN_VSWITCH.file, "[agent]\ndrop_flows_on_start = true\n")

    done, _ = host.configure(BRIDGES, force=True)

    assert done[-1] == f"{OPEN_VSWITCH.unit} was restarted"


# ---- what is said besides ------------------------------------------------------------------------


def test_a_bridge_that_leads_nowhere_is_named(host: Host) -> None:
    _, notes = host.configure(BRIDGES)

    assert notes == ["br-ex leads nowhere: give it a network card with --uplink br-ex:DEVICE"]


def test_one_with_a_network_card_is_not(host: Host) -> None:
    host.switch = Switch(interfaces=[SwitchInterface("eth9", "", "eth9", "br-ex")])

    assert host.configure(BRIDGES)[1] == []


@pytest.mark.parametrize(("down", "warned"), [({"eth0"}, True), (set(), False)])
def test_a_network_card_that_is_down_is_named(
    host: Host, monkeypatch: pytest.MonkeyPatch, down: set[str], warned: bool
) -> None:
    monkeypatch.setattr(kernel, "is_down", down.__contains__)

    _, notes = host.configure(Wish(bridges={"p1": "br-ex"}, uplinks={"br-ex": "eth0"}))

    told = "eth0 is down, so nothing passes: ip link set eth0 up, and see that it is at boot, too"
    assert notes == ([told] if warned else [])


def test_an_integration_bridge_that_we_do_not_use_is_named(host: Host) -> None:
    _, notes = host.configure(Wish(integration_bridge="br-n"))

    assert notes[0].endswith("vNICs are plugged into that one; set it to br-n")


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False)])
def test_a_password_that_everybody_can_read_is_told(host: Host, mode: int, warned: bool) -> None:
    path = host.etc / "neutron.conf"
    path.chmod(mode)

    _, notes = host.configure(Wish(queue=MessageQueue([("mq", 5672)], "neutron", "secret")))

    told = f"everybody on this host can read {path}, which has a password: chmod o= {path}"
    assert (told in notes) == warned


# ---- undone --------------------------------------------------------------------------------------


@pytest.fixture
def past(host: Host) -> neutron_past.Past:
    """That of a host that has been configured."""
    past = neutron_past.Past(
        (
            neutron_past.PastOption(OPEN_VSWITCH.file, "ovs", "bridge_mappings", None, "p1:br-ex"),
            neutron_past.PastOption(OPEN_VSWITCH.file, "ovs", "local_ip", "192.0.2.1", "192.0.2.2"),
        ),
        (neutron_past.PastService(OPEN_VSWITCH.unit, active=False, enabled=False),),
    )
    (host.state / neutron_past.NAME).write_bytes(past.content())
    host.installed[OPEN_VSWITCH.unit] = True
    host.write(OPEN_VSWITCH.file, "[ovs]\nbridge_mappings = p1:br-ex\nlocal_ip = 192.0.2.2\n")
    return past


def test_a_host_that_was_not_configured_has_nothing_to_undo(host: Host) -> None:
    assert host.undo() == ([], ["nothing here was configured by vifctl configure neutron"])


@pytest.mark.usefixtures("past")
def test_all_that_was_set_is_undone(host: Host) -> None:
    done, notes = host.undo()

    assert done == [
        f"{OPEN_VSWITCH.unit} does not start at boot",
        f"{OPEN_VSWITCH.unit} does not run",
        f"{OPEN_VSWITCH.file}: [ovs] bridge_mappings is not set",
        f"{OPEN_VSWITCH.file}: [ovs] local_ip is what it was",
        "what the host was before is forgotten",
    ]
    assert not notes


@pytest.mark.usefixtures("past")
def test_what_somebody_else_has_changed_since_stays(host: Host) -> None:
    host.write(OPEN_VSWITCH.file, "[ovs]\nbridge_mappings = p1:br-x\nlocal_ip = 192.0.2.2\n")

    _, notes = host.undo()

    assert notes == [
        f"{OPEN_VSWITCH.file}: [ovs] bridge_mappings stays as it is: it was changed since"
    ]


@pytest.mark.usefixtures("past")
def test_a_host_with_vms_is_not_undone(host: Host) -> None:
    host.switch = Switch(interfaces=[VNIC])

    with pytest.raises(VifError, match="vNIC 3c1a of a VM is on br-int and would be cut off"):
        host.undo()


@pytest.fixture
def made(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host on which a bridge was made, and given a network card."""
    past = neutron_past.Past(bridges=("br-ex",), uplinks=(("br-ex", "eth0"),))
    (host.state / neutron_past.NAME).write_bytes(past.content())
    host.switch = Switch(
        interfaces=[
            SwitchInterface("br-ex", "internal", "br-ex", "br-ex"),
            SwitchInterface("eth0", "", "eth0", "br-ex"),
            SwitchInterface("phy-br-ex", "patch", "phy-br-ex", "br-ex"),
        ]
    )
    bridge = Bridge(external_ids={MADE_FOR: "neutron"}, ports=("eth0", "phy-br-ex"))
    monkeypatch.setattr(ovs_bridges, "look", lambda: {"br-ex": bridge})
    return host


def test_a_bridge_that_was_made_goes_with_its_network_card(made: Host) -> None:
    done, notes = made.undo()

    assert done == [
        "eth0 is not a port of br-ex",
        "there is no bridge br-ex",
        "what the host was before is forgotten",
    ]
    assert not notes


def test_one_that_the_host_is_reached_by_stays(made: Host) -> None:
    made.addresses = (Address(ipaddress.ip_address("192.0.2.1"), 24, "br-ex", lasting=True),)

    done, notes = made.undo()

    assert done == ["what the host was before is forgotten"]
    assert notes == ["bridge br-ex stays with its ports: it has the address 192.0.2.1 of this host"]


def test_one_that_somebody_else_uses_stays(made: Host) -> None:
    assert made.switch is not None
    storage = SwitchInterface("storage", "internal", "storage", "br-ex", tag=7)
    made.switch = Switch(interfaces=[*made.switch.interfaces, storage])

    done, notes = made.undo()

    assert done == ["what the host was before is forgotten"]
    assert notes == ["bridge br-ex stays with its ports: somebody else has added storage"]


@with_taps
def test_nor_is_one_with_vms_on_linux_bridges(host: Host, tap: Device) -> None:
    services = (neutron_past.PastService(LINUX_BRIDGE.unit, active=False, enabled=False),)
    (host.state / neutron_past.NAME).write_bytes(neutron_past.Past((), services).content())
    host.devices["tap1"] = tap

    with pytest.raises(VifError, match="tap1 of a VM is on brq1 and would be cut off"):
        host.undo()


def test_it_is_undone_all_the_same_if_that_is_meant(host: Host, past: neutron_past.Past) -> None:
    host.switch = Switch(interfaces=[VNIC])

    done, _ = host.undo(force=True)

    assert f"{past.services[0].unit} does not run" in done


def test_vms_keep_a_network_card_that_was_added(made: Host) -> None:
    past = neutron_past.Past(uplinks=(("br-ex", "eth0"),))
    (made.state / neutron_past.NAME).write_bytes(past.content())
    made.switch = Switch(interfaces=[VNIC])

    with pytest.raises(VifError, match="vNIC 3c1a of a VM is on br-int and would be cut off"):
        made.undo()


@pytest.fixture
def served_before(host: Host) -> Host:
    """A host that an agent served before it was configured, and serves still."""
    options = (
        neutron_past.PastOption(OPEN_VSWITCH.file, "ovs", "bridge_mappings", None, "p1:br-ex"),
    )
    services = (neutron_past.PastService(OPEN_VSWITCH.unit, active=True, enabled=True),)
    past = neutron_past.Past(options, services)
    (host.state / neutron_past.NAME).write_bytes(past.content())
    host.installed[OPEN_VSWITCH.unit] = True
    host.write(OPEN_VSWITCH.file, "[ovs]\nbridge_mappings = p1:br-ex\n")
    return host


def test_an_agent_that_goes_on_is_restarted(served_before: Host) -> None:
    done, _ = served_before.undo()

    assert done[-1] == f"{OPEN_VSWITCH.unit} was restarted"


def test_vms_keep_the_ways_out_that_were_given_to_it(served_before: Host) -> None:
    served_before.switch = Switch(interfaces=[VNIC])

    with pytest.raises(VifError, match="Open vSwitch agent would no longer have p1:br-ex; "):
        served_before.undo()


def test_and_their_flows(served_before: Host) -> None:
    served_before.write(
        OPEN_VSWITCH.file,
        "[ovs]\nbridge_mappings = p1:br-ex\n[agent]\ndrop_flows_on_start = true\n",
    )

    with pytest.raises(VifError, match="restarted, which would cut all VMs off"):
        served_before.undo()
