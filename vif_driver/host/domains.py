# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMs of this host, as libvirt knows them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import functools
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import libvirt
from lxml import etree

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import threads

log = logging.getLogger(__name__)

_T = TypeVar("_T")

URI = "qemu:///system"

#: Seconds for an answer.
TIMEOUT = 5.0

#: Seconds between two attempts to reach libvirt again, at first and at most.
RECONNECT = (0.1, 5.0)

#: As whom VDSM has libvirt know those who may change something (vdsm/common/libvirtconnection.py).
SASL_USER = "vdsm@ovirt"

#: Where VDSM keeps that user's password; a service that is not root is handed a copy.
PASSWORD = Path("/etc/pki/vdsm/keys/libvirt_password")
CREDENTIAL = "libvirt_password"


class State(enum.Enum):
    """What a VM does."""

    RUNNING = "running"
    PAUSED = "paused"
    #: Anything else: shutting down, or suspended by the guest itself.
    OTHER = "other"


@dataclasses.dataclass(frozen=True)
class Domain:
    """A VM that libvirt has now.

    Attributes:
        id: its UUID.
        name: what the administrator calls it.
        state: what it does.
        xml: its live XML.
    """

    id: str
    name: str
    state: State
    xml: bytes

    def interfaces(self) -> list[bytes]:
        """Give the ``<interface>`` elements."""
        return [_serialise(element) for element in _interfaces(self.xml)]


# Paused like this, a VM may be one that was started so; the other reasons (migration, an I/O
# error, a dump, ...) have an end of their own.
_STARTED_PAUSED = (
    libvirt.VIR_DOMAIN_PAUSED_UNKNOWN,
    libvirt.VIR_DOMAIN_PAUSED_USER,
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
)

# What libvirt says where the password is wrong, or there is none.
_REFUSED = (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_CANCELLED)


class Happening(enum.Enum):
    """What libvirt tells of a VM's life, as far as a migration is concerned."""

    #: It goes on: here, whether it arrived or has stayed.
    RUNS = "runs"
    #: Its memory is on its way, and the guest stands still until it runs on the destination.
    STANDS_STILL = "stands still"
    #: There is no VM of that UUID any more.
    GONE = "gone"
    #: Anything else, or libvirt was silent for a while: the state has to be asked for.
    OTHER = "other"


_HAPPENINGS = {
    libvirt.VIR_DOMAIN_EVENT_RESUMED: Happening.RUNS,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: Happening.GONE,
}

# Details of VIR_DOMAIN_EVENT_SUSPENDED, on the source.
_ON_ITS_WAY = (
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY,
)


def happening(event: int, detail: int) -> Happening:
    """Tell what an event of libvirt's says (virDomainEventType and the details of each)."""
    if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED and detail in _ON_ITS_WAY:
        return Happening.STANDS_STILL
    return _HAPPENINGS.get(event, Happening.OTHER)


#: Told the UUID of a VM about which something has changed, or None if that may be any of them.
Listener = Callable[["str | None"], None]

#: Told in addition what has happened.
Follower = Callable[["str | None", Happening], None]


