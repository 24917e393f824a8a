# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""The package's life on hosts that run VMs: it comes, is exchanged, and goes, and no VM notices.

One VM lives on hv1 all through, connected by libvirt alone, as ovirt-provider-ovn-driver did it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.conftest import CONFIGURATION, StartMaker, VmMaker, plain_interface
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.guest import Guest, GuestSpec
from tests.lab.harness.lab import Lab
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.ovn_central import LogicalPort, Network
from tests.lab.harness.packages import (
    EVENTS,
    FOLDERS_OF_HOST,
    HOOKS,
    NAMES,
    OF_HOST,
    OF_OPENSTACKNET,
    OF_OVN_DRIVER,
    OPENSTACKNET,
    OVN_DRIVER,
    TOOL,
    TOOLS,
    Build,
    build,
    build_changed,
    rpm,
    stand_in,
    version_of,
)
from tests.lab.harness.pings import Probe
from tests.lab.harness.product import BOOT_PASS, SERVICE, SOCKET_UNIT, UNITS, SystemdProduct
from tests.lab.harness.service import Daemon
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vm_start import VmStart, agent_status, state
from tests.lab.migrations import (  # noqa: F401
    port,
    running,
    source,
    target,
    vm,
    wait_well,
)

OLD = (OVN_DRIVER, OPENSTACKNET)
NEWER = "9.9.9"
# What is new in the newer package's configuration.
NEW_KEY = "# Everything here is the default, as ever;"
# What an administrator has set: a VM waits for longer than anything here takes.
EDITED = "[start]\ndeadline = 300\n"


@dataclass(frozen=True)
class Packages:
    """What is installed in these tests.

    Attributes:
        now: this checkout's packages.
        newer: those of a later version, with another configuration.
        old: what they replace.
        host: what the host has besides.
    """

    now: Build
    newer: Build
    old: list[Path]
    host: list[Path]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Build them all."""
    folder = tmp_path_factory.mktemp("packages")
    changes = {
        "vif_driver/__init__.py": (f'"{version_of(PROJECT)}"', f'"{NEWER}"'),
        "packaging/vif-driver.conf": ("# Everything here is the default;", NEW_KEY),
    }
    folders = [f"{HOOKS}/{event}" for event in EVENTS]
    folders += ["/usr/libexec/vdsm", HOOKS, str(Path(TOOLS).parent), TOOLS, f"{TOOLS}/__pycache__"]
    return Packages(
        build(folder / "now"),
        build_changed(folder, changes),
        [
            stand_in(folder, OVN_DRIVER, "1.2.36", files=OF_OVN_DRIVER),
            stand_in(folder, OPENSTACKNET, "4.50.5.1", files=OF_OPENSTACKNET),
        ],
        [
            stand_in(folder, "vdsm", "4.50.5.1", folders=folders),
            stand_in(folder, "el", "9", folders=FOLDERS_OF_HOST, provides=OF_HOST),
        ],
    )


@pytest.fixture(scope="module")
def lab(packages: Packages) -> Iterator[Lab]:
    """Two hypervisors with systemd, as host-deploy has left them years ago."""
    with Lab(hypervisors=2, systemd=True) as started:
        for host in started.hosts:
            rpm(host, "-U", *packages.host)
        yield started


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> list[SystemdHypervisor]:
    """The hypervisors."""
    return [host for host in lab.hosts if isinstance(host, SystemdHypervisor)]


@pytest.fixture(scope="module")
def host(hosts: list[SystemdHypervisor]) -> SystemdHypervisor:
    """The first of them."""
    return hosts[0]


@pytest.fixture(scope="module")
def dweller(lab: Lab, host: SystemdHypervisor, probe_port: LogicalPort, network: Network) -> str:
    """The address of the VM that lives on hv1 all through."""
    port = lab.central.add_port(
        network, "dddddddd-0000-4000-8000-00000000000d", "fa:16:3e:00:00:0d"
    )
    guest = Guest.boot(host, GuestSpec("dweller", [plain_interface(port)]))
    guest.wait_lease(port.mac)
    return port.address


@pytest.fixture
def agents(hosts: list[SystemdHypervisor], packages: Packages) -> list[SystemdProduct]:
    """This checkout's packages on every host, as if nothing had been there before; they run."""
    for host in hosts:
        forget(host)
        rpm(host, "-U", *packages.now.packages)
    for host in hosts:
        wait_agent(host, packages.now.version)
    return [SystemdProduct(host) for host in hosts]


