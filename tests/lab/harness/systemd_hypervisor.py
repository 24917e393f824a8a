# SPDX-License-Identifier: GPL-2.0-or-later
"""A hypervisor whose pid 1 is systemd, and whose daemons are the distribution's units."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

from .anchor import Anchor
from .deadline import wait_until
from .hypervisor import PHYSICAL_BRIDGE, UNDERLAY_MTU, VDSM_USER, Hypervisor
from .libvirt_daemon import LibvirtDaemon
from .machine import User
from .open_vswitch import TAP_WATCH, OpenVSwitch
from .unit import Unit

SYSTEMD = "/lib/systemd/systemd"
RUNTIME_UNITS = "/run/systemd/system"
TARGET = "multi-user.target"
LIBVIRT_SOCKETS = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-tcp.socket")

# Of what systemd's own package has started at every boot, that which a machine of the lab is to
# have.  Everything else is masked: it is for hardware, for consoles, or sets up the computer.
KEPT = {
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "systemd-journal-flush.service",
    "systemd-tmpfiles-setup.service",
}
# Not in a directory of links, but started all the same.
MASKED = (
    "systemd-machined.service",
    "systemd-remount-fs.service",
    "systemd-udevd.service",
    "modprobe@.service",
    "tmp.mount",
)

JOURNAL = """\
[Journal]
Storage=persistent
SystemMaxUse=64M
RateLimitIntervalSec=0
SyncIntervalSec=1
Audit=no
"""

# What the lab's units are different in, and why.
DROP_INS = {
    # ovs-ctl would load the kernel's datapath.
    "ovs-vswitchd.service": """\
[Service]
ExecStart=
ExecStart=/usr/sbin/ovs-vswitchd unix:/run/openvswitch/db.sock --disable-system --pidfile \\
    --log-file -vconsole:off --detach
ExecStartPost=-/sbin/ip link set {bridge} mtu {mtu} up
ExecStartPost=-/sbin/ip addr replace {address}/24 dev {bridge}
ExecReload=
""",
    # By default it ends when it has been idle for two minutes.
    "libvirtd.service": "[Service]\nEnvironment=LIBVIRTD_ARGS=\n",
    # As VDSM has libvirtd.conf say it where no systemd makes the socket.
    "libvirtd.socket": "[Socket]\nSocketGroup=qemu\nSocketMode=0770\n",
}

TAP_WATCH_UNIT = """\
[Unit]
Description=Watcher of deleted taps, for the userspace datapath
After=ovs-vswitchd.service