class Domains:
    """libvirt's QEMU driver on this host.

    Its calls block, so each is made in a thread.  Without :meth:`watch` a connection is made when
    the first question is asked; with it, libvirt's events are listened to, and a connection that
    breaks is made again.

    Args:
        read_only: use the socket on which libvirt asks nobody for a password.
    """

    def __init__(self, *, read_only: bool = False) -> None:
        self._read_only = read_only
        self._connection: Any = None
        self._connecting = threading.Lock()
        self._listeners: list[Listener] = []
        self._followers: list[Follower] = []
        self._watch: asyncio.Task[None] | None = None
        self._was_connected: bool | None = None
        self._trouble: Unavailable | None = None
        # For watch(): on Python 3.9 an event belongs to the loop in which it is made.
        self._broken: asyncio.Event
        self._restored: asyncio.Event

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def watch(self) -> None:
        """Connect, listen to libvirt's events, and connect again whenever that breaks."""
        _start_event_loop()
        self._broken, self._restored = asyncio.Event(), asyncio.Event()
        self._watch = asyncio.get_running_loop().create_task(self._keep_connected())

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have a function called on each event of a VM's life; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Have a function called on each event with what has happened; see :meth:`subscribe`."""
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)

    async def close(self) -> None:
        """Drop the connection."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        connection, self._connection = self._connection, None
        with contextlib.suppress(Unavailable):
            await _in_thread(functools.partial(_close, connection))

    async def wait_connected(self, timeout: float) -> bool:
        """Wait for the connection, while it is watched; False if ``timeout`` seconds pass first."""
        if not self.connected:
            restored = asyncio.ensure_future(self._restored.wait())
            try:
                await asyncio.wait([restored], timeout=timeout)
            finally:
                restored.cancel()
        return self.connected

    async def state(self, vm_id: str) -> State | None:
        """Tell what a VM does; None if there is none of that UUID, or it is switched off.

        Raises:
            Unavailable: libvirt does not answer.
        """

        def ask(connection: Any) -> State | None:
            return _state(connection.lookupByUUIDString(vm_id).state()[0])

        return await self._call(f"tell about VM {vm_id}", ask)

    async def wait_gone(self, vm_id: str) -> None:
        """Wait, with :meth:`watch`, until libvirt says that there is no such VM any more."""
        changed = asyncio.Event()

        def listener(changed_id: str | None) -> None:
            if changed_id in (None, vm_id):
                changed.set()

        unsubscribe = self.subscribe(listener)
        try:
            while True:
                changed.clear()
                with contextlib.suppress(HostError):  # libvirt will say when it can tell again
                    if await self.state(vm_id) is None:
                        return
                await changed.wait()
        finally:
            unsubscribe()

    async def resume(self, vm_id: str) -> bool:
        """Let a VM run that was started paused.

        Returns:
            False if it isn't there any more, runs already, or is paused for another reason.

        Raises:
            HostError, Unavailable: libvirt refused, or does not answer.
        """

        def request(connection: Any) -> bool:
            domain = connection.lookupByUUIDString(vm_id)
            state, reason = domain.state()
            if state != libvirt.VIR_DOMAIN_PAUSED or reason not in _STARTED_PAUSED:
                return False
            domain.resume()
            return True

        return bool(await self._call(f"resume VM {vm_id}", request))

    async def is_migrating(self, vm_id: str) -> bool | None:
        """Tell whether a VM is being migrated, saved or dumped; None if there is no such VM.

        Raises:
            HostError: it is just arriving here: libvirt tells nothing of that.
            Unavailable: libvirt does not answer.
        """

        def ask(connection: Any) -> bool | None:
            domain = connection.lookupByUUIDString(vm_id)
            if _state(domain.state()[0]) is None:
                return None
            return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)

        return await self._call(f"tell about VM {vm_id}", ask)

    async def all(self) -> list[Domain]:
        """Give the VMs that libvirt has a process for.

        Raises:
            Unavailable: libvirt does not answer.
        """

        def ask(connection: Any) -> list[Domain]:
            found = []
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                try:
                    found.append(_domain(domain))
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                        raise  # else it has just ended
            return [domain for domain in found if domain is not None]

        return await self._call("list the VMs", ask) or []

    async def get(self, vm_id: str) -> Domain | None:
        """Give a VM that libvirt has a process for; None if there is none of that UUID.

        Raises:
            Unavailable: libvirt does not answer.
        """

        def ask(connection: Any) -> Domain | None:
            return _domain(connection.lookupByUUIDString(vm_id))

        return await self._call(f"tell about VM {vm_id}", ask)

    async def version(self) -> int:
        """Give libvirt's version, as 1,000,000 * major + 1,000 * minor + release.

        Raises:
            Unavailable: it does not answer.
        """
        return await self._call("tell its version", lambda asked: int(asked.getLibVersion())) or 0

    async def interface_xml(self, vm_id: str, mac: str) -> bytes | None:
        """Give the live XML of a VM's interface.

        Args:
            vm_id: the VM's UUID.
            mac: the interface's MAC address, in lower case.

        Returns:
            The ``<interface>`` element, or None if there is no such VM or interface.

        Raises:
            Unavailable: libvirt does not answer.
        """

        def ask(connection: Any) -> str:
            text: str = connection.lookupByUUIDString(vm_id).XMLDesc(0)
            return text

        xml = await self._call(f"tell about VM {vm_id}", ask)
        for interface in () if xml is None else _interfaces(xml.encode()):
            if _attribute(interface, "mac", "address").lower() == mac:
                return _serialise(interface)
        return None

    async def interface_of_tap(self, vm_id: str, tap: str) -> bytes | None:
        """Give the live XML of a VM's interface by the name of its tap; see above."""
        domain = await self.get(vm_id)
        for interface in () if domain is None else _interfaces(domain.xml):
            if _attribute(interface, "target", "dev") == tap:
                return _serialise(interface)
        return None

    async def _call(self, what: str, request: Callable[[Any], _T]) -> _T | None:
        """Make a call; None if there is no such VM."""

        def run() -> _T | None:
            try:
                return _with_reason(lambda: request(self._connected()))
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                if self._lost(error):
                    raise Unavailable(
                        f"libvirt does not {what} ({error})",
                        "check libvirtd: virsh -r -c qemu:///system list",
                    ) from error
                raise HostError(
                    f"libvirt refuses to {what} ({error})", "see libvirtd's log"
                ) from error

        return await _in_thread(run)

    def _connected(self) -> Any:
        """Give the connection, made now if there is none; in a thread."""
        with self._connecting:
            if self._connection is None and self._watch is not None:
                trouble = self._trouble or Unavailable("libvirt does not answer", "start libvirtd")
                raise Unavailable(trouble.what, trouble.remedy)
            if self._connection is None:
                self._connection = self._open()
            return self._connection

    def _lost(self, error: libvirt.libvirtError) -> bool:
        """Tell whether an error is the connection's; in a thread."""
        connection = self._connection
        if connection is None or error.get_error_domain() == libvirt.VIR_FROM_RPC:
            return True
        try:
            return not connection.isAlive()
        except libvirt.libvirtError:
            return True

    def _open(self) -> Any:
        if self._read_only:
            return libvirt.openReadOnly(URI)
        known = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
        try:
            return libvirt.openAuth(URI, [known, _give_credentials, None], 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _REFUSED:
                raise
            raise Unavailable(
                f"libvirt refuses the password of {SASL_USER} ({error})",
                f"see that {PASSWORD} is there; to set it anew: vdsm-tool configure --module "
                "passwd --force; then restart vif-agent",
            ) from error

    # ---- the connection that is watched --------------------------------------------------------

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        pause = RECONNECT[0]
        while True:
            self._broken.clear()
            given_up = threading.Event()
            try:
                await _in_thread(functools.partial(self._open_watched, loop, given_up))
            except (libvirt.libvirtError, Unavailable) as error:
                given_up.set()
                trouble = error if isinstance(error, Unavailable) else None
                if trouble is not None and self._trouble is None:
                    self._was_connected = None  # more is known now than that it doesn't answer
                self._trouble = trouble
                self._tell(connected=False, why=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, RECONNECT[1])
                continue
            pause = RECONNECT[0]
            self._tell(connected=True)
            self._restored.set()
            self._notify(None)
            await self._broken.wait()
            self._restored.clear()
            broken, self._connection = self._connection, None
            self._tell(connected=False, why="the connection broke")
            self._notify(None)
            with contextlib.suppress(Unavailable):
                await _in_thread(functools.partial(_close, broken))

    def _open_watched(self, loop: asyncio.AbstractEventLoop, given_up: threading.Event) -> None:
        def on_close(_connection: object, _reason: int, _opaque: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._broken.set)

        def on_event(_connection: object, domain: Any, event: int, detail: int, *_: object) -> None:
            with contextlib.suppress(RuntimeError):
                told = domain.UUIDString(), happening(event, detail)
                loop.call_soon_threadsafe(self._notify, *told)

        with self._connecting:
            connection = self._open()
            try:
                connection.registerCloseCallback(on_close, None)
                connection.domainEventRegisterAny(
                    None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_event, None
                )
            except libvirt.libvirtError:
                connection.close()
                raise
            if given_up.is_set():  # it took too long, and another attempt is made
                connection.close()
                return
            self._connection = connection

    def _notify(self, vm_id: str | None, happening: Happening = Happening.OTHER) -> None:
        # Who follows a migration first: of all that is done on an event, that is what can't wait.
        for follower in list(self._followers):
            follower(vm_id, happening)
        for listener in list(self._listeners):
            listener(vm_id)

    def _tell(self, *, connected: bool, why: str = "") -> None:
        if connected != self._was_connected:
            self._was_connected = connected
            if connected:
                log.info("libvirt answers")
            else:
                log.warning("libvirt does not answer: %s", why)


async def _in_thread(call: Callable[[], _T]) -> _T:
    """Make a blocking call of libvirt's.

    Raises:
        Unavailable: it takes too long.
    """
    try:
        return await threads.run(call, TIMEOUT, "libvirt")
    except asyncio.TimeoutError:
        raise Unavailable(
            f"libvirt does not answer within {TIMEOUT:g} s", "restart libvirtd"
        ) from None


_event_loop = threading.Lock()
_event_loop_runs = False


def _start_event_loop() -> None:
    """Run libvirt's own event loop in a thread, once in this process.

    Its asyncio one (libvirtaio) is not for calls from other threads, and the calls, which block,
    have to be made from there.  The thread sleeps until libvirt has something to say.
    """
    global _event_loop_runs

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    with _event_loop:
        if not _event_loop_runs:
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=run, name="libvirt events", daemon=True).start()
            _event_loop_runs = True