@pytest.fixture
def bare(host: SystemdHypervisor) -> SystemdHypervisor:
    """The first host without the packages."""
    forget(host)
    return host


@pytest.fixture
def no_guests_left(lab: Lab) -> Iterator[None]:
    """After the test, end all guests but the one that lives on."""
    yield
    for host in lab.hosts:
        for domain in host.libvirt.connection.listAllDomains():
            if domain.name() != "dweller":
                domain.destroy()


def forget(host: SystemdHypervisor) -> None:
    """Remove the packages, and what they have kept for a next time."""
    there = installed(host) & {*NAMES, *OLD}
    if there:
        rpm(host, "-e", *there)
    host.run("rm -rf /etc/vif-driver")


def installed(host: SystemdHypervisor) -> set[str]:
    """The names of a host's packages."""
    return set(rpm(host, "-qa", "--queryformat", "%{NAME}\\n").split())


def wait_agent(host: SystemdHypervisor, version: str) -> None:
    """Wait until an agent of that version answers, and reaches what it needs."""

    def ready() -> bool:
        try:
            status = agent_status(host)
        except (OSError, ValueError):  # it has just ended
            return False
        reaches = status["ovsdb_connected"] and status["libvirt_connected"]
        return bool(status["version"] == version and reaches)

    wait_until(ready, 20, f"{host.name}: agent {version} at work", interval=0.1)


def patient(product: SystemdProduct) -> None:
    """Have VMs wait for their vNICs for as long as a test may take."""
    product.host.write(CONFIGURATION, EDITED)
    product.agent.restart()


@contextmanager
def unnoticed(probe: Probe, address: str) -> Iterator[None]:
    """See to it that a VM loses no packet meanwhile."""
    with probe.ping(address) as pings:
        yield
    assert pings.sent > 10
    assert pings.lost == 0, pings


# ---- it comes ------------------------------------------------------------------------------------


@pytest.fixture
def replaced(
    bare: SystemdHypervisor, packages: Packages, probe: Probe, dweller: str
) -> SystemdHypervisor:
    """The first host, on which the packages have just taken the place of the two old ones."""
    rpm(bare, "-U", *packages.old)
    with unnoticed(probe, dweller):
        rpm(bare, "-U", *packages.now.packages)
    return bare


def test_on_a_host_with_vms_it_takes_the_place_of_both_old_packages(
    replaced: SystemdHypervisor, packages: Packages
) -> None:
    gone = (OF_OPENSTACKNET.keys() | OF_OVN_DRIVER.keys()) - {TOOL}

    assert installed(replaced) & {*NAMES, *OLD} == set(NAMES)
    assert [path for path in gone if replaced.exists(path)] == []
    scripts = {script for event in EVENTS for script in Vdsm(replaced).hooks.scripts(event)}
    assert {script.rpartition("/")[2] for script in scripts} == {"50_vif_driver"}
    assert replaced.read("/etc/openvswitch/system-id.conf") == f"{replaced.name}\n"
    assert rpm(replaced, "-V", *NAMES) == ""


def test_an_installed_agent_runs_and_starts_at_boot(replaced: SystemdHypervisor) -> None:
    enabled = replaced.output(["systemctl", "is-enabled", *UNITS]).split()
    active = replaced.output(["systemctl", "is-active", SERVICE, SOCKET_UNIT]).split()

    assert enabled == ["enabled"] * 3
    assert active == ["active"] * 2
    assert replaced.system_state == "running"


