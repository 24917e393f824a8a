# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of the lab: a host with namespaces and a root of its own.

Its root is an overlay of the computer's ``/``; what it writes goes to a tmpfs of the anchor and
outlives a power cut, as a disk does.  ``/run``, ``/tmp`` and ``/dev`` are new at every boot,
``/sys`` shows the machine's own devices, and of ``/proc/sys`` only ``net`` can be written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Union

from .anchor import CLEAN_ENVIRONMENT, INSIDE, INTERPRETER, Anchor, ReportSocket, namespaces_of
from .command import CommandError, run_command
from .deadline import wait_until

REAPER = (INTERPRETER, "-I", "-S", str(INSIDE / "reaper.py"))
PROJECT = Path(__file__).resolve().parents[3]
Argv = Sequence[str]
Output = Union[None, int, IO[str], IO[bytes]]


class MachineDown(Exception):
    """Something was asked of a machine that has no power."""


@dataclass(frozen=True)
class Cable:
    """A cable from a machine to a segment of the lab.

    Attributes:
        device: the device in the machine, like ``eth0``.
        segment: the anchor's bridge it leads to.
        address: with prefix length, put on the device at boot; None leaves it bare.
        mtu: bytes.
    """

    device: str
    segment: str
    address: str | None = None
    mtu: int = 1500

    def far_end(self, machine: str) -> str:
        """The name of the cable's other end, in the anchor."""
        return f"{machine}-{self.device}"

    def mac(self, machine: str) -> str:
        """An address that stays the same over reboots."""
        digest = hashlib.sha256(f"{machine} {self.device}".encode()).digest()
        return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])


@dataclass(frozen=True)
class User:
    """A user of a machine."""

    name: str
    uid: int
    gid: int
    home: str


