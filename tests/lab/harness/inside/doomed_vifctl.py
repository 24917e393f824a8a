# SPDX-License-Identifier: GPL-2.0-or-later
"""vifctl, killed by SIGKILL at a given point of its code.

``doomed_vifctl.py MODULE:NAME before|after COUNT FLAG ARGUMENT...``: as ``doomed_agent.py`` has it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .doomed_agent import doom
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from doomed_agent import doom


def main() -> None:
    """Read the command line, see above."""
    function, when, count, flag, *arguments = sys.argv[1:]
    doom(function, when, int(count), Path(flag), signal.SIGKILL)
    from vif_driver import ctl

    sys.exit(ctl.main(arguments))


if __name__ == "__main__":
    main()
