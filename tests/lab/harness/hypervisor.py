# SPDX-License-Identifier: GPL-2.0-or-later
"""A hypervisor: a machine with Open vSwitch, libvirt and, unless it is Neutron's, OVN."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .anchor import Anchor
from .interpreter import Interpreter, open_way
from .libvirt_daemon import LOG as LIBVIRT_LOG
from .libvirt_daemon import LibvirtDaemon
from .machine import PROJECT, Cable, Machine, User
from .open_vswitch import DIRECTORIES, OpenVSwitch
from .open_vswitch import LOG as OVS_LOG
from .service import Daemon, Service

UNDERLAY = "ul"
MANAGEMENT = "mg"
UNDERLAY_MTU = 1700
INTEGRATION_BRIDGE = "br-int"
PHYSICAL_BRIDGE = "br-phy"
GUEST_DIRECTORY = "/run/guests"
GUEST_LOG = "/var/log/guests"
VDSM_USER = User("vdsm", 36, 36, "/var/lib/vdsm")
VDSM_GROUP = "kvm"


class Hypervisor(Machine):
    """A host of virtual machines.

    Args:
        anchor: what it hangs from.
        name: host name, and the chassis' name.
        number: 1 to 199, the last part of its addresses less ten.
        central: address of the southbound database's machine; None for a host without OVN.
        interpreter: its ``/usr/bin/python3``; None is this computer's.
        more: passed on to :class:`Machine`.

    Attributes:
        ovs, libvirt: its parts.
        ovn_controller: the daemon; it isn't started on a host without OVN.
        tunnel_address: on the underlay, the Geneve end point.
        management_address: on the management network, which migration uses too.
    """

    def __init__(
        self,
        anchor: Anchor,
        name: str,
        number: int,
        *,
        central: str | None = None,
        interpreter: Interpreter | None = None,
        **more: Any,
    ) -> None:
        self.interpreter = interpreter
        self.number = number
        self.central = central
        self.tunnel_address = f"192.0.2.{10 + number}"
        self.management_address = f"198.51.100.{10 + number}"
        cables = (
            Cable("eth0", UNDERLAY, None, UNDERLAY_MTU),
            # Management and migration never pass through the userspace Open vSwitch: guests froze.
            Cable("eth1", MANAGEMENT, f"{self.management_address}/24"),
        )
        super().__init__(anchor, name, **{"cables": cables, **more})
        self.ovs = self.make_open_vswitch()
        self.libvirt = self.make_libvirt()
        self.ovn_controller = self.make_ovn_controller()

    # ---- its parts; other kinds of hypervisors run them in other ways ------------------------

    def make_open_vswitch(self) -> OpenVSwitch:
        """Make what stands for Open vSwitch."""
        return OpenVSwitch(self)

    def make_libvirt(self) -> LibvirtDaemon:
        """Make what stands for libvirt."""
        return LibvirtDaemon(self)

    def make_ovn_controller(self) -> Daemon:
        """Make what stands for ovn-controller."""
        return Service(
            self,
            "ovn-controller",
            [
                "ovn-controller",
                "unix:/run/openvswitch/db.sock",
                "--pidfile=/run/ovn/ovn-controller.pid",
                "--log-file=/var/log/ovn/ovn-controller.log",
                "-vconsole:off",
                "--detach",
            ],
            pidfile="/run/ovn/ovn-controller.pid",
            detaches=True,
            log="/var/log/ovn/ovn-controller",
        )

    # ---- life --------------------------------------------------------------------------------

    def prepare_files(self) -> None:
        super().prepare_files()
        for directory in (*DIRECTORIES, "/run/ovn", "/var/log/ovn", GUEST_DIRECTORY, GUEST_LOG):
            self.make_directory(directory)
        # Users and groups as on an oVirt host; Debian's kvm has another number.
        self.set_group(VDSM_GROUP, VDSM_USER.gid)
        self.set_user(VDSM_USER)
        for directory in ("/run/vdsm", "/var/lib/vdsm", "/var/log/vdsm"):
            self.make_directory(directory, owner=VDSM_USER)
        self.libvirt.configure()
        open_way(self, PROJECT)
        if self.interpreter is not None:
            self.interpreter.install_on(self)

    @property
    def external_ids(self) -> dict[str, str]:
        """What the host's Open_vSwitch row says about the host."""
        names = {"system-id": self.name, "hostname": self.name}
        if self.central is None:
            return names
        return {
            **names,
            "ovn-remote": f"tcp:{self.central}:6642",
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": self.tunnel_address,
            **self.ovs.ovn_settings,
        }

    def start(self) -> None:
        """Boot it if need be, and start all its daemons, as a host's boot does."""
        if not self.powered:
            self.boot()
        self.start_ovs()
        if self.central is not None:
            self.ovn_controller.start()
        self.libvirt.start()

    def start_ovs(self) -> None:
        """Start Open vSwitch with the bridges and the tunnel's address."""
        self.ovs.start(self.external_ids)
        self.ovs.add_bridge(PHYSICAL_BRIDGE)
        self.ovs.vsctl("--may-exist", "add-port", PHYSICAL_BRIDGE, "eth0")
        self.ovs.add_bridge(INTEGRATION_BRIDGE, "fail_mode=secure")
        self.restore_tunnel_address()

    def restore_tunnel_address(self) -> None:
        """Put the tunnel's address on the physical bridge, whose device ovs-vswitchd makes."""
        self.ip(
            f"link set {PHYSICAL_BRIDGE} mtu {UNDERLAY_MTU} up",
            f"addr replace {self.tunnel_address}/24 dev {PHYSICAL_BRIDGE}",
        )

    def restart_vswitchd(self, *, kill: bool = False) -> None:
        """Stop (or kill) ovs-vswitchd, start it, and restore what its end took away."""
        if kill:
            self.ovs.vswitchd.kill()
        else:
            self.ovs.vswitchd.stop()
        self.ovs.vswitchd.start()
        self.restore_tunnel_address()

    def power_cut(self) -> None:
        self.libvirt.disconnect()
        super().power_cut()

    # ---- control -----------------------------------------------------------------------------

    def vsctl(self, *arguments: str, timeout: float = 20.0) -> str:
        """Run ovs-vsctl on the host and return its output."""
        return self.ovs.vsctl(*arguments, timeout=timeout)

    def appctl(self, *arguments: str, timeout: float = 20.0) -> str:
        """Run ovs-appctl on the host and return its output."""
        return self.ovs.appctl(*arguments, timeout=timeout)

    def virsh(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run virsh on the host and return its output."""
        return self.libvirt.virsh(*arguments, timeout=timeout)

    def save_logs(self, target: Path) -> None:
        """Copy the host's logs, and what can be seen of its state, to ``target``."""
        logs = (OVS_LOG, "/var/log/ovn", LIBVIRT_LOG, GUEST_LOG, "/var/log/vdsm")
        more = ("/var/log/vif-agent.log", "/run/tapwatch.log", "/var/log/messages")
        self.collect(target, [*logs, *more])
        if not self.powered:
            return
        state = [
            "ip -d addr; ip route; bridge link",
            "ovs-vsctl --timeout=3 show",
            "ovs-vsctl --timeout=3 list Interface",
            "ps axf",
            "timeout 3 virsh -c qemu:///system list --all",
        ]
        for command in state:
            done = self.run(command, check=False, timeout=15)
            name = re.sub(r"[^a-z]+", "-", command.lower()).strip("-")[:40]
            (target / f"{name}.txt").write_text(done.stdout + done.stderr)
