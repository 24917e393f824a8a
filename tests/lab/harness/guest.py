# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests: real virtual machines, what they say on their console, and commands run inside them."""

from __future__ import annotations

import base64
import itertools
import os
import re
import secrets
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from .command import CommandError
from .deadline import wait_until
from .guest_image import GuestImage, guest_image
from .hypervisor import GUEST_DIRECTORY, GUEST_LOG, Hypervisor
from .libvirt_daemon import libvirt
from .machine import MachineDown

# With the end of the line: the file is read while the guest writes.
EVENT = re.compile(r"LAB (\d+\.\d+) (\S+) ?(.*)\n")
# Emulated guests share the cores with everything else: 4 s to a lease when it is quiet.
BOOT_TIMEOUT = 90.0
ASK_AGAIN = 1.0
# A quarter of the boot is spent on what a test guest has no use for.
KERNEL_OPTIONS = (
    "console=ttyS0 quiet panic=1 nokaslr mitigations=off noreplace-smp no_timer_check tsc=reliable"
    " audit=0 apparmor=0 cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=2"
)


@dataclass(frozen=True)
class GuestEvent:
    """A line of a guest's console.

    Attributes:
        uptime: the guest's, in seconds.
        name: such as ``dhcp-bound``.
        details: such as ``mac``.
    """

    uptime: float
    name: str
    details: Mapping[str, str]


@dataclass(frozen=True)
class Lease:
    """An address that a guest got by DHCP."""

    device: str
    mac: str
    address: str
    router: str
    mtu: str


@dataclass(frozen=True)
class GuestSpec:
    """How a guest is made.

    Attributes:
        name: of the domain.
        interfaces: libvirt ``<interface>`` elements.
        uuid: of the domain.
        memory: MiB.
        dhcp: the guest asks for an address on every NIC.
        checksum_offload: the guest leaves checksums to its NIC; then TCP needs a path that
            completes them, which the userspace datapath is not.
        metadata: XML to put in ``<metadata>``.
    """

    name: str
    interfaces: Sequence[str] = ()
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    memory: int = 128
    dhcp: bool = True
    checksum_offload: bool = False
    metadata: str = ""

    def domain_xml(self, image: GuestImage | None = None) -> str:
        """The domain, as libvirt wants it."""
        boots = image or guest_image()
        line = KERNEL_OPTIONS
        line += "" if self.dhcp else " lab.dhcp=0"
        line += " lab.csum=1" if self.checksum_offload else ""
        metadata = f"<metadata>{self.metadata}</metadata>" if self.metadata else ""
        return f"""\
<domain type="qemu">
  <name>{escape(self.name)}</name>
  <uuid>{self.uuid}</uuid>
  {metadata}
  <memory unit="MiB">{self.memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch="x86_64" machine="pc">hvm</type>
    <kernel>{escape(str(boots.kernel))}</kernel>
    <initrd>{escape(str(boots.ramdisk))}</initrd>
    <cmdline>{escape(line)}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {"".join(self.interfaces)}
    <serial type="file">
      <source path={quoteattr(console_path(self.name))} append="on"/><target port="0"/>
    </serial>
    <serial type="unix">
      <source mode="bind" path={quoteattr(command_path(self.name))}/><target port="1"/>
    </serial>
    <memballoon model="none"/>
  </devices>
</domain>
"""


def console_path(name: str) -> str:
    """The file on its host with what the guest ``name`` writes on its console."""
    return f"{GUEST_LOG}/{name}.console"


def begin_console(host: Hypervisor, name: str) -> None:
    """Put away what an earlier guest of that name wrote on its console on the host."""
    old = host.path(console_path(name))
    if old.exists():
        lives = len(list(old.parent.glob(f"{old.name}.*")))
        old.rename(f"{old}.{lives + 1}")


def command_path(name: str) -> str:
    """The socket on its host that leads to the guest's command loop."""
    return f"{GUEST_DIRECTORY}/{name}.sock"


