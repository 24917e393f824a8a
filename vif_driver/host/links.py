# SPDX-License-Identifier: GPL-2.0-or-later
"""Network devices, over netlink."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import errno
from collections.abc import Mapping
from typing import Any, Callable, TypeVar

from vif_driver.errors import HostError
from vif_driver.host import iproute, kernel

#: pyroute2's, which has no types.
IPRoute = Any

_T = TypeVar("_T")

_NO_SUCH_DEVICE = (errno.ENODEV, errno.ENOENT)
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000


@dataclasses.dataclass(frozen=True)
class Link:
    """A network device as the kernel describes it.

    Attributes:
        name: its name.
        index: its interface index.
        kind: ``bridge``, ``veth``, ``tun``, ...; None for a physical device.
        mtu: bytes.
        up: administratively up.
        master: index of the bridge it is a port of, or None.
        alias: ``ifalias``, a text that software and administrators may attach.
        group: the device group, 0 by default.
        carrier: the other end, a cable or a program, is there.
    """

    name: str
    index: int
    kind: str | None
    mtu: int
    up: bool
    master: int | None
    alias: str | None
    group: int
    carrier: bool = True


class Links:
    """The devices of the network namespace this process is in.

    pyroute2's calls block (and its newest releases run an event loop of their own inside them),
    so they are made in one thread, one after another.  The library is loaded with the first call:
    OVN alone needs none.
    """

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._socket: IPRoute | None = None

    async def close(self) -> None:
        """Close the netlink socket."""
        if self._socket is not None:
            await self._call("close", lambda netlink: netlink.close())
            self._socket = None
        self._thread.shutdown(wait=False)

    async def get(self, name: str) -> Link | None:
        """Look a device up by name.

        Raises:
            HostError: the kernel did not answer the question.
        """

        def ask(netlink: IPRoute) -> Link | None:
            try:
                message = netlink.link("get", ifname=name)[0]
            except iproute.netlink_error() as error:
                if error.code in _NO_SUCH_DEVICE:
                    return None
                raise
            return _link(message)

        return await self._call(f"look up {name}", ask)

    async def all(self) -> list[Link]:
        """Give every device.

        Raises:
            HostError: the kernel did not answer the question.
        """
        return await self.ask(
            "list the devices",
            lambda netlink: [_link(message) for message in netlink.get_links()],
        )

    async def ask(self, what: str, question: Callable[[IPRoute], _T]) -> _T:
        """Have a question answered that changes nothing, in the netlink thread.

        Args:
            what: the purpose, for messages, as in "refused to ...".
            question: asks it.

        Raises:
            HostError: the kernel did not answer the question.
        """
        return await self._call(what, question)

    async def add_bridge(self, name: str, group: int) -> None:
        """Make a Linux bridge; its group is set in the same request."""
        await self._call(
            f"make bridge {name}",
            lambda netlink: netlink.link("add", ifname=name, kind="bridge", group=group),
        )

    async def add_veth(self, name: str, peer: str, group: int) -> None:
        """Make a veth pair; the group of both ends is set in the same request."""
        await self._call(
            f"make the veth pair {name} and {peer}",
            lambda netlink: netlink.link(
                "add", ifname=name, kind="veth", group=group, peer={"ifname": peer, "group": group}
            ),
        )

    async def change(
        self,
        name: str,
        *,
        address: str | None = None,
        mtu: int | None = None,
        up: bool | None = None,
        master: str | None = None,
        alias: str | None = None,
    ) -> None:
        """Change what is given of a device and leave the rest.

        Args:
            name: the device.
            address: its MAC address.
            mtu: bytes.
            up: administratively up or down.
            master: the bridge to put it on; an empty text takes it off.
            alias: its ``ifalias``.
        """

        def request(netlink: IPRoute) -> None:
            changes: dict[str, Any] = {}
            if address is not None:
                changes["address"] = address
            if mtu is not None:
                changes["mtu"] = mtu
            if master is not None:
                changes["master"] = _index(netlink, master) if master else 0
            if alias is not None:
                changes["ifalias"] = alias
            if up is not None:
                changes["state"] = "up" if up else "down"
            netlink.link("set", index=_index(netlink, name), **changes)

        await self._call(f"configure {name}", request)

    async def configure_bridge(self, name: str, attributes: Mapping[str, int]) -> None:
        """Set attributes of a Linux bridge.

        Args:
            name: the bridge.
            attributes: ``IFLA_BR_*`` of linux/if_link.h in pyroute2's spelling (``br_…``).
        """
        await self._call(
            f"configure bridge {name}",
            lambda netlink: netlink.link(
                "set", index=_index(netlink, name), kind="bridge", **attributes
            ),
        )

    async def set_parameters(self, parameters: Mapping[str, int]) -> None:
        """Set kernel parameters below ``net``; see :func:`vif_driver.host.kernel.write_sysctl`.

        In the netlink thread, since the kernel makes some of them wait for its network lock.
        """

        def request(_netlink: IPRoute) -> None:
            for name, value in parameters.items():
                kernel.write_sysctl(name, value)

        await self._call("set kernel parameters", request)

    async def delete(self, name: str) -> bool:
        """Delete a device.

        Returns:
            False if there was none of that name.
        """

        def request(netlink: IPRoute) -> bool:
            try:
                netlink.link("del", ifname=name)
            except iproute.netlink_error() as error:
                if error.code in _NO_SUCH_DEVICE:
                    return False
                raise
            return True

        return await self._call(f"delete {name}", request)

    async def _call(self, what: str, request: Callable[[IPRoute], _T]) -> _T:
        def run() -> _T:
            if self._socket is None:
                self._socket = iproute.open_socket()
            return request(self._socket)

        request_made = asyncio.get_running_loop().run_in_executor(self._thread, run)
        try:
            try:
                return await asyncio.shield(request_made)
            except asyncio.CancelledError:
                # What the thread has begun can't be stopped, and whoever takes it back must not
                # overtake it.
                await asyncio.wait([request_made])
                raise
        except (iproute.netlink_error(), OSError) as error:
            code = getattr(error, "code", None) or getattr(error, "errno", None)
            name = errno.errorcode.get(code or 0, str(code))
            raise HostError(
                f"the kernel refused to {what} ({name}: {error})",
                "see the agent's log, and look at the device with 'ip -d link show'",
            ) from error


def _index(netlink: IPRoute, name: str) -> int:
    index: int = netlink.link("get", ifname=name)[0]["index"]
    return index


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        kind=None if info is None else info.get_attr("IFLA_INFO_KIND"),
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & _IFF_UP),
        master=message.get_attr("IFLA_MASTER"),
        alias=message.get_attr("IFLA_IFALIAS"),
        group=message.get_attr("IFLA_GROUP") or 0,
        carrier=bool(message["flags"] & _IFF_LOWER_UP),
    )
