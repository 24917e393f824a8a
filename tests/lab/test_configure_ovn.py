# SPDX-License-Identifier: GPL-2.0-or-later
"""A host becomes one of OVN's by vifctl and vdsm-tool, and ceases to be one.

hv1 is configured here; hv2 is one of OVN's all the time, and pings hv1 through the tunnel.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import GuestMaker, PortMaker, new_mac
from tests.lab.harness.certificates import give
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import PHYSICAL_BRIDGE, Hypervisor
from tests.lab.harness.lab import CENTRAL_ADDRESS, Lab
from tests.lab.harness.ovn_central import Network
from tests.lab.harness.pings import Probe, add_probe
from tests.lab.harness.product import SERVICE, SystemdProduct, install_on
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit
from tests.lab.harness.vdsm_notes import save
from tests.lab.vifctl import killed
from tests.unit.southbound_server import Authority
from tests.unit.vdsm_tool import PROGRAM, TOOL
from vif_driver.host.certificates import FOLDER, Credentials

TUNNEL = "192.0.2.11"
NAME = "hv1.example.com"
CENTRAL6, TUNNEL6 = "2001:db8::1", "2001:db8::b"
TLS_PORT = 6652
#: Nobody is there.
NOWHERE = "192.0.2.99"
NOTE = "/var/lib/vif-driver/configure.json"
SYSTEM_ID = "/etc/openvswitch/system-id.conf"
CONFIGURE = ("configure", "ovn")
JOIN = (CENTRAL_ADDRESS, TUNNEL, NAME, "--no-ssl")
SWITCH = ("ovsdb-server.service", "ovs-vswitchd.service")
CONTROLLER = "ovn-controller.service"


@dataclasses.dataclass(frozen=True)
class State:
    """All of a host that configuring it may change.

    Attributes:
        settings: the row in Open vSwitch's database.
        system_id: what Open vSwitch takes its name from at its next start.
        services: whether each runs, and its process.
        boot: what starts at boot.
    """

    settings: str
    system_id: str
    services: dict[str, str]
    boot: frozenset[str]

    @classmethod
    def of(cls, host: SystemdHypervisor) -> State:
        columns = "external_ids,other_config,ssl"
        tables = (["--columns=" + columns, "list", "Open_vSwitch"], ["list", "SSL"])
        settings = "".join(host.vsctl(*table) for table in tables)
        # ovn-controller's own, in the order of their names.
        settings = re.sub(r'(ovn-chassis-idx-[^=]*="[^"]*"|vlan-limit="0"),? ?', "", settings)
        shown = ["systemctl", "show", "--value", "-p", "MainPID"]
        services = {name: host.output([*shown, name]) for name in (*SWITCH, CONTROLLER)}
        links = host.path("/etc/systemd/system/multi-user.target.wants")
        boot = frozenset(link.name for link in links.iterdir())
        return cls(settings, host.read(SYSTEM_ID), services, boot)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The deployment's CA."""
    return Authority.make(tmp_path_factory.mktemp("ca") / "ours")


@pytest.fixture(scope="module")
def lab(authority: Authority) -> Iterator[Lab]:
    """hv1, a host with systemd that is none of OVN's, hv2 that is, and all kinds of centrals."""
    lab = Lab(hypervisors=0, systemd=True)
    lab.add_hypervisor("hv1", SystemdHypervisor, ovn=False)
    lab.add_hypervisor("hv2", SystemdHypervisor)
    with lab as started:
        started.central.listen("sb", authority.sign("server"))
        listen(started)
        started.central.ip(f"addr add {CENTRAL6}/64 dev eth0 nodad")
        restore_addresses(started.hosts[0])
        install_on(started.hosts[0])
        yield started


def restore_addresses(host: Hypervisor) -> None:
    """Give the host the addresses of its tunnels, which the end of Open vSwitch took away."""
    host.restore_tunnel_address()
    host.ip(f"addr replace {TUNNEL6}/64 dev {PHYSICAL_BRIDGE} nodad")


def listen(lab: Lab) -> None:
    """Have the southbound database listen in all the ways that the tests need."""
    lab.central.sbctl("set-connection", "ptcp:6642:[::]", f"pssl:{TLS_PORT}:[::]")


