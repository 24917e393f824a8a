# SPDX-License-Identifier: GPL-2.0-or-later
"""vif-agent, killed by SIGKILL at a given point of its code, once.

``doomed_agent.py [--supervised|--frozen] MODULE:NAME before|after COUNT FLAG``: NAME is a function
or a method of the installed package.  The process kills itself before the COUNTth call of it, or
after it; the file FLAG says that it has, so that the next agent lives.

With ``--frozen`` it stops itself there instead (SIGSTOP), until somebody lets it go on.

With ``--supervised`` it is started as systemd would: this process makes the socket, keeps it open,
and starts the agent again whenever it dies.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import pwd
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOCKET = "/run/vif-driver/agent.sock"
# As tmpfiles.d has them; in the last one VDSM's user writes.
FOLDERS = [Path("/run/vif-driver", name) for name in (".", "starting", "released")]
FIRST_HANDED = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


def doom(function: str, when: str, count: int, flag: Path, number: int) -> None:
    """Have the process send itself a signal at a call of a function."""
    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for step in outer:
        owner = getattr(owner, step)
    setattr(owner, name, deadly(getattr(owner, name), when, count, flag, number))


def deadly(
    function: Callable[..., Any], when: str, count: int, flag: Path, number: int
) -> Callable[..., Any]:
    """Wrap a function so that one call of it is deadly."""
    calls = 0

    def reached(point: str) -> None:
        nonlocal calls
        if point == "before":
            calls += 1
        if point == when and calls == count and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), number)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        reached("before")
        result = function(*arguments, **named)
        reached("after")
        return result

    @functools.wraps(function)
    async def wait(*arguments: Any, **named: Any) -> Any:
        reached("before")
        result = await function(*arguments, **named)
        reached("after")
        return result

    return wait if asyncio.iscoroutinefunction(function) else call


def serve() -> None:
    """Be the agent."""
    from vif_driver.agent.main import main

    sys.exit(main([]))


def supervise() -> None:
    """Keep an agent running until SIGTERM, which it is handed; returns in each agent."""
    vdsm = pwd.getpwnam("vdsm").pw_uid
    for folder in FOLDERS:
        folder.mkdir(exist_ok=True)
    os.chown(FOLDERS[-1], vdsm, 0)
    Path(SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    os.chown(SOCKET, vdsm, 0)
    os.chmod(SOCKET, 0o600)
    listener.listen(128)
    child = 0
    ending = False

    def end(_number: int, _frame: object) -> None:
        nonlocal ending
        ending = True
        if child:
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    while not ending:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            handle = listener.detach()  # or it would be closed on the way out of here
            if handle != FIRST_HANDED:
                os.dup2(handle, FIRST_HANDED)
            os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
            return
        os.waitpid(child, 0)
    sys.exit(0)


def main() -> None:
    """Read the command line, see above."""
    *options, function, when, count, flag = sys.argv[1:]
    if options == ["--supervised"]:
        supervise()
    number = signal.SIGSTOP if options == ["--frozen"] else signal.SIGKILL
    doom(function, when, int(count), Path(flag), number)
    serve()


if __name__ == "__main__":
    main()
