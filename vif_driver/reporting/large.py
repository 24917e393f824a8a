# SPDX-License-Identifier: GPL-2.0-or-later
"""Adding to a report of any size, without the agent standing still or growing for it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

from vif_driver.errors import BadRequest, HostError
from vif_driver.host import threads
from vif_driver.reporting import document

#: Bytes of a report that takes a few milliseconds to read and write.  One of megabytes takes
#: tenths of a second, and leaves ten times its size of memory in pieces behind.
SMALL = 256 * 1024

#: Seconds that the other process may take.
TIMEOUT = 5.0


async def add(report: bytes, own: Any, binding_ids: dict[str, str]) -> bytes:
    """Add to a report; see :func:`document.add`.

    Raises:
        BadRequest: it is not what VDSM writes.
        HostError: it could not be read in time.
    """
    try:
        if len(report) <= SMALL:
            return document.add(report, own, binding_ids)
        more = json.dumps([own, binding_ids]).encode()
        return await threads.run(
            lambda: _in_other_process(more + b"\n" + report), TIMEOUT + 1.0, "report"
        )
    except ValueError as error:
        raise BadRequest(
            f"VDSM's report is not the JSON that VDSM writes ({error}) and was left alone",
            "see which of the hooks before this one has changed it",
        ) from error
    except (OSError, subprocess.SubprocessError, asyncio.TimeoutError) as error:
        raise HostError(
            f"VDSM's report of {len(report)} bytes was not read ({error!r}) and left alone",
            "see whether the host is overloaded",
        ) from error


def _in_other_process(question: bytes) -> bytes:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-S", document.__file__],
        input=question,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stdout.decode("utf-8", "replace") or "it cannot be read")
    return done.stdout
