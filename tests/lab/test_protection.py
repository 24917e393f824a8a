# SPDX-License-Identifier: GPL-2.0-or-later
"""setupNetworks, which must not break what external networks stand on.

VDSM's own way of running the hook, real devices, a real Open vSwitch.  This computer's kernel need
have no bonds and VLANs; those are in tests/unit/test_protection_policy.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from tests.lab.conftest import CONFIGURATION
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import VDSM_USER, Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.product import KNOWN, SOCKET, Product, SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.vdsm import Vdsm
from tests.lab.harness.vdsm_hooks import HookError
from tests.lab.harness.vdsm_notes import NETS, save
from tests.lab.vifctl import vifctl

VNIC = "3c1ad1e9-4d6a-4f0e-9f5b-0d6c2a7b1e11"
TAP = f"tap{VNIC[:11]}"
REMOVE = {"remove": True}

#: VDSM's networks: on nic0 with a bridge, by IPv6 alone; on nic1 without one; and two that have
#: nothing to do with tunnels.
SIX = {"nic": "nic0", "ipv6addr": "2001:db8::1/64", "mtu": 2000}
DIRECT = {"nic": "nic1", "bridged": False, "ipaddr": "203.0.113.1", "prefix": 24, "mtu": 2000}
STORAGE = {"nic": "nic6", "ipaddr": "10.1.0.1", "netmask": "255.255.255.0"}
PLAIN = {"nic": "nic7", "bridged": False, "bootproto": "dhcp"}
NOTED = {"six": SIX, "direct": DIRECT, "storage": STORAGE, "plain": PLAIN}

#: ip(8)'s words.
LINKS = (
    *(f"link add nic{n} mtu 2000 type veth peer name far{n}" for n in range(8)),
    *(f"link set {end}{n} up" for n in range(8) for end in ("nic", "far")),
    *(f"link add {name} type bridge" for name in ("six", "storage")),
    "link set nic0 master six",
    "link set nic6 master storage",
    *(f"link set {name} mtu 2000 up" for name in ("six", "storage")),
    "addr add 2001:db8::1/64 dev six nodad",
    "addr add 203.0.113.1/24 dev nic1",
    "addr add 10.1.0.1/24 dev storage",
    "link add mac0 link nic2 type macvlan",
    "addr add 198.51.100.65/26 dev mac0",
    "link set mac0 up",
    f"tuntap add {TAP} mode tap",
    f"link set {TAP} mtu 1500",
)
#: ovs-vsctl(8)'s.
SWITCH = (
    *("add-br", "br-ex", "--", "set", "Bridge", "br-ex", "datapath_type=netdev"),
    *("--", "add-port", "br-ex", "nic3", "--", "add-br", "br-two", "--", "set", "Bridge", "br-two"),
    *("datapath_type=netdev", "--", "add-bond", "br-two", "uplinks", "nic4", "nic5"),
    *("--", "add-port", "br-two", "inner", "tag=7", "--", "set", "Interface", "inner"),
    *("type=internal", "--", "add-port", "br-int", TAP, "--", "set", "Interface", TAP),
    *(f"external_ids:iface-id={VNIC}", "--", "add-port", "br-int", "vx1"),
    *("--", "set", "Interface", "vx1", "type=vxlan", "options:local_ip=203.0.113.1"),
    *("options:remote_ip=203.0.113.2", "--", "add-port", "br-int", "gre1"),
    *("--", "set", "Interface", "gre1", "type=gre", "options:local_ip=198.51.100.65"),
    *("options:remote_ip=198.51.100.66", "--", "add-port", "br-int", "gn1"),
    *("--", "set", "Interface", "gn1", "type=geneve", "options:local_ip=172.16.7.1"),
    *("options:remote_ip=172.16.7.2", "--", "set", "Open_vSwitch", "."),
    *('external_ids:ovn-encap-ip="192.0.2.11,2001:db8::1"', "external_ids:ovn-encap-type=geneve"),
    "external_ids:ovn-bridge-mappings=physnet1:br-ex",
)

Row = tuple[dict[str, Any], dict[str, Any], Optional[tuple[str, str]]]


def passes(networks: dict[str, Any], bondings: dict[str, Any] | None = None) -> Row:
    return networks, bondings or {}, None


def refused(
    device: str, words: str, networks: dict[str, Any], bondings: dict[str, Any] | None = None
) -> Row:
    return networks, bondings or {}, (device, words)


ROWS: dict[str, Row] = {
    # ---- what is, again; what has nothing to do with it
    "nothing": passes({}),
    "six again": passes({"six": SIX}),
    "six with other words": passes({"six": {**SIX, "mtu": "2000", "ipv6addr": "2001:DB8:0::1/64"}}),
    "direct again": passes({"direct": DIRECT}),
    "direct by netmask": passes({"direct": {**DIRECT, "prefix": None, "netmask": "255.255.255.0"}}),
    "all of them again": passes(NOTED),
    "six gets IPv4": passes({"six": {**SIX, "ipaddr": "10.2.0.1", "prefix": "24"}}),
    "six by DHCP for IPv4": passes({"six": {**SIX, "bootproto": "dhcp"}}),
    "six as default route": passes(
        {"six": {**SIX, "defaultRoute": True, "ipv6gateway": "fe80::1"}}
    ),
    "six with DNS": passes({"six": {**SIX, "nameservers": ["9.9.9.9"]}}),
    "six with STP": passes({"six": {**SIX, "stp": True, "hostQos": {"out": {}}}}),
    "direct gets IPv6": passes({"direct": {**DIRECT, "ipv6autoconf": True, "dhcpv6": True}}),
    "direct with larger packets": passes({"direct": {**DIRECT, "mtu": 9000}}),
    "direct with room to spare": passes({"direct": {**DIRECT, "mtu": 1558}}),
    "unknown attributes": passes({"direct": {**DIRECT, "colour": "green", "custom": {"a": "b"}}}),
    "a VLAN on six's NIC": passes({"x": {"nic": "nic0", "vlan": 5, "mtu": 2000}}),
    "a VLAN on direct's": passes(
        {"x": {"nic": "nic1", "vlan": "6", "bridged": False, "mtu": 2000}}
    ),
    "a VLAN on the macvlan's": passes({"x": {"nic": "nic2", "vlan": 8, "mtu": 2000}}),
    "a VLAN on the uplink": passes({"x": {"nic": "nic3", "vlan": 9}}),
    "another VLAN on a member": passes({"x": {"nic": "nic4", "vlan": 9, "mtu": 2000}}),
    "one member of two": passes({"x": {"nic": "nic4", "mtu": 2000}}),
    "storage goes": passes({"storage": REMOVE}),
    "storage moves": passes({"storage": {**STORAGE, "nic": "nic7"}}),
    "storage changes": passes({"storage": {**STORAGE, "ipaddr": "10.9.0.1", "mtu": 900}}),
    "plain goes": passes({"plain": REMOVE}),
    "a new bond of free NICs": passes({}, {"bond9": {"nics": ["nic6", "nic7"]}}),
    "a bond that isn't there goes": passes({}, {"bond8": REMOVE}),
    "a network that isn't there goes": passes({"nobody": REMOVE}),
    "a NIC that isn't there": passes({"x": {"nic": "nic99", "vlan": 4}}),
    "a bond of NICs that aren't there": passes({}, {"bond9": {"nics": ["nic98", "nic99"]}}),
    "a bridge without a NIC": passes({"x": {}}),
    "odd characters": passes({"a b\n;'\"ü/../%s": {"nic": "nic7", "vlan": 3}}),
    "a path for a name": passes({"../../../etc/passwd": REMOVE, "..": REMOVE, "": REMOVE}),
    "a long name": passes({"n" * 5000: {"nic": "nic7", "vlan": 3}}),
    # ---- what breaks it
    "six goes": refused("six", "'six' would be removed", {"six": REMOVE}),
    "six goes in other words": refused("six", "would be removed", {"six": {"remove": "true"}}),
    "six without its bridge": refused("six", "not be bridged", {"six": {**SIX, "bridged": False}}),
    "six on another NIC": refused("nic0", "from nic0 to nic7", {"six": {**SIX, "nic": "nic7"}}),
    "six in a VLAN": refused("nic0", "from nic0 to nic0.4", {"six": {**SIX, "vlan": 4}}),
    "six in Open vSwitch": refused("six", "legacy to ovs", {"six": {**SIX, "switch": "ovs"}}),
    "six elsewhere": refused(
        "six", "2001:db8::1/64", {"six": {**SIX, "ipv6addr": "2001:db8::2/64"}}
    ),
    "six with another prefix": refused("six", "", {"six": {**SIX, "ipv6addr": "2001:db8::1/48"}}),
    "six by a router": refused("six", "", {"six": {**SIX, "ipv6addr": "", "ipv6autoconf": True}}),
    "six by DHCP": refused("six", "other addresses", {"six": {"nic": "nic0", "dhcpv6": True}}),
    "six too small": refused(
        "six", "2000 to 1500, and tunnels need", {"six": {**SIX, "mtu": 1500}}
    ),
    "six's NIC for another": refused("nic0", "'x' would take nic0", {"x": {"nic": "nic0"}}),
    "six's NIC used": refused("nic0", "address on nic0", {"x": {"nic": "nic0", "bridged": False}}),
    "six's NIC in a bond": refused("nic0", "", {}, {"bond9": {"nics": ["nic0", "nic7"]}}),
    "six's NIC in Open vSwitch": refused("nic0", "", {"x": {"nic": "nic0", "switch": "ovs"}}),
    "the bridge in a bond": refused("six", "would take six", {}, {"bond9": {"nics": ["six"]}}),
    "direct goes": refused("nic1", "'direct' would be removed", {"direct": REMOVE}),
    "direct moves": refused("nic1", "would move to nic7", {"direct": {**DIRECT, "nic": "nic7"}}),
    "direct with a bridge": refused("nic1", "", {"direct": {**DIRECT, "bridged": True}}),
    "direct elsewhere": refused("nic1", "", {"direct": {**DIRECT, "ipaddr": "203.0.113.9"}}),
    "direct by DHCP": refused("nic1", "", {"direct": {"nic": "nic1", "bootproto": "dhcp"}}),
    "direct too small": refused("nic1", "2000 to 1549", {"direct": {**DIRECT, "mtu": 1549}}),
    "direct's NIC for another": refused("nic1", "'x' would take nic1", {"x": {"nic": "nic1"}}),
    "a small VLAN on direct's": refused(
        "nic1", "from 2000 to 1500, and tunnels need 1550", {"x": {"nic": "nic1", "vlan": 6}}
    ),
    "the macvlan's NIC": refused(
        "nic2", "'x' would take nic2", {"x": {"nic": "nic2", "mtu": 2000}}
    ),
    "in a bond": refused("nic2", "would take nic2", {}, {"bond9": {"nics": ["nic2"]}}),
    "the uplink": refused("nic3", "would take nic3 as the port", {"x": {"nic": "nic3"}}),
    "the uplink used": refused("nic3", "address on", {"x": {"nic": "nic3", "bridged": False}}),
    "the uplink in a bond": refused("nic3", "", {}, {"bond9": {"nics": ["nic3", "nic7"]}}),
    "both members": refused(
        "uplinks", "none of its members", {"x": {"nic": "nic4"}, "y": {"nic": "nic5"}}
    ),
    "both in a bond": refused("uplinks", "", {}, {"bond9": {"nics": ["nic4", "nic5"]}}),
    "a bond of that name": refused("uplinks", "be made", {}, {"uplinks": {"nics": ["nic7"]}}),
    "their VLAN on both": refused(
        "uplinks",
        "would take VLAN 7 of nic4",
        {"x": {"nic": "nic4", "vlan": 7}, "y": {"nic": "nic5", "vlan": 7}},
    ),
    "the underlay's NIC": refused("eth0", "would take eth0", {"x": {"nic": "eth0"}}),
    "named like the port": refused("inner", "", {"inner": {"nic": "nic7"}}),
    "named like the provider's bridge": refused("br-ex", "be made", {"br-ex": {"nic": "nic7"}}),
    "named like the integration bridge": refused("br-int", "be made", {"br-int": {"nic": "nic7"}}),
    "it goes": refused("br-int", "'br-int' would be removed", {"br-int": REMOVE}),
    "a bond named so": refused("br-int", "", {}, {"br-int": {"nics": ["nic7"]}}),
    "on the integration bridge": refused("br-int", "stand on br-int", {"x": {"nic": "br-int"}}),
    "on a vNIC's tap": refused(TAP, f"stand on {TAP}", {"x": {"nic": TAP, "vlan": 2}}),
    "a tap in a bond": refused(TAP, f"would take {TAP}", {}, {"bond9": {"nics": ["nic7", TAP]}}),
    "named like a tunnel": refused("vx1", "be made", {"vx1": {"nic": "nic7"}}),
    "something good and something bad": refused(
        "six", "'six' would be removed", {"storage": STORAGE, "six": REMOVE, "plain": PLAIN}
    ),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor without OVN, on which tunnels begin at five addresses."""
    with Lab(hypervisors=1, ovn=False) as started:
        yield started


