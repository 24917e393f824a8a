# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures as a file that Prometheus' node_exporter picks up (its textfile collector).

No port is opened: the host has an exporter for its metrics already.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vif_driver import __version__
from vif_driver.reporting import METRICS
from vif_driver.reporting.figures import Figures

_PREFIX = "vif_driver_"

# What the library has for serving and pushing metrics.  Nobody does that here, and it would be two
# of the agent's sixty megabytes.
_FOR_THE_WEB = ("http.server", "urllib.request", "wsgiref.simple_server")


class MetricsFile:
    """Writes the file; the library is loaded with the first.

    Args:
        path: of the file; its folder must be there.

    Raises:
        ImportError: the library is not installed.
    """

    def __init__(self, path: Path = METRICS) -> None:
        library = _load()
        self.path = path
        self._families = library.metrics_core
        self._format = library.generate_latest
        # Not the library's own, which has the memory and the processor time of this process.
        self._registry = library.CollectorRegistry()
        self._figures: Figures | None = None
        self._registry.register(self)

    def write(self, figures: Figures) -> None:
        """Write figures in the place of the last ones.

        Raises:
            OSError: the file cannot be written.
        """
        self._figures = figures
        self._write(self._format(self._registry))

    def _write(self, text: bytes) -> None:
        unfinished = self.path.with_name(f".{self.path.name}")
        unfinished.write_bytes(text)
        # For node_exporter's user, whatever our umask is.
        unfinished.chmod(0o644)
        os.replace(unfinished, self.path)

    def clear(self) -> None:
        """Write none: what nobody looks after any more is no figure.

        The file stays, as node_exporter takes a symbolic link to nowhere for an error.

        Raises:
            OSError: the file cannot be written.
        """
        self._write(b"")

    def collect(self) -> Iterator[Any]:
        """Give the figures in the library's terms; it calls this."""
        if self._figures is not None:
            yield from self._collect(self._figures)

    def _collect(self, figures: Figures) -> Iterator[Any]:
        info = self._families.InfoMetricFamily(_PREFIX[:-1], "The driver that wrote this.")
        info.add_metric([], {"version": __version__})
        yield info
        yield self._gauge("start_time_seconds", "When vif-agent started.", figures.since)
        vnics = self._families.GaugeMetricFamily(
            f"{_PREFIX}vnics", "External vNICs on this host.", labels=["attachment", "state"]
        )
        for (attachment, state), number in sorted(figures.vnics.items()):
            vnics.add_metric([attachment, state], number)
        yield vnics
        yield self._gauge("waiting", "vNICs that a start or hot plug waits for.", figures.waiting)
        yield self._counter(
            "stale_removed", "What VMs had left and was removed.", figures.stale_removed
        )
        yield self._gauge(
            "boot_stale_removed", "Rows that were removed at boot.", figures.boot_stale_removed
        )
        yield self._counter(
            "plugged_again", "Ports that VMs had lost, plugged again.", figures.plugged_again
        )
        yield self._counter(
            "switchovers",
            "VMs that have arrived by live migration.",
            figures.switchovers.count,
        )
        yield self._gauge(
            "switchover_worst_seconds",
            "The longest time from a VM's arrival until its ports had followed.",
            figures.switchovers.worst,
        )
        yield self._drops(figures)
        connected = self._families.GaugeMetricFamily(
            f"{_PREFIX}connected", "Whether a part of the host can be reached.", labels=["part"]
        )
        for part, is_connected in sorted(figures.connected.items()):
            if is_connected is not None:
                connected.add_metric([part], is_connected)
        yield connected
        yield self._gauge(
            "integration_bridge", "Whether the integration bridge is there.", figures.bridge_exists
        )
        yield self._counter("events", "Events of VDSM's that were answered.", figures.events)
        yield self._counter("events_failed", "Those that failed.", figures.events_failed)

    def _drops(self, figures: Figures) -> Any:
        drops = self._families.CounterMetricFamily(
            f"{_PREFIX}hybrid_dropped_packets",
            "What the devices of hybrid vNICs have dropped.",
            labels=["device", "direction"],
        )
        for (device, direction), packets in sorted(figures.hybrid_drops.items()):
            drops.add_metric([device, direction], packets)
        return drops

    def _gauge(self, name: str, what: str, value: float | None) -> Any:
        """Give a figure that goes up and down; without a value one without samples."""
        family = self._families.GaugeMetricFamily(_PREFIX + name, what)
        if value is not None:
            family.add_metric([], value)
        return family

    def _counter(self, name: str, what: str, value: int) -> Any:
        return self._families.CounterMetricFamily(_PREFIX + name, what, value=value)


def _load() -> Any:
    """Give the library, without what it needs for the web.

    Raises:
        ImportError: it is not installed.
    """
    try:
        with _nothing_for_the_web():
            return importlib.import_module("prometheus_client")
    except ImportError:
        raise
    except Exception:  # a release that asks more of what it imports
        return importlib.import_module("prometheus_client")


@contextlib.contextmanager
def _nothing_for_the_web() -> Iterator[None]:
    stand_ins = {name: _StandIn(name) for name in _FOR_THE_WEB if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


class _StandIn(types.ModuleType):
    """A module in which whatever is looked for is an empty class, to be derived from."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
