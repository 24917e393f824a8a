# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints what the kernel says of its network devices, as pyroute2 understands it: JSON, by name."""

from __future__ import annotations

import importlib
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Print it."""
    pyroute2: Any = importlib.import_module("pyroute2")
    with pyroute2.IPRoute() as netlink:
        links = {link["index"]: link for link in netlink.get_links()}
        names = {index: link.get_attr("IFLA_IFNAME") for index, link in links.items()}
        facts = {}
        for index, link in links.items():
            far = link.get_attr("IFLA_LINK_NETNSID") is not None
            parent = None if far else names.get(link.get_attr("IFLA_LINK"))
            facts[names[index]] = {
                "kind": link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND"),
                "master": names.get(link.get_attr("IFLA_MASTER")),
                "parent": parent,
                "tag": link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_VLAN_ID"),
                "addresses": [],
            }
        for address in netlink.get_addr():
            text = f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
            facts[names[address["index"]]]["addresses"].append(text)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