@pytest.fixture(scope="module")
def host(lab: Lab) -> Hypervisor:
    """The hypervisor, with its NICs, VDSM's notes of its networks, and the product."""
    host = lab.hosts[0]
    host.run(["rm", "-rf", "/etc/neutron"])  # of whoever else uses this computer
    host.ip(*LINKS)
    host.vsctl(*SWITCH)
    host.ip("addr add 172.16.7.1/24 dev inner", "link set inner mtu 2000 up")
    save(host, NOTED)
    Product(host).install()
    return host


@pytest.fixture(scope="module")
def product(host: Hypervisor) -> Iterator[Product]:
    """The product on it."""
    product = Product(host)
    yield product
    stop(product)


@pytest.fixture
def standing(product: Product) -> None:
    """The agent runs."""
    if not product.agent.running:
        product.start()


@pytest.fixture
def agent(host: Hypervisor, product: Product) -> Product:
    """The agent, started anew, with nothing known from earlier."""
    stop(product)
    forget(host)
    product.start()
    wait_until(lambda: host.exists(KNOWN), 20, "the agent to note what is protected")
    return product


@pytest.fixture
def no_agent(host: Hypervisor, product: Product) -> None:
    """There is no agent, and never was."""
    stop(product)
    forget(host)


def stop(product: Product) -> None:
    if product.agent.running:
        product.stop()
    product.host.path(SOCKET).unlink(missing_ok=True)


