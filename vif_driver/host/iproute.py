# SPDX-License-Identifier: GPL-2.0-or-later
"""pyroute2's socket for devices and addresses, without the rest of that library.

``import pyroute2`` loads everything there is: a database with SQL, servers, a dozen families of
netlink.  That would be ten of the agent's sixty megabytes, and most of its time to start.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


def open_socket() -> Any:
    """Open an ``IPRoute``; see https://docs.pyroute2.org/iproute.html."""
    return _module("iproute").IPRoute()


def netlink_error() -> Any:
    """Give the class of what its calls raise when the kernel says no."""
    return _module("netlink.exceptions").NetlinkError


def _module(name: str) -> Any:
    if "pyroute2" not in sys.modules:
        spec = importlib.util.find_spec("pyroute2")
        folders = [] if spec is None else list(spec.submodule_search_locations or [])
        if not any(Path(folder, "iproute").is_dir() for folder in folders):
            # Until 0.6 that package is but a list of what there is in another one.
            return importlib.import_module(f"pr2modules.{name}")
        # A package whose __init__ is not run: its modules import each other by their full names.
        package = types.ModuleType("pyroute2")
        package.__path__ = folders
        package.__spec__ = spec
        sys.modules["pyroute2"] = package
    return importlib.import_module(f"pyroute2.{name}")
