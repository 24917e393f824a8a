# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns a fresh set of namespaces into the lab's anchor: ``anchor_boot.py FD``.

FD is a unix socket to the lab; one message on it says that the anchor stands (and, by the
credentials the kernel adds, which process it is).
"""

from __future__ import annotations

import os
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import mounts, reaper
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import mounts
    import reaper


def main() -> None:
    """Mount the lab's storage, report, and serve as pid 1."""
    report = socket.socket(fileno=int(sys.argv[1]))
    try:
        mounts.make_private()
        # Over /run: it exists everywhere, and hides the machine's own sockets and named netns.
        mounts.mount("lab", "/run", "tmpfs", mounts.MS_NODEV, "mode=0755")
        # No device nodes are needed on it, but overlay's whiteouts are character devices, which
        # nodev does not hinder.
        os.mkdir("/run/lab")
    except OSError as error:
        report.send(f"failed: {error}".encode())
        raise
    report.send(b"up")
    report.close()
    reaper.main()


if __name__ == "__main__":
    main()