[Service]
ExecStart={command}
StandardOutput=file:/run/tapwatch.log
StandardError=inherit
"""

# As EL's libvirt has it, and VDSM's user in its group.
QEMU_USER = User("qemu", 107, 107, "/")


class SystemdHypervisor(Hypervisor):
    """A hypervisor that systemd boots.

    Its daemons are units, so whoever kills one sees systemd bring it back; once :meth:`start` has
    been called, every later boot starts them by itself.

    Args:
        anchor, name, number, more: as for :class:`Hypervisor`.
    """

    end_signal = signal.SIGRTMIN + 4

    def __init__(self, anchor: Anchor, name: str, number: int, **more: Any) -> None:
        super().__init__(
            anchor,
            name,
            number,
            init=[
                SYSTEMD,
                "--system",
                f"--unit={TARGET}",
                "--log-target=journal",
                "--show-status=0",
            ],
            # It is what systemd calls a container: it leaves the computer's clock, console and
            # kernel alone.
            env={"container": "lab"},
            cgroup=True,
            **more,
        )
        self._cleared = False

    # ---- its parts ---------------------------------------------------------------------------

    def make_open_vswitch(self) -> OpenVSwitch:
        watching = lambda: "watching" in self.read("/run/tapwatch.log")  # noqa: E731
        return OpenVSwitch(
            self,
            (
                Unit(self, "ovsdb-server.service"),
                Unit(self, "ovs-vswitchd.service"),
                Unit(self, "tapwatch.service", ready=watching),
            ),
        )

    def make_libvirt(self) -> LibvirtDaemon:
        unit = Unit(self, "libvirtd.service", sockets=LIBVIRT_SOCKETS)
        libvirt = LibvirtDaemon(self, unit, QEMU_USER.name)
        unit.ready = libvirt.answers
        return libvirt

    def make_ovn_controller(self) -> Unit:
        return Unit(self, "ovn-controller.service")

    # ---- life --------------------------------------------------------------------------------

    def prepare_files(self) -> None:
        super().prepare_files()
        self.set_group(QEMU_USER.name, QEMU_USER.gid, [VDSM_USER.name])
        self.set_user(QEMU_USER)
        # Where Debian's ovs-ctl takes it from; on its disk, so once.
        if not self._cleared:
            self.write("/etc/openvswitch/system-id.conf", f"{self.name}\n")
        self.write("/etc/systemd/journald.conf.d/lab.conf", JOURNAL)
        self.make_directory("/var/log/journal")
        self._clear_units()
        for unit, text in DROP_INS.items():
            address, bridge = self.tunnel_address, PHYSICAL_BRIDGE
            text = text.format(bridge=bridge, mtu=UNDERLAY_MTU, address=address)
            self.write(f"{RUNTIME_UNITS}/{unit}.d/lab.conf", text)
        tap_watch = TAP_WATCH_UNIT.format(command=shlex.join(TAP_WATCH))
        self.write(f"{RUNTIME_UNITS}/tapwatch.service", tap_watch)

    def _clear_units(self) -> None:
        """Let nothing start but what the harness, or a test, enables."""
        if not self._cleared:
            # On its disk, so once: what somebody had enabled on this computer.
            shutil.rmtree(self.path("/etc/systemd/system"))
            self.make_directory("/etc/systemd/system")
            self._cleared = True
        vendor = self.path("/lib/systemd/system")
        wanted = {link.name for link in vendor.glob("*.wants/*")}
        for unit in sorted((wanted - KEPT) | set(MASKED)):
            self._mask(f"{RUNTIME_UNITS}/{unit}")
        for generator in self.path("/lib/systemd/system-generators").iterdir():
            self._mask(f"/run/systemd/system-generators/{generator.name}")

    def _mask(self, path: str) -> None:
        link = self.path(path)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("/dev/null")

    def boot(self, *, wait: bool = True) -> None:
        """Give it power.

        Args:
            wait: return only when systemd has started everything that is enabled.
        """
        super().boot()
        if wait:
            self.wait_booted()

    def wait_booted(self, timeout: float = 60.0) -> str:
        """Wait until systemd has started everything; returns ``running`` or ``degraded``."""

        def booted() -> str:
            state = self.system_state
            return state if state in ("running", "degraded") else ""

        return wait_until(booted, timeout, f"{self.name}: end of the boot", interval=0.05)

    @property
    def system_state(self) -> str:
        """What ``systemctl is-system-running`` says; not to be had early in the boot."""
        return self.run(["systemctl", "is-system-running"], check=False).stdout.strip()

    def start(self) -> None:
        super().start()
        units = ["ovsdb-server.service", "ovs-vswitchd.service", "tapwatch.service"]
        units += ["ovn-controller.service"] if self.central is not None else []
        self.run(["systemctl", "add-wants", TARGET, *units, "libvirtd.service", *LIBVIRT_SOCKETS])

    # ---- the journal -------------------------------------------------------------------------

    def journal(self, *arguments: str, **fields: str) -> list[dict[str, Any]]:
        """Read the journal.

        Args:
            arguments: more of journalctl's, like ``--boot=-1``; by default of this boot.
            fields: only entries that have these, like ``PRIORITY="3"``.

        Returns:
            The entries, oldest first, each with all its fields.
        """
        which = [f"{name}={value}" for name, value in fields.items()]
        self.run(["journalctl", "--sync"], check=False)  # journald may not have read all of it yet
        command = ["journalctl", "--quiet", "--all", "--output=json", *(arguments or ["--boot"])]
        text = self.run([*command, *which], check=False).stdout
        return [json.loads(line) for line in text.splitlines()]

    def save_logs(self, target: Path) -> None:
        super().save_logs(target)
        if self.powered:
            journal = self.run(["journalctl", "--no-pager", "--output=short-precise"], check=False)
            (target / "journal.txt").write_text(journal.stdout)
            units = self.run(["systemctl", "--no-pager", "list-units", "--all"], check=False)
            (target / "units.txt").write_text(units.stdout)
