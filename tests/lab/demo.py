# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tests.lab.demo``: a VM's vNIC from VDSM's hook to a ping, on two hypervisors.

And then a power cut, on a hypervisor of its own that systemd boots (demo_reboot.py).

Ends with status 0 only if the ping arrived and cleaning up left nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator

from lxml import etree

from tests.lab import demo_protection, demo_reboot
from tests.lab.demo_teller import Failed, Teller
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.guest import BOOT_TIMEOUT, Guest
from tests.lab.harness.guest_image import guest_image
from tests.lab.harness.hypervisor import INTEGRATION_BRIDGE, Hypervisor
from tests.lab.harness.lab import LOGS, Lab, LeftBehind
from tests.lab.harness.libvirt_daemon import libvirt
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import Network
from tests.lab.harness.pings import add_probe
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm

PINGS = 3
LOGS_HERE = LOGS / "demo"
EVENT = "before_device_create"


class Demo:
    """What the chapters share.

    Attributes:
        teller: says what happens.
        lab: two hypervisors, ``hv1`` and ``hv2``, and OVN's central machine.
        products: of each hypervisor.
        vdsms: of each hypervisor.
        network: the logical switch that the VMs are on.
        vms: those that there are, one on each hypervisor to begin with.
        before: devices and Open vSwitch ports of each hypervisor, before there were VMs.
    """

    def __init__(self, teller: Teller, lab: Lab) -> None:
        self.teller = teller
        self.lab = lab
        self.products = [Product(host) for host in lab.hosts]
        self.vdsms = [Vdsm(host) for host in lab.hosts]
        self.network: Network | None = None
        self.vms: list[Vm] = []
        self.before: list[set[str]] = []


# ---- the chapters --------------------------------------------------------------------------------


def build(demo: Demo) -> None:
    """A lab of two hypervisors."""
    with demo.teller.step("the guests' kernel and ramdisk"):
        guest_image()
    with demo.teller.step("start Open vSwitch, OVN and libvirt on hv1 and hv2, OVN's central"):
        demo.lab.start()


def install(demo: Demo) -> None:
    """The product and a network."""
    with demo.teller.step("make install on hv1 and hv2"):
        for product in demo.products:
            product.install()
    with demo.teller.step("start vif-agent on hv1 and hv2"):
        for product in demo.products:
            product.start()
    with demo.teller.step("in OVN: network 10.0.0.0/24 with DHCP, a router, two ports"):
        network = demo.network = demo.lab.central.add_network("net1", "10.0.0.0/24")
        demo.lab.central.add_router("r1", [network])
        for number in (1, 2):
            mac = f"fa:16:3e:00:00:{number:02x}"
            port = demo.lab.central.add_port(network, str(uuid.uuid4()), mac)
            demo.vms.append(Vm(f"vm{number}", [Nic.ovn(port.name, port.mac)]))
    demo.before = [names(host) for host in demo.lab.hosts]


def plug(demo: Demo) -> None:
    """VDSM starts a VM on each hypervisor."""
    for vm, vdsm in zip(demo.vms, demo.vdsms):
        with demo.teller.step(f"start {vm.name} on {vdsm.host.name}, with all hooks"):
            vdsm.create_vm(vm)
    vm, vdsm = demo.vms[0], demo.vdsms[0]
    run = vdsm.hooks.runs_of(EVENT, vm.id)[0]
    demo.teller.show(f"\n{EVENT}/{run.script}, as user vdsm, with")
    demo.teller.table([(f"  {name}", value) for name, value in run.properties.items()])
    demo.teller.show(f"exit status {run.status}; VDSM's XML (-) and what libvirt gets (+):\n\n")
    demo.teller.diff(indented(run.given), indented(run.result))
    demo.teller.show("\n")
    for run in vdsm.hooks.runs:
        took = f"in {run.seconds * 1000:.0f} ms with entering the host"
        demo.teller.show(f"{run.event}: exit status {run.status} {took} {run.stderr.strip()}")


def boot(demo: Demo) -> None:
    """The guests boot and ask for an address (the first number is the guest's uptime)."""
    for vm in demo.vms:
        with demo.teller.step(f"wait for the DHCP lease of {vm.name}; its console:"):
            follow(demo, vm.running, "dhcp-bound")
    for vm in demo.vms:
        lease = vm.running.wait_lease(vm.nics[0].mac)
        text = f"{vm.name} has {lease.address} on {lease.device} ({lease.mac}), "
        demo.teller.show(f"{text}router {lease.router}, MTU {lease.mtu}")


def ping(demo: Demo) -> None:
    """A ping from one hypervisor to the other."""
    near, far = demo.vms
    target = far.running.wait_lease().address
    where = [vm.running.host.name for vm in demo.vms]
    with demo.teller.step(f"ping {far.name} on {where[1]} from inside {near.name} on {where[0]}"):
        done = near.running.run(f"ping -c {PINGS} -W 2 {target}", check=False)
        demo.teller.show(done.stdout + done.stderr)
    if done.returncode != 0:
        raise Failed(f"no answer to the ping from {near.name} to {target}")


