# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirtd on a machine, and connections to it from here."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .machine import PROJECT, Machine, identity
from .service import Daemon, Service

# Without types of its own; the one place where it is imported.
libvirt: Any = importlib.import_module("libvirt")
Domain = Any
Connection = Any

CAPABILITIES = "/var/cache/libvirt/qemu/capabilities"
QEMU = Path("/usr/bin/qemu-system-x86_64")
LIBVIRTD = Path("/usr/sbin/libvirtd")
LOG = "/var/log/libvirt"
PIDFILE = "/run/libvirtd.pid"

DAEMON_SETTINGS = """\
host_uuid = "{uuid}"
listen_tls = 0
listen_tcp = 1
listen_addr = "0.0.0.0"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "{authentication}"
unix_sock_group = "{group}"
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0770"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""

QEMU_SETTINGS = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""


SASL_USER = "vdsm@ovirt"
SASL_DATABASE = "/etc/libvirt/passwd.db"
SASL_SETTINGS = f"""\
mech_list: scram-sha-256
sasldb_path: {SASL_DATABASE}
"""


def _capabilities_cache() -> Path:
    """Where capabilities are kept between labs, for the programs as they are now."""
    key = hashlib.sha256()
    for program in (QEMU, LIBVIRTD):
        key.update(repr(program.stat().st_ctime_ns).encode())
    return PROJECT / "build" / f"libvirt-capabilities-{key.hexdigest()[:12]}"


CAPABILITIES_CACHE = _capabilities_cache()


def _ignore(_context: object, _error: object) -> None:
    """libvirt prints every error on stderr by default; the exceptions say it all."""


libvirt.registerErrorHandler(_ignore, None)


class LibvirtDaemon:
    """libvirtd of a machine (the monolithic one, as oVirt hosts had it).

    Args:
        machine: where.
        service: the daemon, where somebody else than the harness looks after it.
        group: the group that may use its socket, by name; as on oVirt's hosts VDSM's user is in it.
    """

    def __init__(self, machine: Machine, service: Daemon | None = None, group: str = "kvm") -> None:
        self.machine = machine
        self.group = group
        self.service: Daemon = service or Service(
            machine,
            "libvirtd",
            ["libvirtd", "--daemon", "--listen", "--pid-file", PIDFILE],
            pidfile=PIDFILE,
            detaches=True,
            log=f"{LOG}/libvirtd",
            ready=self.answers,
        )
        self._password: str | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def configure(self) -> None:
        """Write its configuration; what libvirt has learnt about QEMU elsewhere is handed on."""
        machine = self.machine
        machine.make_directory(f"{LOG}/qemu")
        self._write_settings()
        machine.write("/etc/libvirt/qemu.conf", QEMU_SETTINGS)
        for link in machine.path("/etc/libvirt/qemu/networks/autostart").glob("*"):
            link.unlink()
        known = machine.path(CAPABILITIES)
        if CAPABILITIES_CACHE.is_dir() and not any(known.glob("*.xml")):
            known.mkdir(parents=True, exist_ok=True)
            for file in CAPABILITIES_CACHE.glob("*.xml"):
                shutil.copy(file, known)

    def _write_settings(self) -> None:
        settings = DAEMON_SETTINGS.format(
            uuid=identity(self.machine.name),
            group=self.group,
            authentication="none" if self._password is None else "sasl",
        )
        self.machine.write("/etc/libvirt/libvirtd.conf", settings)

    def require_password(self, password: str) -> None:
        """Have it ask :data:`SASL_USER` for a password from its next start on, as oVirt's do.

        The socket on which nothing can be changed asks nobody.
        """
        self._password = password
        self._write_settings()
        self.machine.write("/etc/sasl2/libvirt.conf", SASL_SETTINGS)
        command = ["saslpasswd2", "-p", "-c", "-a", "libvirt", "-f", SASL_DATABASE, SASL_USER]
        self.machine.run(command, input=password)

    def start(self) -> None:
        """Start it; returns when it answers."""
        self.service.start()

    def stop(self) -> None:
        """Stop it; guests go on."""
        self.disconnect()
        self.service.stop()

    def kill(self) -> None:
        """Kill it; guests go on."""
        self.disconnect()
        self.service.kill()

    def restart(self) -> None:
        """Stop and start it; guests go on."""
        self.stop()
        self.start()

    def keep_capabilities(self) -> None:
        """Save what libvirt has learnt about QEMU for the next lab.

        Asking QEMU takes libvirt two seconds at the first guest.  It looks by itself whether what
        it finds in its cache still belongs to the QEMU at hand.
        """
        source = self.machine.path(CAPABILITIES)
        if CAPABILITIES_CACHE.is_dir() or not any(source.glob("*.xml")):
            return
        CAPABILITIES_CACHE.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=CAPABILITIES_CACHE.parent))
        for file in source.glob("*.xml"):
            shutil.copy(file, scratch)
        try:
            os.rename(scratch, CAPABILITIES_CACHE)
        except OSError:
            shutil.rmtree(scratch)  # another lab was faster

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.connection.getLibVersion())
        except libvirt.libvirtError:
            return False

    def disconnect(self) -> None:
        """Close the connection."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    @property
    def connection(self) -> Connection:
        """A ``virConnect`` to it, shared by all callers and opened again when it broke.

        Raises:
            libvirt.libvirtError: it does not answer.
        """
        with self._lock:
            if self._connection is not None and not self._connection.isAlive():
                self._connection = None
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    @contextlib.contextmanager
    def connection_for_long(self) -> Iterator[Connection]:
        """A ``virConnect`` for one call that takes long, such as a migration.

        Of a connection that is shared, libvirt's client (9.0 does) may hold back what another
        thread asks until the call that came first is answered; and that may wait for the other.

        Raises:
            libvirt.libvirtError: it does not answer.
        """
        connection = self._connect()
        try:
            yield connection
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    def _connect(self) -> Connection:
        socket = self.machine.path("/run/libvirt/libvirt-sock")
        asked = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
        return libvirt.openAuth(
            f"qemu+unix:///system?socket={socket}", [asked, self._answer, None], 0
        )

    def _answer(self, questions: list[Any], _opaque: object) -> int:
        for question in questions:
            name = question[0] == libvirt.VIR_CRED_AUTHNAME
            question[4] = SASL_USER if name else self._password
        return 0

    def domain(self, name_or_uuid: str) -> Domain | None:
        """The domain of that name or uuid; None when there is none."""
        for look in (self.connection.lookupByName, self.connection.lookupByUUIDString):
            try:
                return look(name_or_uuid)
            except libvirt.libvirtError:
                continue
        return None

    def domains(self) -> set[str]:
        """The names of the domains there are."""
        return {domain.name() for domain in self.connection.listAllDomains()}

    def virsh(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run virsh on the machine and return its output."""
        command = ["virsh", "-q", "-c", "qemu:///system", *arguments]
        return self.machine.output(command, timeout=timeout)