def forget(host: Hypervisor) -> None:
    host.run("rm -rf /run/vif-driver/protected /run/vif-driver/allowed")


@pytest.fixture
def vdsm(host: Hypervisor) -> Vdsm:
    """VDSM of the hypervisor."""
    return Vdsm(host)


@pytest.fixture
def configure(host: Hypervisor) -> Iterator[None]:
    """After the test the configuration is as it was."""
    before = host.read(CONFIGURATION)
    yield
    host.write(CONFIGURATION, before)


def refusal(
    vdsm: Vdsm, networks: dict[str, Any], bondings: dict[str, Any] | None = None, **options: Any
) -> str:
    """The one line with which VDSM fails; empty if the request passes as it is."""
    message = ""
    try:
        answer = vdsm.setup_networks(networks, bondings, options)
    except HookError as error:
        message = error.stderr
    run = vdsm.runs[-1]
    assert run.given == run.result
    if not message:
        assert (run.status, answer["request"]["networks"]) == (0, networks)
        return ""
    assert run.status == 2
    assert message.endswith("\n") and message[:-1].isprintable(), message
    return message


def check(vdsm: Vdsm, row: Row) -> None:
    networks, bondings, expected = row
    line = refusal(vdsm, networks, bondings)
    if expected is None:
        assert line == ""
    else:
        device, words = expected
        assert line.startswith("vif-driver: setupNetworks refused: "), line
        assert words in line.partition(", but ")[0], line
        assert f", but {device} " in line, line
        assert f"; to do it deliberately: vifctl protect --allow {device}" in line, line