@pytest.fixture(scope="module")
def hv1(lab: Lab) -> SystemdHypervisor:
    """The host that is configured."""
    host = lab.hosts[0]
    assert isinstance(host, SystemdHypervisor)
    return host


@pytest.fixture
def untouched(hv1: SystemdHypervisor) -> Iterator[SystemdHypervisor]:
    """The host as it was before anybody configured it, for tests in which it stays so."""
    yield hv1
    hv1.run(["rm", "-rf", str(FOLDER), "/var/lib/vdsm/staging"])


@pytest.fixture
def host(lab: Lab, hv1: SystemdHypervisor) -> Iterator[SystemdHypervisor]:
    """The host as it was before anybody configured it; afterwards it is so again."""
    yield hv1
    undone = vifctl(hv1, "--undo", "--force")
    hv1.run(
        f"""set -e
        ovs-vsctl --no-wait set Open_vSwitch . external_ids:system-id=hv1
        echo hv1 > {SYSTEM_ID}
        systemctl disable openvswitch-switch.service
        rm -rf {FOLDER} {NOTE} /var/lib/vdsm/staging"""
    )
    lab.central.sbctl("--if-exists", "chassis-del", NAME)
    assert undone.status == 0


@pytest.fixture
def joined(host: SystemdHypervisor) -> SystemdHypervisor:
    """The host, one of OVN's already."""
    assert vifctl(host, *JOIN).status == 0
    return host


@dataclasses.dataclass(frozen=True)
class Answer:
    """What ``vifctl configure ovn`` said."""

    status: int
    out: str
    err: str

    @property
    def changed(self) -> list[str]:
        """What it has changed."""
        changed: list[str] = json.loads(self.out)["changed"]
        return changed


