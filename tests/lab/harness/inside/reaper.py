# SPDX-License-Identifier: GPL-2.0-or-later
"""The smallest useful pid 1: collects orphans, and ends on SIGTERM.

It is pid 1 of the lab's anchor and, unless a test asks for another init, of every machine.  When
it ends, the kernel kills everything in its pid namespace: that is how a machine loses its power.
"""

from __future__ import annotations

import os
import signal


def collect_children() -> None:
    """Reap every child that has ended."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def main() -> None:
    """Serve as pid 1 until SIGTERM."""
    watched = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    collect_children()
    while signal.sigwait(watched) != signal.SIGTERM:
        collect_children()


if __name__ == "__main__":
    main()