# ---- the table -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_request(vdsm: Vdsm, row: Row) -> None:
    check(vdsm, row)


ALONE = ["six again", "a VLAN on six's NIC", "six goes", "direct too small", "uplinks", "it goes"]


@pytest.mark.usefixtures("no_agent")
@pytest.mark.parametrize("row", [ROWS[name] for name in ROWS if name in ALONE])
def test_the_same_without_the_agent(vdsm: Vdsm, row: Row) -> None:
    check(vdsm, row)


# ---- what always passes --------------------------------------------------------------------------


@pytest.mark.usefixtures("agent")
def test_restoration_passes_and_a_check_of_connectivity_is_no_licence(vdsm: Vdsm) -> None:
    everything = dict.fromkeys(NOTED, REMOVE)

    assert refusal(vdsm, everything, _inRollback=True, connectivityCheck=0) == ""
    assert refusal(vdsm, everything, connectivityCheck=1, connectivityTimeout=120) != ""


@pytest.mark.usefixtures("no_agent")
def test_restoration_passes_where_nothing_works(host: Hypervisor, vdsm: Vdsm) -> None:
    host.ovs.database.suspend()
    try:
        assert refusal(vdsm, {"six": REMOVE}, _inRollback=True) == ""
    finally:
        host.ovs.database.resume()


