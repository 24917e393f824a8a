# SPDX-License-Identifier: GPL-2.0-or-later
"""Removes a lab's control groups when its anchor ends: ``cgroup_sweeper.py PARENT NAME PIDFD``.

Control groups are the one thing of a lab's that does not end with the processes in it.  This
program outlives the lab's owner, however that ends, by the moment that it takes to remove them.

PARENT is an open directory of the control group file system, NAME the lab's directory in it, PIDFD
a handle of the anchor.
"""

from __future__ import annotations

import os
import select
import sys
import time

# Seconds for the last processes to end; the anchor's end has killed them all.
PATIENCE = 30.0


def remove_tree(parent: int, name: str) -> bool:
    """Remove a control group and those below it.

    Args:
        parent: an open directory.
        name: of a directory in it.

    Returns:
        Whether it is gone; False while a process is in one of them.
    """
    try:
        for _, directories, _, handle in os.fwalk(name, topdown=False, dir_fd=parent):
            for directory in directories:
                os.rmdir(directory, dir_fd=handle)
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def main() -> None:
    """Wait for the anchor's end, then remove its control groups."""
    parent, name, anchor = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    waiting = select.poll()
    waiting.register(anchor, select.POLLIN)
    waiting.poll()
    end = time.monotonic() + PATIENCE
    while not remove_tree(parent, name) and time.monotonic() < end:
        time.sleep(0.01)


if __name__ == "__main__":
    main()
