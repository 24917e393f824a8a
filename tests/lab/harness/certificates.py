# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates on the lab's machines."""

from __future__ import annotations

from pathlib import Path

from vif_driver.host.certificates import FOLDER, Credentials, in_folder

from .machine import Machine


def give(machine: Machine, credentials: Credentials, folder: Path = FOLDER) -> Credentials:
    """Copy credentials to a machine, as of now in the place of those that it has there.

    Args:
        machine: which.
        credentials: files of this computer.
        folder: where to; by default where oVirt's host deploy puts those for OVN.

    Returns:
        The files on the machine.
    """
    theirs = in_folder(folder)
    for ours, path in zip(credentials.files, theirs.files):
        machine.write(path, ours.read_text(), mode=0o600)
    return theirs