def wait(demo: Demo) -> None:
    """A VM runs when its port works: one whose port is late."""
    vdsm, host = demo.vdsms[0], demo.lab.hosts[0]
    vm = Vm("late", [Nic.ovn(str(uuid.uuid4()), "fa:16:3e:00:00:03")])
    demo.vms.append(vm)
    port = vm.nics[0].vnic_id
    starting = threading.Thread(target=vdsm.create_vm, args=(vm,), daemon=True)
    with demo.teller.step(f"start {vm.name} on {host.name}; OVN has no port of that id yet"):
        starting.start()
        record = f"/run/vif-driver/starting/{vm.id}"
        wait_until(lambda: '"started": true' in host.read(record), 20, f"{vm.name} to wait")
        demo.teller.show(f"libvirt: {vm.name} is {host.virsh('domstate', '--reason', vm.name)}")
        demo.teller.show(host.run(["vifctl", "status"], check=False).stdout)
    with demo.teller.step("the port is made"):
        demo.lab.central.add_port(as_made(demo.network), port, vm.nics[0].mac)
        starting.join()
        demo.teller.show(f"libvirt: {vm.name} is {host.virsh('domstate', '--reason', vm.name)}")
        told = demo.products[0].log().splitlines()
        demo.teller.show("\n".join(line for line in told if vm.id in line and "after its" in line))
    if vm.running.paused:
        raise Failed(f"{vm.name} was not resumed")


def look(demo: Demo) -> None:
    """What the host knows."""
    vm, host = demo.vms[0], demo.lab.hosts[0]
    nic = vm.nics[0]
    with demo.teller.step(f"vifctl status on {host.name}"):
        demo.teller.show(host.output(["vifctl", "status"]))
    with demo.teller.step(f"vifctl list and vifctl trace on {host.name}"):
        demo.teller.show(host.output(["vifctl", "list"]))
        demo.teller.show(host.output(["vifctl", "trace", nic.vnic_id]))
    with demo.teller.step(f"Open vSwitch on {host.name}: interface {nic.tap}"):
        row = host.ovs.interface(nic.tap)
        if not row:
            raise Failed(f"Open vSwitch has no interface {nic.tap}")
        facts = [("bridge", host.vsctl("port-to-br", nic.tap)), ("ofport", str(row["ofport"]))]
        facts += [(name, str(value)) for name, value in sorted(row["external_ids"].items())]
        demo.teller.table(facts)
    with demo.teller.step("OVN's southbound database"):
        chassis = demo.lab.central.bound_to(nic.vnic_id)
        demo.teller.show(f"port {nic.vnic_id} is bound to {chassis or 'no host'}")
    if chassis != host.name:
        raise Failed(f"OVN has not bound the port of {vm.name} to {host.name}")


def migrate(demo: Demo) -> None:
    """A VM moves to the other hypervisor under a ping."""
    vm, nic = demo.vms[0], demo.vms[0].nics[0]
    source, target = demo.vdsms
    network = as_made(demo.network)
    with demo.teller.step(f"on {source.host.name}, something that pings {vm.name} every 10 ms"):
        port = demo.lab.central.add_port(network, str(uuid.uuid4()), "fa:16:3e:00:00:09")
        address = f"{port.address}/{network.subnet.prefixlen}"
        row = f"external_ids:iface-id={port.name}"
        probe = add_probe(source.host, "probe", port.mac, address, mtu=network.mtu, Interface=row)
        source.host.ovs.wait_ready(probe.name)
    options = ("get", "Logical_Switch_Port", nic.vnic_id, "options")
    with demo.teller.step(f"migrate {vm.name} from {source.host.name} to {target.host.name}"):
        with probe.ping(vm.running.wait_lease().address) as pings:
            source.migrate(vm, target)
            demo.teller.show(f"OVN: its port has options {demo.lab.central.nbctl(*options)}")
            time.sleep(1)
        kind = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED
        stood = vm.running.domain.jobStats(kind)["downtime"]
        demo.teller.show(f"the guest stood still for {stood} ms")
        demo.teller.show(
            f"longest time without an answer {pings.outage * 1000:.0f} ms; of {pings.sent} pings "
            f"{pings.lost} were lost, {pings.duplicates} answered twice"
        )
        bound = demo.lab.central.bound_to(nic.vnic_id)
        demo.teller.show(f"OVN: its port is bound to {bound}")
    if bound != target.host.name:
        raise Failed(f"OVN has not bound the port of {vm.name} to {target.host.name}")
    with demo.teller.step("of the migration nothing is left in OVN's port"):
        wait_until(lambda: demo.lab.central.nbctl(*options) == "{}", 20, "options as they were")
        probe.remove()
        demo.lab.central.remove_port(port.name)


def protect(demo: Demo) -> None:
    """VDSM is asked to take the tunnels' NIC."""
    demo_protection.protect(demo.teller, demo.lab.hosts[0])


