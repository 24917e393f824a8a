# SPDX-License-Identifier: GPL-2.0-or-later
"""A hook that asks Open vSwitch for the host's name by subprocesses.

So do those of the two older packages: ``openstacknet`` with ovs-ctl and ovs-vsctl, ``provider``
with ovs-vsctl alone.  They start sudo besides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

STATUS = ["/usr/share/openvswitch/scripts/ovs-ctl", "status"]
GET = ["/usr/bin/ovs-vsctl", "--no-wait", "get", "Open_vSwitch", ".", "external_ids:hostname"]


FILE = os.environ["_hook_json"]  # noqa: SIM112, VDSM calls it so


def main() -> None:
    """Add the name to the capabilities."""
    with open(FILE) as file:
        caps = json.load(file)
    if sys.argv[1] == "openstacknet":
        subprocess.run(STATUS, capture_output=True, check=True)
    name = subprocess.run(GET, capture_output=True, check=True).stdout.decode().strip().strip('"')
    caps.setdefault("openstack_binding_host_ids", {})["OPEN_VSWITCH"] = name
    with open(FILE, "w") as file:
        file.write(json.dumps(caps))


main()