@pytest.mark.usefixtures("configure")
def test_where_protection_is_switched_off_all_passes(host: Hypervisor, vdsm: Vdsm) -> None:
    host.write(CONFIGURATION, "[protection]\nenabled = no\n")

    assert refusal(vdsm, {"six": REMOVE}) == ""


# ---- the administrator's word --------------------------------------------------------------------


@pytest.mark.parametrize("with_agent", [True, False])
def test_what_is_allowed_passes_until_it_is_revoked(
    host: Hypervisor, vdsm: Vdsm, request: pytest.FixtureRequest, with_agent: bool
) -> None:
    request.getfixturevalue("agent" if with_agent else "no_agent")
    host.run(["vifctl", "protect", "--allow", "six", "--for", "5m"])

    allowed, other = refusal(vdsm, {"six": REMOVE}), refusal(vdsm, {"direct": REMOVE})
    host.run(["vifctl", "protect", "--revoke", "six"])

    assert (allowed, "nic1" in other) == ("", True)
    assert "'six' would be removed" in refusal(vdsm, {"six": REMOVE})


def test_it_ends_by_itself_and_the_log_says_that_it_was_used(
    host: Hypervisor, agent: Product, vdsm: Vdsm
) -> None:
    host.run(["vifctl", "protect", "--allow", "six", "--for", "5m"])
    allowed = refusal(vdsm, {"six": REMOVE})

    host.run(["vifctl", "protect", "--allow", "six", "--for", "1"])  # in the other's place
    wait_until(lambda: refusal(vdsm, {"six": REMOVE}) != "", 30, "the end of what is allowed")

    assert allowed == ""
    assert "setupNetworks may go on as root allowed six: network 'six' would be" in agent.log()


@pytest.mark.usefixtures("configure", "no_agent")
def test_the_configuration_allows_for_good(host: Hypervisor, vdsm: Vdsm) -> None:
    host.write(CONFIGURATION, "[protection]\nallow = six, nic1\n")

    assert [refusal(vdsm, {name: REMOVE}) for name in ("six", "direct")] == ["", ""]


@pytest.mark.usefixtures("agent")
def test_what_is_protected_is_listed_with_the_reason(host: Hypervisor) -> None:
    answer = vifctl(host, "protect")

    does = {entry["device"]: entry["does"] for entry in answer.json["devices"]}
    assert answer.status == 0
    for device, words in {
        "br-phy": "carries this host's OVN tunnels (ovn-encap-ip 192.0.2.11)",
        "eth0": "carries this host's OVN tunnels (ovn-encap-ip 192.0.2.11)",
        "six": "carries this host's OVN tunnels (ovn-encap-ip 2001:db8::1)",
        "nic1": "carries tunnels of Open vSwitch (local_ip 203.0.113.1)",
        "nic2": "carries tunnels of Open vSwitch (local_ip 198.51.100.65)",
        "nic3": "is an uplink of br-ex (ovn-bridge-mappings physnet1:br-ex)",
        "br-int": "is the integration bridge of the external networks",
        TAP: f"belongs to vNIC {VNIC}",
    }.items():
        assert words in does[device]
    assert not {"nic6", "nic7", "storage", "eth1", "lo"} & does.keys()
    networks = {entry["network"]: entry["device"] for entry in answer.json["networks"]}
    assert networks == {"direct": "nic1", "six": "six"}


