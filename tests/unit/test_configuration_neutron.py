# SPDX-License-Identifier: GPL-2.0-or-later
"""What Neutron's agents are told, what that needs of the host, and what is refused."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

import pytest

from vif_driver.configuration import neutron
from vif_driver.configuration.message_queue import MessageQueue
from vif_driver.configuration.neutron import (
    LINUX_BRIDGE,
    OPEN_VSWITCH,
    Agent,
    Files,
    Plan,
    Wish,
)
from vif_driver.configuration.neutron_past import PastOption
from vif_driver.errors import ConfigError, VifError
from vif_driver.host.addresses import Ip
from vif_driver.host.snapshot import Address, Device, Snapshot
from vif_driver.host.switch import Switch, SwitchInterface

IP = ipaddress.ip_address("192.0.2.1")
QUEUE = MessageQueue((("mq", 5672),), "neutron", "secret")


def device(name: str, kind: str = "", **more: object) -> Device:
    values = {"mtu": 1500, "master": None, "parent": None, "peer": None, "tag": None, "group": 0}
    return Device(name=name, kind=kind, **{**values, **more})  # type: ignore[arg-type]


def address(on: str, ip: Ip = IP) -> Address:
    return Address(ip, 24, on, lasting=True)


DEVICES = [
    device("lo"),
    device("eth0"),
    device("eth1"),
    device("eth2", master="bond0"),
    device("bond0", "bond"),
    device("bond0.7", "vlan", parent="bond0", tag=7),
    device("virbr0", "bridge"),
    device("eth3", master="virbr0"),
    device("eth4"),
]
SWITCH = Switch(
    {}, [SwitchInterface("br-old", "internal", "br-old", "br-old"),
         SwitchInterface("eth4", "", "eth4", "br-old")]
)  # fmt: skip


class Host:
    """Of paper.

    Attributes:
        folder: its ``/etc/neutron``.
        switch: its Open vSwitch.
        addresses: those it has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.switch = SWITCH
        self.addresses = [address("bond0.7")]
        (folder / "plugins/ml2").mkdir(parents=True)
        self.write("neutron.conf", "[DEFAULT]\ntransport_url = rabbit://u:p@there:5671/\n")
        self.write(OPEN_VSWITCH.file, "[ovs]\n[agent]\n")
        self.write(LINUX_BRIDGE.file, "[linux_bridge]\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def decide(self, agent: Agent, **wish: object) -> Plan:
        snapshot = Snapshot({one.name: one for one in DEVICES}, tuple(self.addresses))
        files = Files(agent, self.folder)
        return neutron.decide(Wish(**wish), agent, files, snapshot, self.switch)  # type: ignore[arg-type]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def settings(plan: Plan) -> dict[str, str]:
    return {f"[{one.section}] {one.option}": one.value for one in plan.settings}


# ---- what is to be so ----------------------------------------------------------------------------


def test_the_message_queue_is_for_all_of_neutrons_services(host: Host) -> None:
    plan = host.decide(OPEN_VSWITCH, queue=QUEUE)

    (setting,) = plan.settings
    assert (setting.file, setting.value) == ("neutron.conf", "rabbit://neutron:secret@mq:5672/")
    assert plan.transport_url == setting.value


def test_what_is_shown_of_it_has_no_password(host: Host) -> None:
    (setting,) = host.decide(OPEN_VSWITCH, queue=QUEUE).settings

    assert str(setting) == "neutron.conf: [DEFAULT] transport_url = (to mq:5672 as neutron)"


def test_a_message_queue_that_is_configured_stays(host: Host) -> None:
    plan = host.decide(OPEN_VSWITCH, bridges={})

    assert plan.transport_url == "rabbit://u:p@there:5671/"
    assert "[DEFAULT] transport_url" not in settings(plan)


def test_the_open_vswitch_agent_gets_what_was_asked_for(host: Host) -> None:
    plan = host.decide(
        OPEN_VSWITCH,
        bridges={"p1": "br-1", "p2": "br-old"},
        integration_bridge="br-n",
        tunnel_ip=IP,
        tunnel_types=["vxlan", "gre"],
    )

    assert settings(plan) == {
        "[ovs] integration_bridge": "br-n",
        "[ovs] bridge_mappings": "p1:br-1,p2:br-old",
        "[ovs] local_ip": "192.0.2.1",
        "[agent] tunnel_types": "vxlan,gre",
    }
    assert {one.file for one in plan.settings} == {OPEN_VSWITCH.file}


def test_it_needs_its_integration_bridge_and_those_that_are_mapped(host: Host) -> None:
    plan = host.decide(OPEN_VSWITCH, bridges={"p1": "br-1"})

    assert (plan.bridges, plan.integration_bridge) == (("br-int", "br-1"), "br-int")


def test_bridges_of_a_file_are_needed_as_well(host: Host) -> None:
    host.write(
        OPEN_VSWITCH.file,
        "[ovs]\nbridge_mappings = p1:br-1\nintegration_bridge = br-n\ndatapath_type = netdev\n",
    )

    plan = host.decide(OPEN_VSWITCH)

    assert plan.bridges == ("br-n", "br-1")
    assert plan.datapath_type == "netdev"
    assert not plan.settings


def test_no_mappings_are_possible_too(host: Host) -> None:
    plan = host.decide(OPEN_VSWITCH, bridges={}, tunnel_types=[])

    assert settings(plan) == {"[ovs] bridge_mappings": "", "[agent] tunnel_types": ""}


def test_the_linux_bridge_agent_gets_interfaces_and_no_tunnels(host: Host) -> None:
    plan = host.decide(LINUX_BRIDGE, interfaces={"p1": "eth0", "p2": "bond0"})

    assert settings(plan) == {
        "[linux_bridge] physical_interface_mappings": "p1:eth0,p2:bond0",
        # Without an address it would end at once.
        "[vxlan] enable_vxlan": "false",
    }
    assert not plan.bridges


def test_it_makes_tunnels_where_it_has_an_address_for_them(host: Host) -> None:
    assert settings(host.decide(LINUX_BRIDGE, tunnel_ip=IP)) == {"[vxlan] local_ip": "192.0.2.1"}


@pytest.mark.parametrize(
    ("text", "wish", "expected"),
    [
        ("enable_vxlan = False", {}, {}),
        ("enable_vxlan = no\nlocal_ip = 192.0.2.1", {}, {}),
        ("enable_vxlan = 0\nlocal_ip = 192.0.2.1", {"tunnel_types": ["vxlan"]}, "true"),
        ("local_ip = 192.0.2.1", {"tunnel_types": []}, "false"),
        ("local_ip = 192.0.2.1", {"tunnel_types": ["vxlan"]}, {}),
    ],
)
def test_tunnels_that_are_as_they_are_to_be_stay(
    host: Host, text: str, wish: Mapping[str, object], expected: str | dict[str, str]
) -> None:
    host.write(LINUX_BRIDGE.file, f"[vxlan]\n{text}\n")

    found = settings(host.decide(LINUX_BRIDGE, **wish))

    assert found == ({"[vxlan] enable_vxlan": expected} if isinstance(expected, str) else expected)


# ---- what is refused -----------------------------------------------------------------------------


def refusal(host: Host, agent: Agent, **wish: object) -> str:
    with pytest.raises(VifError) as raised:
        host.decide(agent, **wish)
    text = str(raised.value)
    assert "\n" not in text and "secret" not in text
    return text


@pytest.mark.parametrize(
    ("agent", "wish", "said"),
    [
        (LINUX_BRIDGE, {"interfaces": {"p": "eth9"}}, "there is no device eth9"),
        (LINUX_BRIDGE, {"interfaces": {"p": "virbr0"}}, "virbr0 is a bridge; "),
        (LINUX_BRIDGE, {"interfaces": {"p": "br-old"}}, "there is no device br-old"),
        (LINUX_BRIDGE, {"interfaces": {"p": "eth4"}}, "eth4 is a port of Open vSwitch's bridge"),
        (LINUX_BRIDGE, {"interfaces": {"p": "eth2"}}, "eth2 is a member of bond0"),
        (
            LINUX_BRIDGE,
            {"interfaces": {"p": "bond0.7"}, "tunnel_ip": IP},
            "bond0.7 has the address of this host's tunnels (192.0.2.1)",
        ),
        (LINUX_BRIDGE, {"tunnel_types": ["gre"]}, "makes no gre tunnels; it can make vxlan"),
        (LINUX_BRIDGE, {"bridges": {"p": "br-1"}}, "--bridge-mapping, --integration-bridge and"),
        (OPEN_VSWITCH, {"interfaces": {"p": "eth0"}}, "--interface-mapping is not for Neutron's"),
        (OPEN_VSWITCH, {"bridges": {"p": "virbr0"}}, "virbr0 is a device of this host (bridge)"),
        (OPEN_VSWITCH, {"bridges": {"p": "eth4"}}, "eth4 is a port of the bridge br-old"),
        (OPEN_VSWITCH, {"bridges": {"p": "br-int"}}, "br-int is the agent's own bridge"),
        (OPEN_VSWITCH, {"bridges": {"p": "br-tun"}}, "br-tun is the agent's own bridge"),
        (OPEN_VSWITCH, {"integration_bridge": "eth0"}, "eth0 is a device of this host and no"),
        (OPEN_VSWITCH, {"tunnel_types": ["vxlan"]}, "tunnels (vxlan) need this host's address"),
        (
            OPEN_VSWITCH,
            {"tunnel_ip": ipaddress.ip_address("192.0.2.9")},
            "192.0.2.9 is no address of this host",
        ),
    ],
)
def test_what_the_host_is_not_fit_for_is_refused(
    host: Host, agent: Agent, wish: Mapping[str, object], said: str
) -> None:
    assert said in refusal(host, agent, **wish)


@pytest.mark.parametrize(
    ("uplink", "said"),
    [
        ({"br-2": "eth0"}, "no physical network is mapped to br-2"),
        ({"br-1": "eth9"}, "there is no device eth9"),
        ({"br-1": "eth4"}, "eth4 is a port of Open vSwitch's bridge br-old"),
        ({"br-1": "virbr0"}, "virbr0 is a bridge"),
        ({"br-1": "eth3"}, "eth3 is a port of virbr0"),
        ({"br-1": "bond0.7"}, "bond0.7 has the address 192.0.2.1, which would no longer be"),
        ({"br-1": "eth1"}, "eth1 has the address 2001:db8::1"),
    ],
)
def test_an_uplink_that_something_else_uses_is_refused(
    host: Host, uplink: Mapping[str, str], said: str
) -> None:
    host.addresses += [address("eth1", ipaddress.ip_address("2001:db8::1"))]

    assert said in refusal(host, OPEN_VSWITCH, bridges={"p": "br-1"}, uplinks=uplink)


def test_an_uplink_that_the_tunnels_stand_on_is_refused(host: Host) -> None:
    said = refusal(
        host,
        OPEN_VSWITCH,
        bridges={"p": "br-1"},
        uplinks={"br-1": "bond0"},
        tunnel_ip=IP,
        tunnel_types=["vxlan"],
    )

    assert "--uplink: bond0 carries Neutron's tunnels" in said


def test_an_uplink_with_a_link_local_address_alone_is_free(host: Host) -> None:
    host.addresses += [address("eth1", ipaddress.ip_address("fe80::1"))]

    host.decide(OPEN_VSWITCH, bridges={"p": "br-1"}, uplinks={"br-1": "eth1"})


def test_an_uplink_that_is_there_already_is_fine(host: Host) -> None:
    host.decide(OPEN_VSWITCH, bridges={"p": "br-old"}, uplinks={"br-old": "eth4"})


def test_the_integration_bridge_of_ovn_is_not_neutrons(host: Host) -> None:
    host.switch = Switch({"ovn-remote": "ssl:192.0.2.3:6642"}, SWITCH.interfaces)

    assert "br-int is the integration bridge of OVN on this host" in refusal(host, OPEN_VSWITCH)


def test_without_a_message_queue_there_is_no_agent(host: Host) -> None:
    host.write("neutron.conf", "[DEFAULT]\n")

    assert refusal(host, OPEN_VSWITCH).startswith("no message queue is configured; give it")


def test_a_file_that_has_the_last_word_is_named(host: Host) -> None:
    host.write("conf.d/common/site.conf", "[DEFAULT]\ntransport_url = rabbit://x\n")

    said = refusal(host, OPEN_VSWITCH, queue=QUEUE)

    assert said == (
        f"{host.folder}/conf.d/common/site.conf sets [DEFAULT] transport_url, and has the last "
        "word on it; remove it there"
    )


def test_a_file_that_says_the_same_does_no_harm(host: Host) -> None:
    host.write("conf.d/common/site.conf", f"[DEFAULT]\ntransport_url = {QUEUE.url}\n")

    host.decide(OPEN_VSWITCH, queue=QUEUE)


def test_a_file_that_neutron_cannot_read_is_named(host: Host) -> None:
    host.write("conf.d/common/site.conf", "nonsense\n")

    assert "site.conf: line 1 sets no option" in refusal(host, OPEN_VSWITCH)


def test_an_agent_without_its_file_is_not_installed(host: Host) -> None:
    (host.folder / OPEN_VSWITCH.file).unlink()

    assert "openvswitch_agent.ini; install Neutron's Open vSwitch agent" in refusal(
        host, OPEN_VSWITCH
    )


def test_mappings_of_a_file_that_make_no_sense_are_refused(host: Host) -> None:
    host.write(OPEN_VSWITCH.file, "[ovs]\nbridge_mappings = p1\n")

    with pytest.raises(ConfigError, match='bridge_mappings: "p1" is no pair'):
        host.decide(OPEN_VSWITCH)


# ---- restarts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "cuts"), [("True", True), ("false", False), ("", False)])
def test_an_agent_that_forgets_its_flows_is_not_restarted(
    host: Host, value: str, cuts: bool
) -> None:
    text = f"[AGENT]\ndrop_flows_on_start = {value}\n" if value else ""
    host.write(OPEN_VSWITCH.file, text)

    assert bool(neutron.would_cut(Files(OPEN_VSWITCH, host.folder))) == cuts


def test_a_password_is_in_nothing_that_a_log_or_traceback_would_show() -> None:
    setting = neutron.Setting(
        "neutron.conf", "DEFAULT", "transport_url", QUEUE.url, f"(to {QUEUE})"
    )
    past = PastOption("neutron.conf", "DEFAULT", "transport_url", QUEUE.url, QUEUE.url)
    plan = Plan([setting], transport_url=QUEUE.url)

    shown = f"{QUEUE} {QUEUE!r} {setting} {setting!r} {plan!r} {past!r} {Wish(queue=QUEUE)!r}"

    assert "neutron.conf" in shown
    assert "secret" not in shown
