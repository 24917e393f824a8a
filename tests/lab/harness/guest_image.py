# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests' kernel and initial ramdisks, made once and kept under ``build/guest``.

The kernel is Debian's cloud kernel with all its modules, unpacked from its package and not
installed; a ramdisk is busybox, some of the modules and the scripts of one folder.  It is made
anew when a script changes.
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
VIRTIO = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
)
MODULES = (
    *VIRTIO,
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
)


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel.

    Attributes:
        directory: where it is kept.
    """

    directory: Path

    @property
    def version(self) -> str:
        """As ``uname -r`` says it."""
        return self.directory.name.partition("-")[2]

    @property
    def image(self) -> Path:
        """What boots."""
        return self.directory / "vmlinuz"

    @property
    def modules(self) -> Path:
        """What belongs in ``/lib/modules/<version>``, with the lists that modprobe needs."""
        return self.directory / "modules"


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
    return build_image(unpacked_kernel(), SCRIPTS, MODULES)


def build_image(kernel: Kernel, scripts: Path, modules: Sequence[str]) -> GuestImage:
    """Return an image with a ramdisk of its own, building it if it is missing.

    Args:
        kernel: what boots.
        scripts: a folder; its ``init`` becomes pid 1, its other files are in ``/lab``.
        modules: files of the kernel's that are put in ``/modules``, without their ``.ko``.
    """
    key = hashlib.sha256(f"{kernel.version} {modules}".encode())
    for file in (*sorted(scripts.iterdir()), BUSYBOX, Path(__file__)):
        key.update(file.name.encode() + file.read_bytes())
    ramdisk = CACHE / f"ramdisk-{key.hexdigest()[:16]}.gz"
    if not ramdisk.exists():
        _build_ramdisk(kernel, scripts, modules, ramdisk)
    return GuestImage(kernel.image, ramdisk)


def unpacked_kernel() -> Kernel:
    """Return the kernel, fetching it if it is missing.

    Raises:
        CommandError: it could not be fetched or unpacked.
    """
    present = sorted(CACHE.glob("linux-*/modules/modules.dep"))
    if present:
        return Kernel(present[-1].parents[1])
    CACHE.mkdir(parents=True, exist_ok=True)
    depends = re.findall(r"Depends: (\S+)", _run("apt-cache", "depends", KERNEL_PACKAGE))
    package = next(name for name in depends if name.startswith("linux-image-"))
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        scratch = Path(name)
        os.chmod(scratch, 0o755)
        fetch = ["sh", "-c", 'cd "$0" && apt-get -q download "$1"', name, package]
        run_command("here", fetch, timeout=300)
        (archive,) = scratch.glob("*.deb")
        root = scratch / "root"
        _run("dpkg", "-x", str(archive), str(root))
        (vmlinuz,) = root.glob("boot/vmlinuz-*")
        (modules,) = root.glob("lib/modules/*")
        _run("depmod", "-b", str(root), modules.name)
        result = scratch / "result"
        result.mkdir()
        vmlinuz.rename(result / "vmlinuz")
        modules.rename(result / "modules")
        return Kernel(_put(result, CACHE / f"linux-{modules.name}"))


def _run(*argv: str) -> str:
    return run_command("here", argv, timeout=300).stdout


def _build_ramdisk(kernel: Kernel, scripts: Path, modules: Sequence[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        root = Path(name, "root")
        for directory in ("bin", "lab", "modules"):
            (root / directory).mkdir(parents=True)
        shutil.copy(BUSYBOX, root / "bin")
        for module in modules:
            shutil.copy(kernel.modules / "kernel" / f"{module}.ko", root / "modules")
        for script in scripts.iterdir():
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