def test_installed_units_have_no_mistake(replaced: SystemdHypervisor) -> None:
    checked = replaced.run(["systemd-analyze", "verify", "--man=no", *UNITS], check=False)

    assert "vif-" not in checked.stderr


def test_where_the_policy_module_comes_later_agent_and_socket_are_made_anew(
    agents: list[SystemdProduct], packages: Packages, host: SystemdHypervisor
) -> None:
    inode = ["stat", "--format=%i", "/run/vif-driver/agent.sock"]
    before = agents[0].agent.pid, host.output(inode)

    # As the package does.
    host.run(["systemctl", "try-restart", SOCKET_UNIT, SERVICE])

    wait_agent(host, packages.now.version)
    assert agents[0].agent.pid != before[0]
    assert host.output(inode) != before[1]
    assert host.system_state == "running"


# ---- it is exchanged -----------------------------------------------------------------------------


def test_after_an_upgrade_the_new_agent_runs_and_no_vm_has_noticed(
    agents: list[SystemdProduct],
    packages: Packages,
    host: SystemdHypervisor,
    probe: Probe,
    dweller: str,
) -> None:
    before = agents[0].agent.pid

    with unnoticed(probe, dweller):
        rpm(host, "-U", *packages.newer.packages)
        wait_agent(host, NEWER)

    assert agents[0].agent.pid != before
    assert rpm(host, "-V", *NAMES) == ""


