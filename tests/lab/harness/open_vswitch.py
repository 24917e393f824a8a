# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch on a machine: its daemons, and questions to its database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .anchor import INSIDE, INTERPRETER
from .machine import Machine
from .service import Daemon, Service

DATABASE = "/etc/openvswitch/conf.db"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
RUN = "/run/openvswitch"
LOG = "/var/log/openvswitch"
DIRECTORIES = ("/etc/openvswitch", RUN, LOG, "/var/lib/openvswitch")
TAP_WATCH = [INTERPRETER, "-I", "-S", str(INSIDE / "tapwatch.py")]
# In the first ten seconds after a boot, Open vSwitch counts no processors, and starts no thread for
# the packets that the kernel's datapath does not know what to do with.
UPTIME = ["unshare", "--time", "--monotonic", "3600", "--fork", "--"]
OvsdbValue = Any


class OpenVSwitch:
    """ovsdb-server and ovs-vswitchd of a machine, with the userspace datapath.

    Args:
        machine: where.
        daemons: database, vswitchd and tap_watch, where somebody else than the harness looks
            after them.
        kernel: with the kernel's datapath instead, as on users' hosts; the machine has to have a
            kernel of its own, and ``tap_watch`` is not started.

    Attributes:
        database, vswitchd, tap_watch: the daemons; ``tap_watch`` gives the userspace datapath the
            kernel datapath's behaviour when a tap goes.
    """

    database: Daemon
    vswitchd: Daemon
    tap_watch: Daemon

    def __init__(
        self,
        machine: Machine,
        daemons: tuple[Daemon, Daemon, Daemon] | None = None,
        *,
        kernel: bool = False,
    ) -> None:
        self.machine = machine
        self.kernel = kernel
        if daemons is not None:
            self.database, self.vswitchd, self.tap_watch = daemons
            return
        common = ["--pidfile", "--log-file", "-vconsole:off", "--detach"]
        self.database = Service(
            machine,
            "ovsdb-server",
            ["ovsdb-server", DATABASE, f"--remote=punix:{RUN}/db.sock", *common],
            pidfile=f"{RUN}/ovsdb-server.pid",
            detaches=True,
            log=f"{LOG}/ovsdb-server",
        )
        self.vswitchd = Service(
            machine,
            "ovs-vswitchd",
            # Not --disable-system-route: tunnels need the kernel's routes.
            [
                *(UPTIME if kernel else []),
                "ovs-vswitchd",
                f"unix:{RUN}/db.sock",
                *([] if kernel else ["--disable-system"]),
                *common,
            ],
            pidfile=f"{RUN}/ovs-vswitchd.pid",
            detaches=True,
            log=f"{LOG}/ovs-vswitchd",
        )
        self.tap_watch = Service(
            machine,
            "tapwatch",
            TAP_WATCH,
            ready=lambda: "watching" in machine.read("/run/tapwatch.log"),
            log="/run/tapwatch.log",
        )

    def start(self, external_ids: Mapping[str, str]) -> None:
        """Start the daemons.

        Args:
            external_ids: of the Open_vSwitch row, set before ovs-vswitchd starts.
        """
        if not self.machine.exists(DATABASE):
            self.machine.run(["ovsdb-tool", "create", DATABASE, SCHEMA])
        self.database.start()
        settings = [
            f"external_ids:{key}={json.dumps(value)}" for key, value in external_ids.items()
        ]
        self.vsctl("--no-wait", "init", "--", "set", "Open_vSwitch", ".", *settings)
        self.vswitchd.start()
        if not self.kernel and not self.tap_watch.running:
            self.tap_watch.start()

    def stop(self) -> None:
        """Stop the daemons."""
        if not self.kernel:
            self.tap_watch.stop()
        self.vswitchd.stop()
        self.database.stop()

    # ---- control -----------------------------------------------------------------------------

    def vsctl(self, *arguments: str, timeout: float = 20.0) -> str:
        """Run ovs-vsctl and return its output."""
        timeout *= self.machine.patience
        limit = f"--timeout={max(1, round(timeout))}"
        return self.machine.output(["ovs-vsctl", limit, *arguments], timeout=timeout + 5)

    def appctl(self, *arguments: str, timeout: float = 20.0) -> str:
        """Run ovs-appctl and return its output."""
        timeout *= self.machine.patience
        limit = f"--timeout={max(1, round(timeout))}"
        return self.machine.output(["ovs-appctl", limit, *arguments], timeout=timeout + 5)

    def wait_configured(self) -> None:
        """Wait until ovs-vswitchd has done what the database says; it may not be connected yet."""
        self.vsctl("add", "Open_vSwitch", ".", "other_config", "lab-asks=true")
        self.vsctl("remove", "Open_vSwitch", ".", "other_config", "lab-asks")

    def add_bridge(self, name: str, *settings: str) -> None:
        """Add a bridge, if it isn't there, with columns like ``fail_mode=secure``."""
        # The datapath type is the lab's affair alone.
        columns = [*([] if self.kernel else ["datapath_type=netdev"]), *settings]
        setting = ["--", "set", "Bridge", name, *columns] if columns else []
        self.vsctl("--may-exist", "add-br", name, *setting)

    @property
    def ovn_settings(self) -> dict[str, str]:
        """What the Open_vSwitch row's external_ids say to ovn-controller about the datapath."""
        return {} if self.kernel else {"ovn-bridge-datapath-type": "netdev"}

    # ---- rows --------------------------------------------------------------------------------

    def rows(
        self, table: str, *conditions: str, columns: Sequence[str] = ()
    ) -> list[dict[str, OvsdbValue]]:
        """The rows of a table that meet conditions like ``name=tap0``, as Python values.

        Sets and maps become lists and dicts; an empty set is ``[]``; a uuid is its text.
        """
        wanted = [f"--columns={','.join(columns)}"] if columns else []
        text = self.vsctl("--format=json", *wanted, "find", table, *conditions)
        answer = json.loads(text)
        headings = answer["headings"]
        return [{key: _plain(value) for key, value in zip(headings, row)} for row in answer["data"]]

    def interface(self, name: str) -> dict[str, OvsdbValue]:
        """The Interface row of that name; {} when there is none."""
        found = self.rows("Interface", f"name={json.dumps(name)}")
        return found[0] if found else {}

    def port(self, name: str) -> dict[str, OvsdbValue]:
        """The Port row of that name; {} when there is none."""
        found = self.rows("Port", f"name={json.dumps(name)}")
        return found[0] if found else {}

    def interface_of(self, iface_id: str) -> dict[str, OvsdbValue]:
        """The Interface row whose ``iface-id`` that is; {} when there is none."""
        found = self.rows("Interface", f"external_ids:iface-id={json.dumps(iface_id)}")
        return found[0] if found else {}

    def ports(self, bridge: str = "br-int") -> set[str]:
        """The names of a bridge's ports."""
        return set(self.vsctl("list-ports", bridge).split())

    def wait(self, table: str, record: str, *conditions: str, timeout: float = 20.0) -> None:
        """Wait until the record is there and meets conditions like ``ofport>0``.

        Raises:
            CommandError: it doesn't within ``timeout`` seconds.
        """
        self.vsctl("wait-until", table, record, *conditions, timeout=timeout)

    def wait_ready(self, interface: str, timeout: float = 20.0) -> None:
        """Wait until OVN says that the interface works."""
        self.wait("Interface", interface, "external_ids:ovn-installed=true", timeout=timeout)


def _plain(value: OvsdbValue) -> OvsdbValue:
    """Turn OVSDB's JSON notation into plain values."""
    if isinstance(value, list) and len(value) == 2:
        kind, content = value
        if kind == "set":
            return [_plain(item) for item in content]
        if kind == "map":
            return {_plain(key): _plain(item) for key, item in content}
        if kind in ("uuid", "named-uuid"):
            return content
    return value
