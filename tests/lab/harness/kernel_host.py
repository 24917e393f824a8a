# SPDX-License-Identifier: GPL-2.0-or-later
"""A hypervisor with a kernel of its own: real bonds, VLANs and the kernel's Open vSwitch datapath.

The computer's kernel need not have the modules: this one is Debian's cloud kernel with all of its
own, and runs under QEMU (emulated).  Around it is a machine of the lab like any other, whose root
it has as its own, through virtiofs; so whatever is done to the machine's files from outside, its
disk that outlives a power cut and its end with the anchor are the same.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from .anchor import INSIDE, INTERPRETER, Anchor
from .command import CommandError
from .deadline import wait_until
from .guest import KERNEL_OPTIONS
from .guest_image import VIRTIO, GuestImage, Kernel, build_image, unpacked_kernel
from .hypervisor import Hypervisor
from .machine import PROJECT, Cable, MachineDown, User
from .open_vswitch import OpenVSwitch

SCRIPTS = Path(__file__).resolve().parents[1] / "own_kernel"
MODULES = (*VIRTIO, "fs/fuse/fuse", "fs/fuse/virtiofs", "drivers/char/virtio_console")
RUN = "/run/own-kernel"
DOOR = f"{RUN}/door"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
MEMORY = 768
# 4 s when it is quiet.
BOOT_TIMEOUT = 120.0
# Where files don't change from outside, but by an installation, which says so (`notice_files`).
CALM = ("/usr", str(PROJECT), str((PROJECT / "build" / "venv").resolve()))
# The servers of its files, and for how many seconds the kernel takes what it knows for granted.
SHARES = {"root": "cache=always,timeout=0", "calm": "cache=always,timeout=3600"}
KERNELS_OWN = ("/proc", "/sys", "/dev")
# QEMU ends when the kernel panics.
OPTIONS = f"{KERNEL_OPTIONS} panic=-1"


class KernelHost(Hypervisor):
    """A hypervisor with a kernel of its own.  It runs no guests and no libvirt.

    Args:
        anchor, name, number: as for :class:`Hypervisor`.
        memory: MiB.
        nics: how many NICs it has that lead nowhere, besides those at a cable; together they are
            called ``eth0`` and so on.
        more: as for :class:`Hypervisor`.
    """

    # What an emulated processor makes of a second.
    patience = 4.0

    def __init__(
        self,
        anchor: Anchor,
        name: str,
        number: int,
        *,
        memory: int = MEMORY,
        nics: int = 0,
        **more: Any,
    ) -> None:
        self.memory = memory
        self.nics = nics
        self._kernel: Kernel
        super().__init__(anchor, name, number, **more)

    def make_open_vswitch(self) -> OpenVSwitch:
        return OpenVSwitch(self, kernel=True)

    # ---- power -------------------------------------------------------------------------------

    def boot(self) -> None:
        """Give it power; returns when its kernel runs commands.

        Raises:
            RuntimeError: it is up already, its root can't be built, or the kernel didn't start.
        """
        self._kernel = unpacked_kernel()
        self.init = self._power_board(build_image(self._kernel, SCRIPTS, MODULES))
        super().boot()
        try:
            door = f"/proc/{self.pid}/root{DOOR}"
            wait_until(lambda: self._still_powered() and os.path.exists(door), 10, "power")
            self.run(["true"], timeout=BOOT_TIMEOUT)
            self._configure_network()
            self.boot_id = self.read("/proc/sys/kernel/random/boot_id").strip()
        except (CommandError, MachineDown, TimeoutError) as error:
            console = self.anchor.outside(f"{self._storage}/console").read_text(errors="replace")
            if self.powered:
                self.power_cut()
            raise RuntimeError(f"{self.name}: {error}\n--- console\n{console[-4000:]}") from None

    def _still_powered(self) -> bool:
        if not self.powered:
            raise MachineDown(self.name)
        return True

    def _power_board(self, image: GuestImage) -> tuple[str, ...]:
        """What the machine around it has as its pid 1."""
        shared = f"memory-backend-memfd,id=memory,size={self.memory}M,share=on"
        qemu = ["/usr/bin/qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]
        qemu += ["-accel", "tcg", "-machine", "pc,memory-backend=memory", "-display", "none"]
        qemu += ["-m", str(self.memory), "-object", shared]
        qemu += ["-kernel", str(image.kernel), "-initrd", str(image.ramdisk)]
        qemu += ["-append", OPTIONS]
        qemu += ["-chardev", "file,id=console,path=/dev/stdout,append=on"]
        qemu += ["-serial", "chardev:console"]
        qemu += ["-chardev", "socket,id=line,fd={line}", "-device", "virtio-serial-pci,max_ports=2"]
        qemu += ["-device", "virtserialport,chardev=line"]
        files = {}
        for tag, caching in SHARES.items():
            path = f"{RUN}/{tag}.sock"
            # The other way to shut it in, pivot_root, can't be had with the root itself.
            options = f"source=/,sandbox=chroot,{caching}"
            files[path] = [VIRTIOFSD, "-f", "-o", f"{options},log_level=err"]
            qemu += ["-chardev", f"socket,id={tag},path={path}"]
            qemu += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
        for cable in self.cables:
            tap = f"tap,id={cable.device},ifname={_tap(cable)},script=no,downscript=no"
            card = f"virtio-net-pci,netdev={cable.device},mac={cable.mac(self.name)}"
            qemu += ["-netdev", tap, "-device", card]
        qemu += ["-device", "virtio-net-pci"] * self.nics
        spec = {"door": DOOR, "files": files, "qemu": qemu}
        script = str(INSIDE / "power_board.py")
        return (INTERPRETER, "-I", "-S", script, json.dumps(spec))

    def prepare_files(self) -> None:
        super().prepare_files()
        init = [INTERPRETER, "-I", "-S", str(INSIDE / "own_kernel_init.py")]
        self.write(f"{RUN}/init", f"#!/bin/sh\nexec {shlex.join(init)}\n", mode=0o755)
        self.write(f"{RUN}/calm", "".join(f"{directory}\n" for directory in CALM))
        self.make_directory("/lib/modules")
        modules = self.path("/lib/modules") / self._kernel.version
        if not modules.is_symlink():
            modules.symlink_to(self._kernel.modules)

    def start(self) -> None:
        """Boot it if need be, and start all its daemons, as a host's boot does."""
        if not self.powered:
            self.boot()
        self.start_ovs()
        if self.central is not None:
            self.ovn_controller.start()

    def python(self, *arguments: str, input: str | None = None, timeout: float = 300.0) -> str:
        """Run this process's interpreter on the host, with the checkout's packages.

        Args:
            arguments: a script or ``-m`` and a module, and what it is given.
            input: text for its standard input.
            timeout: seconds.

        Returns:
            Its standard output.

        Raises:
            CommandError: it failed or took too long.
        """
        env = {"PYTHONPATH": str(PROJECT)}
        argv = [sys.executable, *arguments]
        return self.run(argv, env=env, input=input, timeout=timeout).stdout

    # ---- network -----------------------------------------------------------------------------

    def plug_in(self) -> None:
        """Lead each cable to a tap of QEMU's, by a bridge in the machine around it."""
        outer, inner = [], []
        for cable in self.cables:
            end, device, tap = cable.far_end(self.name), cable.device, _tap(cable)
            bridge = f"{device}-bridge"
            outer += [
                f"link add {end} mtu {cable.mtu} type veth peer name {device} mtu {cable.mtu}"
                f" netns {self.pid}",
                f"link set {end} master {cable.segment} up",
            ]
            inner += [
                f"link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
                f"tuntap add {tap} mode tap",
                *(f"link set {port} master {bridge} mtu {cable.mtu} up" for port in (device, tap)),
                f"link set {bridge} mtu {cable.mtu} up",
            ]
        if outer:
            self.anchor.ip(outer)
            self.anchor.ip_in(self.name, self.pid, inner)

    def _configure_network(self) -> None:
        lines = ["link set lo up"]
        if self.cables or self.nics:
            # Checksums are filled in here: at the cable's end there is no card that would do it.
            self.run(["modprobe", "virtio_net", "csum=0", "gso=0"])
        for cable in self.cables:
            if cable.address:
                lines.append(f"addr add {cable.address} dev {cable.device}")
            lines.append(f"link set {cable.device} mtu {cable.mtu} up")
        self.ip(*lines)

    def ip(self, *lines: str) -> None:
        self.run(["ip", "-batch", "-"], input="".join(f"{line}\n" for line in lines))

    def devices(self) -> set[str]:
        return set(self.output(["ls", "/sys/class/net"]).split())

    # ---- commands, processes and files -------------------------------------------------------

    def enter(self, user: str | User | None = None) -> list[str]:
        if not self.powered:
            raise MachineDown(self.name)
        door = f"/proc/{self.pid}/root{DOOR}"
        prefix = [INTERPRETER, "-I", "-S", str(INSIDE / "call.py"), door]
        if user is None:
            return prefix
        account = user if isinstance(user, User) else self.user(user)
        ids = ["--reuid", str(account.uid), "--regid", str(account.gid), "--init-groups"]
        return [*prefix, "setpriv", *ids, "--"]

    def process_start(self, pid: int) -> int | None:
        if not self.powered:
            return None
        fields = self.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return None if not fields or fields[0] in "ZX" else int(fields[19])

    def path(self, path: str | PurePath) -> Path:
        """The path by which this process reaches the host's file ``path``.

        Raises:
            ValueError: it is a file of the kernel's, whose kernel is not this process's.
        """
        if _below(path, KERNELS_OWN):
            raise ValueError(f"{self.name}: only a command on it sees {path}")
        return super().path(path)

    def read(self, path: str | PurePath) -> str:
        if _below(path, KERNELS_OWN):
            return self.run(["cat", str(path)], check=False).stdout
        return super().read(path)

    def exists(self, path: str | PurePath) -> bool:
        if _below(path, KERNELS_OWN):
            return self.run(["test", "-e", str(path)], check=False).returncode == 0
        return super().exists(path)

    def write(
        self,
        path: str | PurePath,
        text: str,
        *,
        mode: int = 0o644,
        owner: str | User | None = None,
    ) -> None:
        super().write(path, text, mode=mode, owner=owner)
        if _below(path, CALM):
            self.notice_files()

    def notice_files(self) -> None:
        if self.exists(DOOR):  # else it isn't up yet, and knows of no file
            self.run("echo 2 > /proc/sys/vm/drop_caches")


def _tap(cable: Cable) -> str:
    return f"{cable.device}-tap"


def _below(path: str | PurePath, directories: Sequence[str]) -> bool:
    return any(PurePath(path).is_relative_to(directory) for directory in directories)