# Nobody pings it on its way, as migration tests do: over so many rounds, QEMU without KVM now and
# then loses track of what its virtual NIC writes ("id 2 is not a head", says the guest).
def test_a_vm_that_moves_meanwhile_arrives(
    lab: Lab,
    hosts: list[SystemdHypervisor],
    packages: Packages,
    probe: Probe,
    dweller: str,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    def upgrade() -> None:
        for host in hosts:
            rpm(host, "-U", *packages.newer.packages)
            wait_agent(host, NEWER)

    with unnoticed(probe, dweller):
        source.migrate(vm, target, meanwhile=upgrade)

    wait_well(lab, probe, port, "hv1")


@pytest.fixture
def deaf_ovn(host: SystemdHypervisor) -> Iterator[Daemon]:
    """ovn-controller of the first host, frozen until ``resume()`` or the test's end."""
    host.ovn_controller.suspend()
    yield host.ovn_controller
    host.ovn_controller.resume()


@pytest.fixture
def start(
    agents: list[SystemdProduct], deaf_ovn: Daemon, new_vm: VmMaker, begin: StartMaker
) -> VmStart:
    """That of a VM which stands still, as ovn-controller doesn't connect it."""
    patient(agents[0])
    start = begin(new_vm())
    start.wait_held()
    return start


def test_a_vm_that_stands_still_meanwhile_is_resumed_by_the_new_agent(
    packages: Packages, host: SystemdHypervisor, deaf_ovn: Daemon, start: VmStart
) -> None:
    rpm(host, "-U", *packages.newer.packages)
    wait_agent(host, NEWER)
    held = start.stays_held(0.5)
    deaf_ovn.resume()
    start.finish()

    assert held
    assert state(host, start.vm) == "running"
    assert start.last_hook.stderr == ""


def test_an_upgrade_keeps_what_was_configured(
    agents: list[SystemdProduct], packages: Packages, host: SystemdHypervisor
) -> None:
    host.write(CONFIGURATION, EDITED)

    rpm(host, "-U", *packages.newer.packages)

    assert host.read(CONFIGURATION) == EDITED
    assert NEW_KEY in host.read(f"{CONFIGURATION}.rpmnew")


def test_an_upgrade_replaces_what_was_not_configured(
    agents: list[SystemdProduct], packages: Packages, host: SystemdHypervisor
) -> None:
    rpm(host, "-U", *packages.newer.packages)

    assert NEW_KEY in host.read(CONFIGURATION)
    assert not host.exists(f"{CONFIGURATION}.rpmnew")


def test_an_upgrade_starts_nothing_that_was_stopped_and_enables_nothing_that_was_disabled(
    agents: list[SystemdProduct], packages: Packages, host: SystemdHypervisor
) -> None:
    agents[0].stop()
    host.run(["systemctl", "disable", *UNITS])

    rpm(host, "-U", *packages.newer.packages)

    assert agents[0].agent.state == "inactive"
    told = host.run(["systemctl", "is-enabled", *UNITS], check=False).stdout
    assert told.split() == ["disabled"] * 3


def test_the_older_version_can_be_had_back(
    agents: list[SystemdProduct],
    packages: Packages,
    host: SystemdHypervisor,
    probe: Probe,
    dweller: str,
) -> None:
    rpm(host, "-U", *packages.newer.packages)
    wait_agent(host, NEWER)

    with unnoticed(probe, dweller):
        rpm(host, "-U", "--oldpackage", *packages.now.packages)
        wait_agent(host, packages.now.version)

    assert rpm(host, "-V", *NAMES) == ""


# ---- it goes -------------------------------------------------------------------------------------

# Below these, all that is the host's own; what systemd has in /run goes by itself.
LISTED = ["/etc", "/usr", "/var", "/opt", "/root", "/srv", "/boot", "/run/vif-driver"]
# Logs, rpm's own, and where the system keeps the users, of whom one more is known: a number that
# files may have must not be given to somebody else.
REMAINS: tuple[str, ...] = (
    "/var/log/",
    "/root/.rpmdb/",
    "/var/lib/rpm/",
    "/etc/.pwd.lock",
    "/etc/.updated",
)
REMAINS += tuple(f"/etc/{name}-" for name in ("group", "gshadow", "passwd", "shadow"))


def listing(host: SystemdHypervisor) -> set[str]:
    """The paths of what is on a host."""
    found = host.run(["find", *LISTED, "-xdev"], check=False).stdout.splitlines()
    return {path for path in found if not path.startswith(REMAINS)}


def test_when_it_goes_nothing_is_left_and_no_vm_has_noticed(
    bare: SystemdHypervisor, packages: Packages, probe: Probe, dweller: str
) -> None:
    before = listing(bare)
    rpm(bare, "-U", *packages.now.packages)
    wait_agent(bare, packages.now.version)
    bare.run(["vifctl", "doctor"], check=False)
    bare.write(CONFIGURATION, EDITED)

    with unnoticed(probe, dweller):
        rpm(bare, "-e", *NAMES)

    saved = {"/etc/vif-driver", f"{CONFIGURATION}.rpmsave"}
    assert listing(bare) - before == saved
    assert before - listing(bare) == set()
    assert bare.read(f"{CONFIGURATION}.rpmsave") == EDITED


def test_when_it_goes_no_unit_no_right_and_no_note_in_open_vswitch_is_left(
    agents: list[SystemdProduct], host: SystemdHypervisor
) -> None:
    socket = "/run/openvswitch/db.sock"
    ids = ["get", "Open_vSwitch", ".", "external_ids"]
    host.run(["systemctl", "restart", BOOT_PASS])
    noted = host.vsctl(*ids)
    before = host.output(["getfacl", "-c", socket])

    rpm(host, "-e", *NAMES)

    assert "vif-driver-boot-id" in noted and "vif-driver-boot-removed" in noted
    assert "vif-driver" not in host.vsctl(*ids)
    assert "user:vif-agent:rw-" in before
    assert "vif-agent" not in host.output(["getfacl", "-c", socket])
    assert "vif-" not in host.output(["systemctl", "list-units", "--all", "--plain", "--no-legend"])
    assert host.system_state == "running"


def test_a_vm_that_stands_still_when_it_goes_is_let_run(
    host: SystemdHypervisor, start: VmStart
) -> None:
    rpm(host, "-e", *NAMES)

    start.finish()
    assert state(host, start.vm) == "running"
