# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests' kernel and initial ramdisk, made once and kept under ``build/guest``.

The kernel is Debian's cloud kernel, unpacked from its package and not installed; the ramdisk is
busybox and the scripts of ``tests/lab/guest``.  It is made anew when a script changes.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .command import run_command
from .machine import PROJECT

CACHE = PROJECT / "build" / "guest"
SCRIPTS = Path(__file__).resolve().parents[1] / "guest"
BUSYBOX = Path("/bin/busybox")
KERNEL_PACKAGE = "linux-image-cloud-amd64"
MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
)


@dataclass(frozen=True)
class GuestImage:
    """What a guest boots."""

    kernel: Path
    ramdisk: Path


def guest_image() -> GuestImage:
    """Return the image, building what is missing.

    Raises:
        CommandError: the kernel could not be fetched or unpacked.
    """
    kernel = _kernel()
    key = hashlib.sha256(kernel.name.encode())
    for file in (*sorted(SCRIPTS.iterdir()), BUSYBOX, Path(__file__)):
        key.update(file.name.encode() + file.read_bytes())
    ramdisk = CACHE / f"ramdisk-{key.hexdigest()[:16]}.gz"
    if not ramdisk.exists():
        _build_ramdisk(kernel, ramdisk)
    return GuestImage(kernel / "vmlinuz", ramdisk)


def _run(*argv: str) -> str:
    return run_command("here", argv, timeout=300).stdout


def _kernel() -> Path:
    """The directory with the kernel's ``vmlinuz`` and ``modules``."""
    present = sorted(CACHE.glob("kernel-*/vmlinuz"))
    if present:
        return present[-1].parent
    CACHE.mkdir(parents=True, exist_ok=True)
    depends = re.findall(r"Depends: (\S+)", _run("apt-cache", "depends", KERNEL_PACKAGE))
    package = next(name for name in depends if name.startswith("linux-image-"))
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        scratch = Path(name)
        os.chmod(scratch, 0o755)
        fetch = ["sh", "-c", 'cd "$0" && apt-get -q download "$1"', name, package]
        run_command("here", fetch, timeout=300)
        (archive,) = scratch.glob("*.deb")
        _run("dpkg", "-x", str(archive), str(scratch / "root"))
        (vmlinuz,) = scratch.glob("root/boot/vmlinuz-*")
        (tree,) = scratch.glob("root/lib/modules/*/kernel")
        result = scratch / "result"
        (result / "modules").mkdir(parents=True)
        shutil.copy(vmlinuz, result / "vmlinuz")
        for module in MODULES:
            shutil.copy(tree / f"{module}.ko", result / "modules")
        return _put(result, CACHE / vmlinuz.name.replace("vmlinuz", "kernel"))


def _build_ramdisk(kernel: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        root = Path(name, "root")
        for directory in ("bin", "lab"):
            (root / directory).mkdir(parents=True)
        shutil.copy(BUSYBOX, root / "bin")
        shutil.copytree(kernel / "modules", root / "modules")
        for script in SCRIPTS.iterdir():
            place = root / "init" if script.name == "init" else root / "lab" / script.name
            shutil.copy(script, place)
            place.chmod(0o755)
        packed = Path(name, "ramdisk")
        packed.write_bytes(gzip.compress(_cpio(root), 9))
        _put(packed, target)


def _cpio(root: Path) -> bytes:
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    command: Sequence[str] = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"]
    done = subprocess.run(
        command, cwd=root, input="\n".join(names).encode(), stdout=subprocess.PIPE, check=True
    )
    return done.stdout


def _put(made: Path, target: Path) -> Path:
    """Give something its final name, unless another process was faster."""
    try:
        os.rename(made, target)
    except OSError:
        if not target.exists():
            raise
    return target