# ---- faults --------------------------------------------------------------------------------------


def test_an_agent_that_hangs_is_not_waited_for_for_ever(agent: Product, vdsm: Vdsm) -> None:
    agent.agent.suspend()
    begun = time.monotonic()
    try:
        bad, good = refusal(vdsm, {"six": REMOVE}), refusal(vdsm, {"storage": REMOVE})
    finally:
        agent.agent.resume()

    assert ("'six' would be removed" in bad, good) == (True, "")
    assert time.monotonic() - begun < 40


@pytest.mark.usefixtures("agent")
def test_without_open_vswitchs_database_what_was_protected_is(host: Hypervisor, vdsm: Vdsm) -> None:
    host.ovs.database.stop()
    try:
        bad = [
            refusal(vdsm, {"six": REMOVE}),
            refusal(vdsm, {"x": {"nic": "nic3", "vlan": 5}}),
            refusal(vdsm, {}, {"bond9": {"nics": ["nic1"]}}),
        ]
        good = [
            refusal(vdsm, {"six": SIX}),
            refusal(vdsm, {"storage": REMOVE, "y": {"nic": "nic7"}}),
        ]
    finally:
        host.ovs.database.start()
        host.ovs.wait("Bridge", "br-int")

    assert all("setupNetworks refused: " in line for line in bad), bad
    assert good == ["", ""]


@pytest.mark.usefixtures("agent")
def test_while_the_database_hangs_the_agents_copy_counts(host: Hypervisor, vdsm: Vdsm) -> None:
    host.ovs.database.suspend()
    try:
        lines = [refusal(vdsm, {"six": REMOVE}), refusal(vdsm, {"x": {"nic": "nic3", "vlan": 5}})]
    finally:
        host.ovs.database.resume()

    assert ("'six' would be removed" in lines[0], lines[1]) == (True, "")


def test_without_database_and_agent_what_the_agent_knew_counts(
    host: Hypervisor, agent: Product, vdsm: Vdsm
) -> None:
    agent.kill()
    stop(agent)
    host.ovs.database.stop()
    try:
        bad, good = refusal(vdsm, {"six": REMOVE}), refusal(vdsm, {"storage": REMOVE})
        listed = vifctl(host, "protect")
    finally:
        host.ovs.database.start()
        host.ovs.wait("Bridge", "br-int")

    assert ("six carries this host's OVN tunnels" in bad, good) == (True, "")
    assert listed.status == 1
    assert "does not answer" in listed.json["trouble"]
    assert "six" in {entry["device"] for entry in listed.json["devices"]}


@pytest.mark.parametrize("damage", ["damaged", "gone"])
@pytest.mark.usefixtures("agent")
def test_where_vdsms_notes_are_of_no_use_the_kernel_counts(
    host: Hypervisor, vdsm: Vdsm, damage: str
) -> None:
    if damage == "gone":
        host.run(["mv", NETS, f"{NETS}.away"])
    else:
        host.write(f"{NETS}/six", '{"nic": "nic0", "ipv6')
    try:
        again, gone = refusal(vdsm, {"six": SIX}), refusal(vdsm, {"six": REMOVE})
        direct = refusal(vdsm, {"direct": DIRECT})
    finally:
        if damage == "gone":
            host.run(["mv", f"{NETS}.away", NETS])
        host.write(f"{NETS}/six", json.dumps(SIX))

    assert (again, direct) == ("", "")
    assert "'six' would be removed" in gone


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "is not what VDSM sends", id="empty"),
        pytest.param(b'{"request": {"networks": {"six"', "is not what VDSM sends", id="half"),
        pytest.param(b'{"request": 3}', "is no JSON object", id="a number"),
        pytest.param(b"[" * 200_000, "is not what VDSM sends", id="absurdly deep"),
        pytest.param(
            b'{"request": {"bondings": {"bond0": {"nics": 7}}}}', "no list of names", id="nics"
        ),
    ],
)
@pytest.mark.usefixtures("agent")
def test_what_is_no_request_is_refused(vdsm: Vdsm, data: bytes, words: str) -> None:
    with pytest.raises(HookError, match=words):
        vdsm.hooks.run("before_network_setup", data)
    assert vdsm.runs[-1].status == 2
    assert vdsm.runs[-1].stderr.count("\n") == 1