def vifctl(host: SystemdHypervisor, *arguments: str) -> Answer:
    done = host.run(["vifctl", *CONFIGURE, "--json", *arguments], check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


def chassis(lab: Lab, name: str) -> set[tuple[str, str]]:
    """The ends of tunnels that the southbound database has of a host."""
    found = lab.central.sbctl("--bare", "--columns=encaps", "find", "Chassis", f"name={name}")
    ends = [lab.central.sbctl("get", "Encap", uuid, "type", "ip") for uuid in found.split()]
    return {(one.split()[0], one.split()[1].strip('"')) for one in ends}


# ---- becoming and ceasing ------------------------------------------------------------------------


def test_a_host_becomes_one_of_ovns(lab: Lab, host: SystemdHypervisor) -> None:
    before = State.of(host)

    answer = vifctl(host, *JOIN)

    assert (answer.status, answer.err) == (0, "")
    assert chassis(lab, NAME) == {("geneve", TUNNEL)}
    assert host.read(SYSTEM_ID) == f"{NAME}\n"
    after = State.of(host)
    assert {name: after.services[name] for name in SWITCH} == {
        name: before.services[name] for name in SWITCH
    }


def test_it_is_one_after_a_boot_by_the_same_name(lab: Lab, joined: SystemdHypervisor) -> None:
    joined.power_cut()
    lab.central.sbctl("chassis-del", NAME)

    joined.boot()

    lab.central.wait_chassis(NAME)
    restore_addresses(joined)


def test_a_second_run_changes_nothing(joined: SystemdHypervisor) -> None:
    before = State.of(joined)

    answer = vifctl(joined, *JOIN)

    assert (answer.status, answer.changed) == (0, [])
    assert State.of(joined) == before


def test_a_host_ceases_to_be_one(lab: Lab, joined: SystemdHypervisor) -> None:
    before = State.of(joined)

    answer = vifctl(joined, "--undo")

    assert (answer.status, answer.err) == (0, "")
    assert NAME not in lab.central.sbctl("show")
    after = State.of(joined)
    assert "ovn-" not in after.settings
    assert not Unit(joined, CONTROLLER).running
    assert "ovn-host.service" not in after.boot
    assert [after.services[name] for name in SWITCH] == [before.services[name] for name in SWITCH]


def test_an_open_vswitch_that_does_not_run_is_started(lab: Lab, host: SystemdHypervisor) -> None:
    host.run(["systemctl", "stop", *reversed(SWITCH)])

    answer = vifctl(host, CENTRAL_ADDRESS, host.management_address, NAME, "--no-ssl", "--no-wait")

    assert answer.status == 0, answer.err
    assert all(Unit(host, name).running for name in SWITCH)
    restore_addresses(host)
    lab.central.wait_chassis(NAME)


#: Units as EL has them: other names, and an [Install] of ovn-controller's own.
EL = {
    "openvswitch.service": """\
[Unit]
Requires=ovsdb-server.service ovs-vswitchd.service
[Service]
Type=oneshot
ExecStart=/bin/true
RemainAfterExit=yes
[Install]
WantedBy=multi-user.target
""",
    CONTROLLER: """\
[Unit]
Requires=openvswitch.service
After=openvswitch.service
[Service]
Type=forking
PIDFile=%t/ovn/ovn-controller.pid
Restart=on-failure
ExecStart=/usr/share/ovn/scripts/ovn-ctl --no-monitor start_controller $OVN_CONTROLLER_OPTS
ExecStop=/usr/share/ovn/scripts/ovn-ctl stop_controller
[Install]
WantedBy=multi-user.target
""",
}


@pytest.fixture
def like_el(host: SystemdHypervisor) -> Iterator[SystemdHypervisor]:
    """The host, with the units of EL's packages."""
    for name, text in EL.items():
        host.write(f"/etc/systemd/system/{name}", text)
    host.run(["systemctl", "daemon-reload"])
    yield host
    host.run(["systemctl", "disable", *EL])
    host.run(["systemctl", "stop", CONTROLLER])
    for name in EL:
        host.path(f"/etc/systemd/system/{name}").unlink()
    host.run(["systemctl", "daemon-reload"])


def test_it_is_the_same_with_the_units_of_el(lab: Lab, like_el: SystemdHypervisor) -> None:
    joined = vifctl(like_el, *JOIN)
    boot = State.of(like_el).boot
    left = vifctl(like_el, "--undo")

    assert (joined.status, left.status) == (0, 0), (joined.err, left.err)
    assert {"openvswitch.service", CONTROLLER} <= boot
    assert CONTROLLER not in State.of(like_el).boot
    assert not Unit(like_el, CONTROLLER).running
    assert not chassis(lab, NAME)


def test_vdsm_tool_does_the_same(lab: Lab, host: SystemdHypervisor, authority: Authority) -> None:
    give(host, authority.sign("hv1"))
    central = f"{CENTRAL_ADDRESS}:{TLS_PORT}"

    configured = vdsm_tool(host, "ovn-config", central, TUNNEL, NAME)
    known = chassis(lab, NAME)
    unconfigured = vdsm_tool(host, "ovn-unconfigure")

    assert configured.returncode == 0, configured.stderr
    assert "this host has no openvswitch-ipsec" in configured.stderr
    assert known == {("geneve", TUNNEL)}
    assert unconfigured.returncode == 0, unconfigured.stderr
    assert not chassis(lab, NAME)


def vdsm_tool(host: SystemdHypervisor, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the stand-in for VDSM's, which finds what was installed."""
    if not host.exists("/usr/bin/vdsm-tool"):
        ours = host.output("find /usr/local/lib /usr/lib/python3* -path */vdsm/tool/ovn_config.py")
        tool = Path(ours).parent
        host.write(tool / "__init__.py", TOOL)
        host.write(tool.parent / "__init__.py", "")
        host.write("/usr/bin/vdsm-tool", PROGRAM, mode=0o755)
    return host.run(["vdsm-tool", *words], check=False)


# ---- addresses -----------------------------------------------------------------------------------


def test_a_network_of_vdsms_stands_for_its_address(lab: Lab, host: SystemdHypervisor) -> None:
    has_network(host, "ovirtmgmt", nic="eth1", bridged=False)

    assert vifctl(host, CENTRAL_ADDRESS, "ovirtmgmt", NAME, "--no-ssl").status == 0

    assert chassis(lab, NAME) == {("geneve", host.management_address)}


def test_ipv6_for_central_and_tunnels(lab: Lab, host: SystemdHypervisor) -> None:
    answer = vifctl(host, CENTRAL6, TUNNEL6, NAME, "--no-ssl", "--encap", "geneve,vxlan")

    assert answer.status == 0, answer.err
    assert chassis(lab, NAME) == {("geneve", TUNNEL6), ("vxlan", TUNNEL6)}


def test_one_of_several_centrals_is_enough(lab: Lab, host: SystemdHypervisor) -> None:
    answer = vifctl(host, f"{NOWHERE},[{CENTRAL6}]", TUNNEL, NAME, "--no-ssl")

    assert answer.status == 0, answer.err
    remote = host.vsctl("get", "Open_vSwitch", ".", "external_ids:ovn-remote")
    assert remote.strip() == f'"tcp:{NOWHERE}:6642,tcp:[{CENTRAL6}]:6642"'


def has_network(host: SystemdHypervisor, name: str, **attributes: object) -> None:
    """VDSM has set up a network, and written that down."""
    save(host, {name: attributes})


# ---- TLS -----------------------------------------------------------------------------------------


def test_tls_with_the_certificate_of_host_deploy(
    lab: Lab, host: SystemdHypervisor, authority: Authority
) -> None:
    give(host, authority.sign("hv1"))

    answer = vifctl(host, f"{CENTRAL_ADDRESS}:{TLS_PORT}", TUNNEL, NAME)

    assert answer.status == 0, answer.err
    assert chassis(lab, NAME) == {("geneve", TUNNEL)}


def test_an_agent_that_started_before_is_handed_the_certificate(
    host: SystemdHypervisor, authority: Authority
) -> None:
    product = SystemdProduct(host)
    product.install()
    product.start()
    try:
        before = product.agent.pid
        files = give(host, authority.sign("hv1"))

        answer = vifctl(host, f"{CENTRAL_ADDRESS}:{TLS_PORT}", TUNNEL, NAME)

        assert answer.status == 0, answer.err
        assert "vif-agent has this host's certificate" in answer.changed
        assert product.agent.wait_new(before)
        handed = f"/run/credentials/{SERVICE}/{files.certificate.name}"
        assert host.read(handed) == host.read(str(files.certificate))
    finally:
        product.stop()


def strange(authority: Authority, folder: Path) -> Credentials:
    """Credentials of a CA that the server does not know."""
    return Authority.make(folder / "theirs").sign("hv1")


def mixed(authority: Authority, folder: Path) -> Credentials:
    """A certificate with the key of another one."""
    return dataclasses.replace(authority.sign("hv1"), key=authority.sign("hv9").key)


def foreign(authority: Authority, folder: Path) -> Credentials:
    """A certificate that the CA beside it has not signed."""
    return dataclasses.replace(strange(authority, folder), ca=authority.certificate)


def expired(authority: Authority, folder: Path) -> Credentials:
    """A certificate that has expired."""
    return authority.sign("late", days=-1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (mixed, "the key .* does not belong to"),
        (foreign, "is not accepted"),
        (expired, "expired on"),
        (strange, "the certificate of the southbound database .* is not accepted"),
    ],
)
def test_bad_certificates_change_nothing(
    untouched: SystemdHypervisor,
    authority: Authority,
    tmp_path: Path,
    make: Callable[[Authority, Path], Credentials],
    told: str,
) -> None:
    give(untouched, make(authority, tmp_path))
    before = State.of(untouched)

    answer = vifctl(untouched, f"{CENTRAL_ADDRESS}:{TLS_PORT}", TUNNEL, NAME, "--timeout", "1")

    assert answer.status == 1
    assert re.fullmatch(rf"vifctl: .*{told}.*\n", answer.err)
    assert State.of(untouched) == before


# ---- IPsec ---------------------------------------------------------------------------------------

#: Stands for ovs-monitor-ipsec's, which would have strongSwan make the kernel's tunnels.
IPSEC = """\
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""
IPSEC_UNIT = "/etc/systemd/system/openvswitch-ipsec.service"


@pytest.fixture
def ipsec(host: SystemdHypervisor) -> Iterator[Unit]:
    """The service that encrypts tunnels is installed."""
    host.write(IPSEC_UNIT, IPSEC)
    host.run(["systemctl", "daemon-reload"])
    unit = Unit(host, "openvswitch-ipsec.service")
    yield unit
    host.run(["systemctl", "disable", "--now", unit.name])
    host.path(IPSEC_UNIT).unlink()
    host.run(["systemctl", "daemon-reload"])


def test_tunnels_can_be_encrypted(
    host: SystemdHypervisor, ipsec: Unit, authority: Authority
) -> None:
    files = give(host, authority.sign(NAME))
    central = f"{CENTRAL_ADDRESS}:{TLS_PORT}"

    joined = vifctl(host, central, TUNNEL, NAME, "--ipsec")
    certificate = host.vsctl("get", "Open_vSwitch", ".", "other_config:certificate")
    runs = ipsec.running
    left = vifctl(host, "--undo")

    assert (joined.status, joined.err, left.status) == (0, "", 0)
    assert certificate.strip() == f'"{files.certificate}"'
    assert runs
    assert not ipsec.running
    assert "certificate" not in host.vsctl("get", "Open_vSwitch", ".", "other_config")


def test_a_certificate_of_another_name_is_told_of(
    host: SystemdHypervisor, ipsec: Unit, authority: Authority
) -> None:
    files = give(host, authority.sign("hv1"))

    answer = vifctl(host, f"{CENTRAL_ADDRESS}:{TLS_PORT}", TUNNEL, NAME, "--ipsec")

    assert answer.status == 0
    (note,) = json.loads(answer.out)["notes"]
    assert f"cannot be encrypted: {files.certificate} is not made out to {NAME}" in note


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("engine.example.com", TUNNEL), "'engine.example.com' is no IP address"),
        ((CENTRAL_ADDRESS, "192.0.2.77"), "192.0.2.77 is no address of this host"),
        ((CENTRAL_ADDRESS, "storage"), "'storage' is neither an IP address nor a network"),
        ((CENTRAL_ADDRESS, "tunnels"), "VDSM's network tunnels has no address on eth9"),
        ((CENTRAL_ADDRESS, TUNNEL, "hv2"), r"OVN has another host called hv2 already \(hv2\)"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    untouched: SystemdHypervisor, arguments: tuple[str, ...], told: str
) -> None:
    has_network(untouched, "tunnels", nic="eth9", bridged=False)
    before = State.of(untouched)

    answer = vifctl(untouched, *arguments, "--no-ssl", "--timeout", "1")

    assert answer.status == 1
    assert re.fullmatch(rf"vifctl: .*{told}.*\n", answer.err)
    assert State.of(untouched) == before
    assert not untouched.exists(NOTE)


def test_it_is_for_root(untouched: SystemdHypervisor) -> None:
    done = untouched.run(["vifctl", *CONFIGURE, *JOIN], user="vdsm", check=False)

    assert done.returncode == 1
    assert done.stderr == "vifctl: vifctl configure ovn needs root; run it as root\n"


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ("openvswitch-switch.service", "this host has no Open vSwitch"),
        (CONTROLLER, "this host has no ovn-controller"),
    ],
)
def test_what_is_not_installed_is_named(untouched: SystemdHypervisor, unit: str, told: str) -> None:
    untouched.run(["systemctl", "mask", "--runtime", unit])
    before = State.of(untouched)
    try:
        answer = vifctl(untouched, *JOIN)
    finally:
        untouched.run(["systemctl", "unmask", "--runtime", unit])

    assert answer.status == 1
    assert re.fullmatch(rf"vifctl: {told}; install .*\n", answer.err)
    assert State.of(untouched) == before


# ---- who is killed -------------------------------------------------------------------------------

#: When it has noted a change and when it has made it, for every one of them, and at the end.
NOTED = "vif_driver.configuration.record:Record.write"
POINTS = [(NOTED, when, str(count)) for count in range(1, 6) for when in ("before", "after")][1:]
END = ("vif_driver.configuration.record:Record.remove", "before", "1")


def test_wherever_one_run_is_killed_the_next_one_takes_back(host: SystemdHypervisor) -> None:
    before = State.of(host)
    reached = 0
    for point in [*POINTS, END]:
        reached += killed(host, point, *CONFIGURE, *JOIN)

        answer = vifctl(host, CENTRAL_ADDRESS, "nothing", NAME, "--no-ssl")

        assert answer.status == 1, point
        assert State.of(host) == before, point
        assert not host.exists(NOTE), point
    assert reached == len(POINTS) + 1


def test_the_same_run_finishes_what_a_killed_one_has_begun(
    lab: Lab, host: SystemdHypervisor
) -> None:
    assert killed(host, END, *CONFIGURE, *JOIN)
    before = State.of(host)

    answer = vifctl(host, *JOIN)

    assert json.loads(answer.out)["recovered"] == [
        "an interrupted vifctl configure ovn is finished"
    ]
    assert answer.changed == []
    assert State.of(host) == before
    assert not host.exists(NOTE)


def test_the_doctor_tells_of_a_killed_run(host: SystemdHypervisor) -> None:
    assert killed(host, END, *CONFIGURE, *JOIN)

    told = host.run(["vifctl", "doctor"], check=False).stdout

    assert "vifctl configure ovn was interrupted: the host is half configured" in told


def test_a_killed_undo_is_taken_back(lab: Lab, joined: SystemdHypervisor) -> None:
    before = State.of(joined)
    assert killed(joined, (NOTED, "after", "3"), *CONFIGURE, "--undo")
    assert not chassis(lab, NAME)

    assert vifctl(joined, *JOIN).status == 0

    assert chassis(lab, NAME) == {("geneve", TUNNEL)}
    assert State.of(joined).settings == before.settings


# ---- who uses it ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def far(lab: Lab, network: Network) -> Iterator[Probe]:
    """Something on hv2."""
    yield from probe_on(lab, network, 1)


@pytest.fixture
def near(lab: Lab, network: Network, joined: SystemdHypervisor) -> Iterator[Probe]:
    """Something on hv1, which is one of OVN's."""
    yield from probe_on(lab, network, 0)


def probe_on(lab: Lab, network: Network, number: int) -> Iterator[Probe]:
    host = lab.hosts[number]
    name = f"00000000-0000-4000-8000-00000000000{number}"
    port = lab.central.add_port(network, name, new_mac())
    address = f"{port.address}/{network.subnet.prefixlen}"
    row = f"external_ids:iface-id={port.name}"
    probe = add_probe(host, f"probe{number}", port.mac, address, Interface=row)
    try:
        host.ovs.wait_ready(probe.name)
        yield probe
    finally:
        probe.remove()
        lab.central.remove_port(name)


def address_of(lab: Lab, probe: Probe) -> str:
    found = probe.host.output(["ip", "-n", probe.name, "-4", "-o", "addr", "show", "eth0"])
    return found.split()[3].partition("/")[0]


def test_no_packet_is_lost_while_a_host_is_configured_anew(
    lab: Lab, joined: SystemdHypervisor, near: Probe, far: Probe, authority: Authority
) -> None:
    give(joined, authority.sign("hv1"))
    target = address_of(lab, far)
    wait_until(lambda: near.reaches(target), 20, "the way through the tunnel")
    before = State.of(joined).services

    with near.ping(target) as pings:
        answers = [
            vifctl(joined, *JOIN),
            vifctl(joined, f"{CENTRAL_ADDRESS}:{TLS_PORT},[{CENTRAL6}]:{TLS_PORT}", TUNNEL, NAME),
            vifctl(joined, NOWHERE, TUNNEL, NAME, "--no-ssl", "--timeout", "2", "--force"),
        ]

    assert [answer.status for answer in answers] == [0, 0, 1]
    assert f"the southbound database does not answer on tcp:{NOWHERE}:6642" in answers[2].err
    assert pings.sent > 200
    assert pings.lost == 0
    assert State.of(joined).services == before


def test_vms_keep_a_host_from_another_name_or_ovn_and_from_leaving(
    lab: Lab, joined: SystemdHypervisor, plain_guest: GuestMaker, new_port: PortMaker
) -> None:
    guest = plain_guest(joined, new_port())
    before = State.of(joined)

    renamed = vifctl(joined, CENTRAL_ADDRESS, TUNNEL, "other.example.com", "--no-ssl")
    given_away = vifctl(joined, NOWHERE, TUNNEL, NAME, "--no-ssl")
    left = vifctl(joined, "--undo")

    for answer in (renamed, given_away, left):
        assert answer.status == 1
        assert f"VM {guest.name} on this host would lose the network" in answer.err
    assert State.of(joined) == before