class Guest:
    """A guest on a host.

    Args:
        host: where it runs.
        name: of its domain.

    Attributes:
        host: set it to another host when the guest has been migrated.
    """

    def __init__(self, host: Hypervisor, name: str) -> None:
        self.name = name
        self.hosts = [host]
        self._line = CommandLine(self)

    @classmethod
    def boot(cls, host: Hypervisor, spec: GuestSpec, flags: int = 0) -> Guest:
        """Make the domain (transient, as VDSM does) and return the guest, which boots.

        Args:
            host: where.
            spec: how.
            flags: of virDomainCreateXML.

        Raises:
            libvirt.libvirtError: libvirt refused.
        """
        begin_console(host, spec.name)
        host.libvirt.connection.createXML(spec.domain_xml(), flags)
        return cls(host, spec.name)

    @property
    def host(self) -> Hypervisor:
        """The host it runs on."""
        return self.hosts[-1]

    @host.setter
    def host(self, host: Hypervisor) -> None:
        self.hosts.append(host)
        self._line.close()

    @property
    def domain(self) -> Any:
        """Its ``virDomain``; None when it doesn't run."""
        return self.host.libvirt.domain(self.name)

    @property
    def paused(self) -> bool:
        """Whether it stands still."""
        domain = self.domain
        return domain is not None and domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED

    @property
    def xml(self) -> str:
        """The live domain XML."""
        return str(self.domain.XMLDesc())

    def destroy(self) -> None:
        """Pull its plug, if it runs."""
        self._line.close()
        domain = self.domain
        if domain is not None:
            domain.destroy()

    # ---- the console -------------------------------------------------------------------------

    def console(self) -> str:
        """Everything it has written on its console, on all hosts it was on."""
        unique = list(dict.fromkeys(self.hosts))
        return "".join(host.read(console_path(self.name)) for host in unique if host.powered)

    def events(self, name: str = "", details: Mapping[str, str] | None = None) -> list[GuestEvent]:
        """The events on its console, of that name and with those details if given."""
        wanted = (details or {}).items()
        found = []
        for uptime, kind, text in EVENT.findall(self.console()):
            pairs = dict(pair.partition("=")[::2] for pair in text.split())
            event = GuestEvent(float(uptime), kind, pairs)
            if name in ("", kind) and wanted <= pairs.items():
                found.append(event)
        return found

    def wait_event(
        self,
        name: str,
        timeout: float = BOOT_TIMEOUT,
        *,
        after: int = 0,
        details: Mapping[str, str] | None = None,
    ) -> GuestEvent:
        """Wait for an event and return it.

        Args:
            name: of the event.
            timeout: seconds.
            after: how many such events to leave out, as they have been seen.
            details: what it must say.

        Raises:
            TimeoutError: it didn't come; the message ends with the console's last lines.
        """
        what = f"{self.host.name}: {self.name}: {name} {details or ''}"
        try:
            return wait_until(
                lambda: self.events(name, details)[after : after + 1], timeout, what, 0.05
            )[0]
        except TimeoutError as late:
            raise TimeoutError(f"{late}\n{self.console()[-1500:]}") from None

    def wait_up(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until it has booted, with or without a network."""
        self.wait_event("up", timeout)

    def wait_lease(self, mac: str = "", timeout: float = BOOT_TIMEOUT) -> Lease:
        """Wait until the NIC with that MAC (any, if '') has an address by DHCP, and return it."""
        wanted = {"mac": mac.lower()} if mac else {}
        got = self.wait_event("dhcp-bound", timeout, details=wanted).details
        address = got["address"].partition("/")[0]
        return Lease(got["device"], got["mac"], address, got["router"], got["mtu"])

    # ---- commands inside ---------------------------------------------------------------------

    def start(self, script: str) -> GuestJob:
        """Start a shell script inside the guest (busybox) and leave it running."""
        return GuestJob(self, self._line, script)

    def run(
        self, script: str, *, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside the guest (busybox).

        Args:
            script: the script.
            check: raise when its exit status is not 0.
            timeout: seconds; booting counts.

        Raises:
            CommandError: it failed (and ``check``).
            TimeoutError: no answer.
        """
        return self.start(script).wait(timeout, check=check)

    def ping(self, address: str, *, count: int = 3, timeout: float = 30.0) -> int:
        """Ping an address from inside the guest; returns how many of ``count`` were answered."""
        script = f"ping -c {count} -W 2 -q {address}"
        done = self.run(script, check=False, timeout=timeout)
        found = re.search(r"(\d+) packets received", done.stdout)
        return int(found.group(1)) if found else 0

    def reaches(self, address: str, timeout: float = 10.0) -> bool:
        """Whether an answer comes from an address within ``timeout`` seconds."""
        limit = max(1, round(timeout))
        script = f"for i in $(seq {limit}); do ping -c 1 -W 1 -q {address} && exit 0; done; exit 1"
        return self.run(script, check=False, timeout=timeout + 30).returncode == 0

    def set_address(self, device: str, address: str, router: str = "", mtu: int = 1442) -> None:
        """Give a NIC an address (with prefix length) by hand."""
        lines = [
            "set -e",
            f"ip link set {device} mtu {mtu} up",
            f"ip addr replace {address} dev {device}",
        ]
        if router:
            lines.append(f"ip route replace default via {router} dev {device}")
        self.run("\n".join(lines))

    def device(self, mac: str) -> str:
        """The name, inside the guest, of the NIC with that MAC."""
        return self.wait_event("nic-added", details={"mac": mac.lower()}).details["device"]


class CommandLine:
    """The line to a guest's command loop; see ``tests/lab/guest/commands`` for what is spoken."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.started: set[str] = set()
        self.results: dict[str, tuple[int, str, str]] = {}
        self._socket: socket.socket | None = None
        self._received = b""
        self._reading = threading.Lock()
        self._writing = threading.Lock()

    def close(self) -> None:
        """Hang up; the next request dials again."""
        with self._writing:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _connected(self) -> socket.socket | None:
        if self._socket is None:
            line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            line.settimeout(0.1)
            try:
                line.connect(str(self.guest.host.path(command_path(self.guest.name))))
            except (OSError, MachineDown):
                line.close()
                return None  # not there yet, or on its way to another host
            self._socket = line
            self._received = b""
        return self._socket

    def ask(self, number: str, script: str) -> None:
        """Send a request; it may get lost, so ask again until there is an answer."""
        body = base64.b64encode(script.encode()).decode()
        with self._writing:
            line = self._connected()
            if line is None:
                return
            try:
                # The newline in front ends what noise may have come before.
                line.sendall(f"\n{number} {body}\n".encode())
            except OSError:
                line.close()
                self._socket = None

    def listen(self) -> None:
        """Take in what has come, waiting a little if there is nothing."""
        with self._reading:
            line = self._socket
            if line is None:
                time.sleep(0.05)
                return
            try:
                data = line.recv(65536)
            except socket.timeout:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self._received += data
            *lines, self._received = self._received.split(b"\n")
            for text in lines:
                self._take(text.decode(errors="replace").split())

    def _take(self, words: list[str]) -> None:
        if len(words) == 2 and words[1] == "started":
            self.started.add(words[0])
        elif len(words) == 4 and words[1].isdigit():
            out, err = (base64.b64decode(word[1:]).decode(errors="replace") for word in words[2:])
            self.results[words[0]] = (int(words[1]), out, err)


class GuestJob:
    """A script that runs inside a guest."""

    _numbers = itertools.count(1)

    def __init__(self, guest: Guest, line: CommandLine, script: str) -> None:
        self.guest = guest
        self.script = script
        self.number = f"{os.getpid():x}{secrets.token_hex(3)}{next(self._numbers):x}"
        self._line = line
        self._asked = time.monotonic()
        line.ask(self.number, script)

    def poll(self) -> subprocess.CompletedProcess[str] | None:
        """Its result, if it has ended; takes 0.1 s at most."""
        if self.number not in self._line.results:
            now = time.monotonic()
            pause = ASK_AGAIN * (4 if self.number in self._line.started else 1)
            if now - self._asked > pause:
                self._asked = now
                self._line.ask(self.number, self.script)
            self._line.listen()
        result = self._line.results.get(self.number)
        if result is None:
            return None
        return subprocess.CompletedProcess(["sh", "-c", self.script], *result)

    def wait(
        self, timeout: float = 60.0, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Wait for its end; see :meth:`Guest.run`."""
        what = f"{self.guest.host.name}: {self.guest.name}: {self.script!r}"
        done = wait_until(self.poll, timeout, what, interval=0.0)
        if check and done.returncode != 0:
            where = f"{self.guest.name} on {self.guest.host.name}"
            raise CommandError(where, done.args, done.returncode, done.stdout, done.stderr)
        return done

    def wait_started(self, timeout: float = 60.0) -> None:
        """Wait until the guest has begun with it."""

        def begun() -> bool:
            return self.poll() is not None or self.number in self._line.started

        wait_until(begun, timeout, f"{self.guest.name}: begin of {self.script!r}", interval=0.0)