def _give_credentials(wanted: list[Any], _opaque: object) -> int:
    """Answer libvirt's questions; each is a list whose fifth element is for the answer."""
    for question in wanted:
        if question[0] == libvirt.VIR_CRED_AUTHNAME:
            question[4] = SASL_USER
        elif question[0] == libvirt.VIR_CRED_PASSPHRASE:
            question[4] = _password()
        else:
            return -1
    return 0


def _password() -> str:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    for path in ([Path(folder, CREDENTIAL)] if folder else []) + [PASSWORD]:
        try:
            password = path.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError):
            continue
        if password:
            return password
    return ""


def _with_reason(call: Callable[[], _T]) -> _T:
    """Make a call, and again if it failed and nothing says why.

    libvirt keeps an error for the thread that made the call, until the next one.  If the garbage
    collector closes an old connection in that thread just then, the error is gone.
    """
    try:
        return call()
    except libvirt.libvirtError as error:
        if error.get_error_code() is not None:
            raise
        return call()


def _close(connection: Any) -> None:
    if connection is not None:
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


def _state(number: int) -> State | None:
    known = {
        libvirt.VIR_DOMAIN_RUNNING: State.RUNNING,
        libvirt.VIR_DOMAIN_BLOCKED: State.RUNNING,
        libvirt.VIR_DOMAIN_PAUSED: State.PAUSED,
        libvirt.VIR_DOMAIN_SHUTOFF: None,
        libvirt.VIR_DOMAIN_CRASHED: None,
    }
    return known.get(number, State.OTHER)


def _domain(asked: Any) -> Domain | None:
    """Read a VM; None if libvirt has no process for it."""
    state = _state(asked.state()[0])
    if state is None:
        return None
    return Domain(asked.UUIDString(), asked.name(), state, asked.XMLDesc().encode())


def _interfaces(xml: bytes) -> list[etree._Element]:
    return list(etree.fromstring(xml).iterfind("devices/interface"))


def _attribute(interface: etree._Element, tag: str, name: str) -> str:
    element = interface.find(tag)
    return "" if element is None else element.get(name) or ""


def _serialise(element: etree._Element) -> bytes:
    element.tail = None
    text: bytes = etree.tostring(element, encoding="UTF-8")
    return text


def _discard(_context: object, error: object) -> None:
    # What libvirt reports is raised as an exception; by default it is printed as well, and a
    # hook's stderr is what VDSM shows to the user.
    log.debug("libvirt: %s", error)


libvirt.registerErrorHandler(_discard, None)
