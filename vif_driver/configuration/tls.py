# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether key, certificate and CA will do, before anything is changed."""

from __future__ import annotations

import datetime

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import certificates
from vif_driver.host.certificates import FOLDER, Credentials

_GIVEN = "give files that fit together, in PEM format"


def check(credentials: Credentials) -> None:
    """See that a server can accept them; blocks.

    Raises:
        HostError: a file is missing, they don't fit together, or one has expired.
        Unavailable: that can't be told on this host.
    """
    remedy = certificates.ENROLL_FIRST if credentials.certificate.parent == FOLDER else _GIVEN
    for path in credentials.files:
        if not path.is_absolute():
            raise HostError(f"{path} is no absolute path", "ovn-controller has to find it, too")
        if not path.is_file():
            raise HostError(f"{path} is not there", f"{remedy}, or say --no-ssl")
    try:
        certificates.context(credentials)
        certificates.require_signed(credentials)
        ends = {
            credentials.certificate: certificates.expiry(credentials.certificate),
            credentials.ca: certificates.last_expiry(credentials.ca),
        }
    except Unavailable:
        raise
    except HostError as error:
        raise HostError(error.what, remedy) from error
    for path, end in ends.items():
        if end < datetime.datetime.now(datetime.timezone.utc):
            raise HostError(f"{path} expired on {end:%Y-%m-%d}", remedy)
