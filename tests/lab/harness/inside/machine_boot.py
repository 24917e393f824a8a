# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds a machine's root from inside its new namespaces and becomes its pid 1.

``machine_boot.py FD SPEC``: FD is a unix socket to the lab, SPEC a JSON object:

``name``    the host name
``storage`` directory, on the anchor's tmpfs, with ``upper``, ``work`` and ``root`` in it
``layers``  directories to lay over ``/``, topmost first
``binds``   directories shown in the machine, read only, at their own path
``init``    what to execute as pid 1 in the end
``env``     variables that it is given besides a clean environment
``cgroup``  directory of the control group that is to hold the machine; null for none

The program sends ``mounted`` when its root stands, waits for ``go`` (the lab plugs the cables in
and writes the files in between), and executes ``init``.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import mounts
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import mounts

DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "net/tun": (10, 200),
    "fuse": (10, 229),
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


def build_devices(target: str) -> None:
    """A /dev of the machine's own.  Without /dev/kvm: guests are emulated anyway, and libvirt
    then leaves out half of its probing."""
    mounts.mount("dev", target, "tmpfs", mounts.MS_NOSUID, "mode=0755")
    for directory in ("net", "pts", "shm", "mqueue"):
        os.mkdir(f"{target}/{directory}")
    for name, (major, minor) in DEVICES.items():
        os.mknod(f"{target}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(f"{target}/{name}", 0o666)
    for name, destination in LINKS.items():
        os.symlink(destination, f"{target}/{name}")
    mounts.mount("devpts", f"{target}/pts", "devpts", 0, "newinstance,mode=620,ptmxmode=666,gid=5")
    mounts.mount("shm", f"{target}/shm", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=1777")


def build_proc(target: str) -> None:
    """A /proc of the machine's own, in which only the network's settings can be changed: all
    others are the whole computer's."""
    mounts.mount("proc", target, "proc")
    mounts.bind(f"{target}/sys", f"{target}/sys")
    mounts.bind(f"{target}/sys/net", f"{target}/sys/net")
    mounts.mount("", f"{target}/sys", flags=mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY)
    if os.path.exists(f"{target}/sysrq-trigger"):
        mounts.bind(f"{target}/sysrq-trigger", f"{target}/sysrq-trigger", read_only=True)


def enter_cgroup(directory: str) -> None:
    """Move this process, and all that it will start, into a control group, and see that alone."""
    with open(f"{directory}/cgroup.procs", "w") as members:
        members.write("0")
    mounts.leave_cgroups()


def build_root(spec: dict[str, Any]) -> None:
    """Mount the machine's root and make it the root of this namespace."""
    storage = spec["storage"]
    root = f"{storage}/root"
    mounts.make_private()
    if spec["cgroup"] is not None:
        enter_cgroup(spec["cgroup"])
    lower = ":".join([*spec["layers"], "/"])
    options = f"lowerdir={lower},upperdir={storage}/upper,workdir={storage}/work"
    mounts.mount("overlay", root, "overlay", 0, options)
    build_devices(f"{root}/dev")
    build_proc(f"{root}/proc")
    # The kernel's own is the whole computer's, and the same at every boot of a machine.
    boot_id = f"{root}/proc/sys/kernel/random/boot_id"
    mounts.bind(f"{storage}/boot_id", boot_id, read_only=True)
    # Mounted from within the network namespace, so that /sys/class/net shows its devices.
    mounts.mount("sysfs", f"{root}/sys", "sysfs")
    if spec["cgroup"] is not None:
        mounts.mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2")
    mounts.mount("run", f"{root}/run", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=0755")
    mounts.mount("tmp", f"{root}/tmp", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=1777")
    os.makedirs(f"{root}/run/lock", exist_ok=True)
    # Last: a checkout may lie below /tmp or /run.
    for path in spec["binds"]:
        os.makedirs(root + path, exist_ok=True)
        mounts.bind(path, root + path, read_only=True)
    mounts.change_root(root)
    if spec["cgroup"] is not None:
        # As systemd wants it; in a container it leaves that to whoever starts it.
        # Without, what it mounts for a service (credentials) does not get there.
        mounts.make_shared()


def main() -> None:
    """Build the root, wait for the lab's word, execute the init."""
    lab = socket.socket(fileno=int(sys.argv[1]))
    spec = json.loads(sys.argv[2])
    try:
        socket.sethostname(spec["name"])
        build_root(spec)
    except (OSError, KeyError) as error:
        lab.send(f"failed: {error}".encode())
        raise
    lab.send(b"mounted")
    if lab.recv(16) != b"go":
        raise SystemExit("the lab went away before the machine was up")
    lab.close()
    os.execve(spec["init"][0], spec["init"], {**os.environ, **spec["env"]})


if __name__ == "__main__":
    main()
