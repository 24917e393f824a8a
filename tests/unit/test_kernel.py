# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel shows of a device below /sys, in a network namespace of the test's."""

from __future__ import annotations

import subprocess

from vif_driver.host import kernel

from . import own_sysfs
from .conftest import RunInNamespace


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def test_a_device_is_down_until_it_is_set_up(in_network_namespace: RunInNamespace) -> None:
    async def body() -> tuple[bool, bool]:
        own_sysfs.mount()
        ip("link add eth0 type veth peer name cable")
        before = kernel.is_down("eth0")
        ip("link set eth0 up")
        return before, kernel.is_down("eth0")

    # Without its other end it has no carrier, which is another thing.
    assert in_network_namespace(body) == (True, False)


def test_one_that_is_not_there_is_not_down(in_network_namespace: RunInNamespace) -> None:
    async def body() -> bool:
        own_sysfs.mount()
        return kernel.is_down("eth0")

    assert in_network_namespace(body) is False