def identity(name: str) -> uuid.UUID:
    """The machine's unique number, the same at every boot."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.lab")


class Machine:
    """One machine: boot it, run things on it, cut its power.

    Args:
        anchor: what it hangs from.
        name: host name, at most 9 characters.
        cables: its network.
        hosts: names and addresses for its /etc/hosts.
        init: what runs as pid 1, as an argument vector.
        env: variables for pid 1, besides a clean environment.
        cgroup: its init is a system manager like systemd: the machine has a control group of its
            own, which that can divide up.
        layers: directories laid over ``/`` before the machine's own writes, topmost first.

    Attributes:
        pid: its pid 1 as seen from here; 0 while it has no power.
        boot_id: what it has as ``/proc/sys/kernel/random/boot_id``, anew at each boot.
    """

    #: The signal that asks pid 1 to end.
    end_signal: int = signal.SIGTERM
    #: By how much longer everything may take there than on this computer.
    patience: float = 1.0

    def __init__(
        self,
        anchor: Anchor,
        name: str,
        *,
        cables: Sequence[Cable] = (),
        hosts: Mapping[str, str] | None = None,
        init: Argv = REAPER,
        env: Mapping[str, str] | None = None,
        cgroup: bool = False,
        layers: Sequence[Path] = (),
    ) -> None:
        self.anchor = anchor
        self.name = name
        self.cables = tuple(cables)
        self.hosts: Mapping[str, str] = {} if hosts is None else hosts
        self.init = tuple(init)
        self.env: Mapping[str, str] = {} if env is None else env
        self.cgroup = cgroup
        self.layers = tuple(layers)
        self.pid = 0
        self.boot_id = ""
        self.namespaces: set[str] = set()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._storage = f"/run/lab/{name}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, pid={self.pid})"

    # ---- power -------------------------------------------------------------------------------

    def boot(self) -> None:
        """Give it power; returns when pid 1 runs and the network is plugged in.

        Raises:
            RuntimeError: it is up already, or its root can't be built.
        """
        if self.powered:
            raise RuntimeError(f"{self.name} is up already")
        for directory in ("upper", "work", "root"):
            self.anchor.outside(f"{self._storage}/{directory}").mkdir(parents=True, exist_ok=True)
        self.boot_id = str(uuid.uuid4())
        self.anchor.outside(f"{self._storage}/boot_id").write_text(f"{self.boot_id}\n")
        group = self.anchor.cgroups.add(self.name) if self.cgroup else None
        report = ReportSocket()
        handle = report.theirs.fileno()
        spec = {
            "name": self.name,
            "storage": self._storage,
            "layers": [str(layer) for layer in self.layers],
            "binds": [str(PROJECT)],
            "init": self.init,
            "env": dict(self.env),
            "cgroup": group,
        }
        spaces = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork"]
        script = str(INSIDE / "machine_boot.py")
        program = [INTERPRETER, "-I", "-S", script, str(handle), json.dumps(spec)]
        console = self.anchor.outside(f"{self._storage}/console").open("ab")
        with console:
            self._keeper = subprocess.Popen(
                [*self.anchor.enter(), *spaces, *program],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=CLEAN_ENVIRONMENT,
                cwd="/",
                pass_fds=[handle],
                start_new_session=True,
            )
        try:
            message, pid = report.receive(timeout=20)
            if message != "mounted":
                raise RuntimeError(f"{self.name}: {message}")
            self.pid = pid
            self.namespaces |= namespaces_of(pid)
            self.prepare_files()
            self.plug_in()
            report.send("go")
        except BaseException:
            self._keeper.kill()
            self._keeper.wait()
            self.pid = 0
            raise
        finally:
            report.close()

    def prepare_files(self) -> None:
        """Write the files a machine has before its pid 1 runs; called at every boot."""
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/machine-id", f"{identity(self.name).hex}\n")
        names = {"127.0.0.1": "localhost", "::1": "localhost ip6-localhost"}
        lines = [f"{address} {name}\n" for address, name in names.items()]
        lines += [f"{address} {name}\n" for name, address in self.hosts.items()]
        self.write("/etc/hosts", "".join(lines))

    def plug_in(self) -> None:
        """Plug the cables in; called at every boot, before pid 1 runs."""
        outer, inner = [], ["link set lo up"]
        for cable in self.cables:
            end, mac = cable.far_end(self.name), cable.mac(self.name)
            outer += [
                f"link add {end} mtu {cable.mtu} type veth peer name {cable.device}"
                f" address {mac} mtu {cable.mtu} netns {self.pid}",
                f"link set {end} master {cable.segment} up",
            ]
            if cable.address:
                inner.append(f"addr add {cable.address} dev {cable.device}")
            inner.append(f"link set {cable.device} up")
        if outer:
            self.anchor.ip(outer)
        self.anchor.ip_in(self.name, self.pid, inner)
        for cable in self.cables:
            # Open vSwitch's userspace datapath reads the device by AF_PACKET and would pass on
            # packets whose checksum the kernel has left to a network card that isn't there.
            off = ["ethtool", "-K", cable.device, "tx", "off", "tso", "off", "gso", "off"]
            prefix = ["nsenter", "-t", str(self.pid), "-n"]
            run_command(self.name, off, prefix=prefix, env=CLEAN_ENVIRONMENT)

    def power_cut(self) -> None:
        """Take its power away: everything in it is killed at once, its disk stays.

        Raises:
            MachineDown: it has none.
        """
        if self._keeper is None or not self.pid:
            raise MachineDown(self.name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._keeper.wait(timeout=30)
        self._unplugged()

    def shutdown(self, timeout: float = 30.0) -> None:
        """Ask pid 1 to end, then cut the power.

        Args:
            timeout: seconds that pid 1 may take.
        """
        if self._keeper is None or not self.pid:
            return
        try:
            os.kill(self.pid, self.end_signal)
            self._keeper.wait(timeout=timeout)
        except ProcessLookupError:
            self._keeper.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.power_cut()
            return
        self._unplugged()

    def _unplugged(self) -> None:
        self.pid = 0
        self._keeper = None
        if not self.anchor.alive:
            return
        if self.cgroup:
            self.anchor.cgroups.remove(self.name)
        # The kernel clears a network namespace some time after its last process; the cables must
        # not be in the way of the next boot.
        ends = {cable.far_end(self.name) for cable in self.cables}
        devices = self.anchor.outside("/proc/1/net/dev").read_text()
        present = {line.split(":")[0].strip() for line in devices.splitlines()}
        for end in ends & present:
            with contextlib.suppress(CommandError):  # the kernel may be faster
                self.anchor.ip([f"link del {end}"])

    def reboot(self) -> None:
        """A power cut and a boot."""
        self.power_cut()
        self.boot()

    @property
    def powered(self) -> bool:
        """Whether its pid 1 runs."""
        return bool(self.pid) and self._keeper is not None and self._keeper.poll() is None

    # ---- commands ----------------------------------------------------------------------------

    def enter(self, user: str | User | None = None) -> list[str]:
        """The command prefix that brings a command into the machine.

        The command is killed when the process that was started with this prefix is.

        Args:
            user: name of the user to become, with the user's groups; None is root.
        """
        if not self.powered:
            raise MachineDown(self.name)
        prefix = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-r", "-w"]
        prefix += ["-C"] if self.cgroup else []
        prefix += ["setpriv", "--pdeathsig", "KILL"]
        if user is not None:
            account = user if isinstance(user, User) else self.user(user)
            prefix += ["--reuid", str(account.uid), "--regid", str(account.gid), "--init-groups"]
        return [*prefix, "--"]

    def environment(
        self, user: str | User | None = None, extra: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """A clean environment for a command, with ``extra`` on top."""
        env = dict(CLEAN_ENVIRONMENT)
        if user is not None:
            account = user if isinstance(user, User) else self.user(user)
            env.update(HOME=account.home, USER=account.name, LOGNAME=account.name)
        env.update(extra or {})
        return env

    def run(
        self,
        argv: str | Argv,
        *,
        check: bool = True,
        user: str | User | None = None,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine.

        Args:
            argv: the command; a string is given to ``sh -c``.
            check: raise when its exit status is not 0.
            user: who runs it; None is root.
            env: added to a clean environment.
            input: text for its standard input.
            timeout: seconds; the command is killed then.

        Raises:
            CommandError: it failed or took too long.
            MachineDown: the machine has no power.
        """
        return run_command(
            self.name,
            _vector(argv),
            prefix=self.enter(user),
            check=check,
            env=self.environment(user, env),
            input=input,
            timeout=timeout,
        )

    def output(self, argv: str | Argv, *, timeout: float = 60.0) -> str:
        """Standard output of a command that must succeed, without blanks around it."""
        return self.run(argv, timeout=timeout).stdout.strip()

    def popen(
        self,
        argv: str | Argv,
        *,
        user: str | User | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Output = subprocess.DEVNULL,
        stdout: Output = subprocess.PIPE,
        stderr: Output = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command on the machine and leave it running; arguments as for :meth:`run`.

        A signal sent to what is returned reaches the prefix; SIGKILL ends the command with it.
        """
        return subprocess.Popen(
            [*self.enter(user), *_vector(argv)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=self.environment(user, env),
            encoding="utf-8",
            errors="surrogateescape",
        )

    # ---- files and users ---------------------------------------------------------------------

    def path(self, path: str | PurePath) -> Path:
        """The path by which this process reaches the machine's file ``path``.

        Symbolic links are followed as the machine would: an absolute one starts at its root.
        The last component is followed too, and need not exist.
        """
        if not self.powered:
            raise MachineDown(self.name)
        root = f"/proc/{self.pid}/root"
        pending = [part for part in str(path).split("/") if part not in ("", ".")][::-1]
        done: list[str] = []
        for _ in range(1000):
            if not pending:
                return Path(root, *done)
            part = pending.pop()
            if part == "..":
                del done[-1:]
                continue
            try:
                target = os.readlink(os.path.join(root, *done, part))
            except OSError:
                done.append(part)
                continue
            if target.startswith("/"):
                done.clear()
            pending += [step for step in target.split("/") if step not in ("", ".")][::-1]
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))

    def on_disk(self, path: str | PurePath) -> Path:
        """The path by which this process reaches a file that the machine has written to its disk.

        It needs no power for that; a file that only the computer has is not found.
        """
        return self.anchor.outside(f"{self._storage}/upper{path}")

    def read(self, path: str | PurePath) -> str:
        """The text of a file of the machine; '' when there is none."""
        try:
            return self.path(path).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def exists(self, path: str | PurePath) -> bool:
        """Whether the machine has that file."""
        return self.path(path).exists()

    def write(
        self,
        path: str | PurePath,
        text: str,
        *,
        mode: int = 0o644,
        owner: str | User | None = None,
    ) -> None:
        """Write a file of the machine, with the directories above it."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        self._give(target, owner)

    def notice_files(self) -> None:
        """Tell the machine that files of its ``/usr`` were changed from outside."""

    def make_directory(
        self, path: str | PurePath, *, mode: int = 0o755, owner: str | User | None = None
    ) -> None:
        """Make a directory of the machine, with those above it."""
        target = self.path(path)
        target.mkdir(parents=True, exist_ok=True)
        target.chmod(mode)
        self._give(target, owner)

    def _give(self, target: Path, owner: str | User | None) -> None:
        if owner is not None:
            account = owner if isinstance(owner, User) else self.user(owner)
            os.chown(target, account.uid, account.gid)

    def user(self, name: str) -> User:
        """Look a user up in the machine's /etc/passwd.

        Raises:
            KeyError: there is none of that name.
        """
        for line in self.read("/etc/passwd").splitlines():
            fields = line.split(":")
            if fields[0] == name:
                return User(name, int(fields[2]), int(fields[3]), fields[5])
        raise KeyError(f"{self.name} has no user {name}")

    def set_group(self, name: str, gid: int, members: Sequence[str] = ()) -> None:
        """Give the machine a group with that number; one that it has is left as it is."""
        lines = self.read("/etc/group").splitlines()
        if any(line.startswith(f"{name}:x:{gid}:") for line in lines):
            return
        kept = [line for line in lines if line.split(":")[0] != name]
        self.write("/etc/group", "\n".join([*kept, f"{name}:x:{gid}:{','.join(members)}"]) + "\n")

    def set_user(self, user: User) -> None:
        """Give the machine a user."""
        lines = self.read("/etc/passwd").splitlines()
        kept = [line for line in lines if line.split(":")[0] != user.name]
        entry = f"{user.name}:x:{user.uid}:{user.gid}::{user.home}:/sbin/nologin"
        self.write("/etc/passwd", "\n".join([*kept, entry]) + "\n")

    # ---- processes ---------------------------------------------------------------------------

    def process_alive(self, pid: int) -> bool:
        """Whether the machine's process ``pid`` (its own numbering) runs and is no zombie."""
        return self.process_start(pid) is not None

    def process_start(self, pid: int) -> int | None:
        """When the machine's process ``pid`` started, in clock ticks; None if it doesn't run.

        Together with the number it names a process for good, as numbers are used again.
        """
        if not self.powered:
            return None
        try:
            text = Path(f"/proc/{self.pid}/root/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])

    def signal_process(self, pid: int, number: int) -> None:
        """Send a signal to the machine's process ``pid``; nothing happens if it has ended."""
        if pid < 1:  # to kill(1) that would be the group that it is in itself, and so are we
            raise ValueError(f"{self.name} has no process {pid}")
        self.run(["kill", f"-{int(number)}", str(pid)], check=False)

    def wait_process_end(self, pid: int, timeout: float = 10.0) -> None:
        """Wait until the machine's process ``pid`` has ended."""
        started = self.process_start(pid)
        wait_until(
            lambda: started is None or self.process_start(pid) != started,
            timeout,
            f"{self.name}: end of process {pid}",
            interval=0.005,
        )

    # ---- network -----------------------------------------------------------------------------

    def ip(self, *lines: str) -> None:
        """Run ip(8) commands on the machine in one go, like ``ip("link set eth0 down")``."""
        self.anchor.ip_in(self.name, self.pid, lines)

    def devices(self) -> set[str]:
        """The names of its network devices."""
        return set(os.listdir(self.path("/sys/class/net")))

    def unplug_cable(self, device: str) -> None:
        """Take the carrier from a cable."""
        self.anchor.ip([f"link set {self._cable(device).far_end(self.name)} down"])

    def plug_cable(self, device: str) -> None:
        """Give the carrier back."""
        self.anchor.ip([f"link set {self._cable(device).far_end(self.name)} up"])

    def _cable(self, device: str) -> Cable:
        return next(cable for cable in self.cables if cable.device == device)

    # ---- what is left behind -----------------------------------------------------------------

    def save_logs(self, target: Path) -> None:
        """Copy the machine's logs to ``target``; kinds of machines add theirs."""
        self.collect(target, [])

    def collect(self, target: Path, paths: Sequence[str]) -> None:
        """Copy files and directories of the machine to ``target``, for a person to read.

        Only regular files; those that vanish meanwhile are left out.
        """
        target.mkdir(parents=True, exist_ok=True)
        console = self.anchor.outside(f"{self._storage}/console")
        if console.exists():
            _copy_text(console, target / "console")
        if not self.powered:
            return
        for path in paths:
            top = self.path(path)
            files = [top] if top.is_file() else sorted(top.rglob("*")) if top.is_dir() else []
            for file in files:
                try:
                    if stat.S_ISREG(file.lstat().st_mode):
                        relative = str(file)[len(f"/proc/{self.pid}/root/") :]
                        _copy_text(file, target / relative.replace("/", "_"))
                except OSError:
                    continue


def _copy_text(source: Path, target: Path, limit: int = 8 << 20) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(reader.read(limit))


def _vector(argv: str | Argv) -> list[str]:
    return ["sh", "-c", argv] if isinstance(argv, str) else list(argv)
