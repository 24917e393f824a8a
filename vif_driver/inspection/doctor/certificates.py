# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the certificate with which this host speaks to OVN."""

from __future__ import annotations

import datetime

from vif_driver.errors import VifError
from vif_driver.host import certificates, handed_credentials, threads
from vif_driver.host.certificates import ENROLL, Credentials
from vif_driver.host.southbound import parse_remotes
from vif_driver.inspection.doctor.open_vswitch import uses_ovn
from vif_driver.inspection.finding import Finding, bad, of_error, ok, warning
from vif_driver.inspection.sight import Sight

_NAME = "certificate"

#: Days before its end from which on a certificate is told of.
SOON = 30

# Seconds; three runs of openssl.
_TIMEOUT = 10.0


async def certificate(sight: Sight) -> list[Finding]:
    """Look at key, certificate and CA, where OVN is reached by TLS."""
    if not await uses_ovn(sight):
        return [ok(_NAME, "this host is none of OVN's")]
    remote = sight.ovn_setting("ovn-remote") or ""
    try:
        kinds = {member.kind for member in parse_remotes(remote)}
    except VifError:
        kinds = set()
    if "ssl" not in kinds:
        return [ok(_NAME, "OVN is not reached by TLS")]
    used = await sight.controllers_credentials() or certificates.in_folder()
    return await threads.run(lambda: [*judge(used), *agents(used)], _TIMEOUT, "certificates")


def agents(used: Credentials) -> list[Finding]:
    """Judge what the agent has of it, as far as this process may see that; blocks."""
    if used != certificates.in_folder():
        return []  # nobody hands it those
    try:
        is_current = handed_credentials.is_current(used)
    except VifError as error:
        return [of_error(_NAME, error)]
    if is_current is not False:
        return []
    what = f"vif-agent was handed another one than is in {certificates.FOLDER} now, or none"
    return [
        warning(_NAME, what, f"systemctl restart {handed_credentials.UNIT}, which disturbs no VM")
    ]


def judge(used: Credentials) -> list[Finding]:
    """Judge three files; blocks."""
    missing = [path for path in used.files if not path.exists()]
    if missing:
        return [bad(_NAME, f"{missing[0]} is not there", ENROLL)]
    try:
        certificates.require_pair(used)
        certificates.require_signed(used)
        ends = {
            used.certificate: certificates.expiry(used.certificate),
            used.ca: certificates.last_expiry(used.ca),
        }
    except VifError as error:
        return [of_error(_NAME, error)]
    path = min(ends, key=lambda file: ends[file])
    days = (ends[path] - datetime.datetime.now(datetime.timezone.utc)).days
    if days < 0:
        return [bad(_NAME, f"{path} expired on {ends[path]:%Y-%m-%d}", ENROLL)]
    if days < SOON:
        return [warning(_NAME, f"{path} expires in {days} days", ENROLL)]
    return [ok(_NAME, f"{used.certificate}, good until {ends[path]:%Y-%m-%d}")]