def clean_up(demo: Demo) -> None:
    """Nothing is left."""
    while demo.vms:
        vm = demo.vms[-1]
        host = vm.running.host
        vdsm = next(vdsm for vdsm in demo.vdsms if vdsm.host is host)
        with demo.teller.step(f"destroy {vm.name} on {host.name}, with all hooks"):
            vdsm.destroy_vm(vm)
            demo.lab.central.remove_port(vm.nics[0].vnic_id)
        demo.vms.pop()
    with demo.teller.step("devices and Open vSwitch ports are as they were before the VMs"):
        for host, before in zip(demo.lab.hosts, demo.before):
            changed = names(host) ^ before
            if changed:
                raise Failed(f"{host.name} is not as it was: {', '.join(sorted(changed))}")
    failed = [run for vdsm in demo.vdsms for run in vdsm.runs if run.status != 0]
    if failed:
        raise Failed(f"{failed[0].event} ended with {failed[0].status}: {failed[0].stderr.strip()}")
    with demo.teller.step("stop vif-agent on hv1 and hv2"):
        for product in demo.products:
            product.stop()


#: Told in this order; the first line of each one's docstring is its heading.
CHAPTERS: list[Callable[[Demo], None]] = [
    build,
    install,
    plug,
    boot,
    ping,
    wait,
    look,
    migrate,
    protect,
    clean_up,
]


# ---- helpers -------------------------------------------------------------------------------------


def as_made(network: Network | None) -> Network:
    """The network, which an earlier chapter made."""
    if network is None:
        raise Failed("there is no network")
    return network


def names(host: Hypervisor) -> set[str]:
    """The host's devices, and the ports of its integration bridge less OVN's tunnels."""
    ports = {name for name in host.ovs.ports(INTEGRATION_BRIDGE) if not name.startswith("ovn-")}
    return host.devices() | {f"port {name}" for name in ports}


def indented(xml: bytes) -> str:
    """XML with every element on a line of its own."""
    root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
    text: bytes = etree.tostring(root, pretty_print=True)
    return text.decode()


def follow(demo: Demo, guest: Guest, event: str) -> None:
    """Show the events on a guest's console as they come, until one of that name."""
    end = time.monotonic() + BOOT_TIMEOUT
    shown = 0
    while time.monotonic() < end:
        events = guest.events()
        for new in events[shown:]:
            details = " ".join(f"{name}={value}" for name, value in new.details.items())
            demo.teller.show(f"{new.uptime:6.2f} {new.name} {details}")
        shown = len(events)
        if any(seen.name == event for seen in events):
            return
        time.sleep(0.1)
    raise Failed(f"{guest.name} did not tell {event} within {BOOT_TIMEOUT:g} s")


# ---- the whole -----------------------------------------------------------------------------------


def main() -> int:
    """Tell everything; the exit status is 0 if all of it worked."""
    teller = Teller()
    if os.geteuid() != 0:
        teller.failure("FAILED: the lab needs root")
        return 1
    begun = time.monotonic()
    try:
        tell(teller)
    except Exception as error:  # whatever it is, the reader gets one line
        reason = (str(error).splitlines() or [""])[0]
        if not isinstance(error, Failed):
            reason = f"{type(error).__name__}: {reason}"
        LOGS_HERE.mkdir(parents=True, exist_ok=True)
        (LOGS_HERE / "error.txt").write_text(traceback.format_exc())
        teller.failure(
            f"FAILED: {teller.doing}: {reason}; logs: {os.path.relpath(LOGS_HERE, PROJECT)}"
        )
        return 1
    teller.chapter(f"All of it worked, in {time.monotonic() - begun:.0f} s.")
    return 0


def tell(teller: Teller) -> None:
    """Tell everything, in two labs one after the other."""
    shutil.rmtree(LOGS_HERE, ignore_errors=True)
    with laboratory(teller, Lab(hypervisors=2, start=False)) as lab:
        demo = Demo(teller, lab)
        for chapter in CHAPTERS:
            teller.chapter(heading(chapter))
            chapter(demo)
    teller.chapter(heading(demo_reboot.reboot))
    with laboratory(teller, Lab(hypervisors=1, systemd=True, start=False)) as lab:
        demo_reboot.reboot(teller, lab)


def heading(chapter: Callable[..., None]) -> str:
    """A chapter's first line."""
    return (chapter.__doc__ or chapter.__name__).splitlines()[0].rstrip(".")


@contextlib.contextmanager
def laboratory(teller: Teller, lab: Lab) -> Iterator[Lab]:
    """A lab that is taken down at the end, and its logs kept if something fails in it."""
    try:
        lab.__enter__()
        yield lab
    except BaseException:
        lab.save_logs(LOGS_HERE.name)
        try:
            lab.stop()
        except LeftBehind as left:  # what failed first is what the reader must see
            teller.failure(f"and of the lab is left behind: {left}")
        raise
    with teller.step("take the lab down: no process, no mount of it is left"):
        lab.stop()


if __name__ == "__main__":
    sys.exit(main())