@pytest.mark.usefixtures("agent")
def test_the_agent_judges_for_root_alone(host: Hypervisor) -> None:
    knock = (
        "import socket\n"
        "with socket.socket(socket.AF_UNIX) as agent:\n"
        f"    agent.connect({SOCKET!r})\n"
        '    agent.sendall(b"vif1 before_network_setup 0 2\\n{}")\n'
        "    print(agent.makefile().read())\n"
    )

    told = host.run(["python3", "-c", knock], user=VDSM_USER).stdout

    assert "before_network_setup is for root only" in told


# ---- a host that systemd has booted --------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Iterator[SystemdProduct]:
    """The product as a service on a host of its own, where the agent is not root."""
    with Lab(hypervisors=1, ovn=False, systemd=True) as lab:
        host = lab.hosts[0]
        assert isinstance(host, SystemdHypervisor)
        host.run(["rm", "-rf", "/etc/neutron"])
        host.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-encap-ip=192.0.2.11")
        save(host, {"plain": PLAIN, "known": {"nic": "eth0"}})
        product = SystemdProduct(host)
        product.install()
        product.start()
        yield product


def test_the_agent_as_a_service_judges_and_logs(service: SystemdProduct) -> None:
    vdsm = Vdsm(service.host)

    line = refusal(vdsm, {"x": {"nic": "eth0"}, "plain": PLAIN})

    assert "eth0 carries this host's OVN tunnels" in line
    (entry,) = service.journal(VIF_EVENT="before_network_setup")
    assert entry["MESSAGE"] in line.replace("vif-driver: ", "")


def test_what_vdsm_writes_for_others_not_to_read_is_judged_by_root(
    service: SystemdProduct,
) -> None:
    vdsm = Vdsm(service.host)
    service.host.run(["chmod", "700", "/var/lib/vdsm/staging"])
    try:
        again = refusal(vdsm, {"known": {"nic": "eth0"}, "plain": PLAIN})
        other = refusal(vdsm, {"known": {"nic": "eth0", "vlan": 5}, "x": {"nic": "eth0"}})
    finally:
        service.host.run(["chmod", "755", "/var/lib/vdsm/staging"])

    assert again == ""  # what repeats VDSM's notes
    assert "eth0 carries this host's OVN tunnels" in other
    told = [entry["MESSAGE"] for entry in service.journal() if "judged well" in entry["MESSAGE"]]
    assert len(told) == 1


def test_its_note_is_its_own_and_what_is_allowed_is_roots(service: SystemdProduct) -> None:
    host = service.host
    wait_until(lambda: host.exists(KNOWN), 20, "the agent to note what is protected")
    allow = ["vifctl", "protect", "--allow", "eth0"]

    as_vdsm = host.run(allow, user=VDSM_USER, check=False)
    as_root = host.run(allow)

    assert host.output(["stat", "-c", "%U %a", KNOWN]) == "vif-agent 644"
    assert (as_vdsm.returncode, as_root.returncode) == (1, 0)
    assert host.output(["stat", "-c", "%U %a", "/run/vif-driver/allowed/eth0"]) == "root 644"
    assert host.output(["stat", "-c", "%U %a", "/run/vif-driver/allowed"]) == "root 755"
    assert refusal(Vdsm(host), {"x": {"nic": "eth0"}}) == ""
    host.run(["vifctl", "protect", "--revoke", "eth0"])


def test_the_journal_says_who_allowed_what(service: SystemdProduct) -> None:
    service.host.run(["vifctl", "protect", "--allow", "br-int", "--for", "1m"])

    entries = service.host.journal(SYSLOG_IDENTIFIER="vifctl")

    assert "anything may be done to br-int for 1m, root says" in [e["MESSAGE"] for e in entries]
