# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the agent was handed the host's certificate as it is now.

systemd hands it a copy when it starts.  On a host whose image has the package it has started long
before the engine enrolls the host, and where a certificate is renewed it has the old one.
"""

from __future__ import annotations

from pathlib import Path

from vif_driver.errors import HostError
from vif_driver.host import certificates, whole_files
from vif_driver.host.certificates import Credentials

UNIT = "vif-agent.service"

#: Where systemd keeps what it hands over (systemd.exec(5), LoadCredential=), for root to see.
FOLDER = Path("/run/credentials") / UNIT


def is_current(credentials: Credentials) -> bool | None:
    """Tell whether the agent has these files as they are now; blocks.

    Args:
        credentials: those that systemd hands over.

    Returns:
        None if that can't be seen: the agent does not run, or this process is not root's.

    Raises:
        HostError: one cannot be read.
    """
    copies = certificates.in_folder(FOLDER)
    try:
        handed = [_read(copy) for copy in copies.files]
    except PermissionError:
        return None
    except OSError as error:
        raise HostError(f"{FOLDER} cannot be read ({error.strerror})", "see to it") from error
    if None in handed:
        return None  # the unit names something even where the host has no certificate
    for path, copy in zip(credentials.files, handed):
        try:
            if _read(path) != copy:
                return False
        except OSError as error:
            raise HostError(f"{path} cannot be read ({error.strerror})", "see to it") from error
    return True


def _read(path: Path) -> bytes | None:
    try:
        return whole_files.read(path)
    except FileNotFoundError:
        return None
