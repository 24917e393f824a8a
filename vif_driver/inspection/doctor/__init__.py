# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything on this host that a vNIC depends on, checked one by one.

Each check is a function that gives findings of one name, or a few; one that has nothing to check
on this host says so, and is ok.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from vif_driver.errors import VifError
from vif_driver.inspection.doctor import (
    certificates,
    libvirt,
    neutron,
    open_vswitch,
    ovn,
    tunnels,
    vnics,
)
from vif_driver.inspection.finding import Finding, of_error, unknown
from vif_driver.inspection.sight import Sight

Check = Callable[[Sight], Awaitable[list[Finding]]]

#: In the order in which they are shown: what comes first may be the cause of what comes later.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("open vswitch", open_vswitch.database),
    ("ovs-vswitchd", open_vswitch.daemon),
    ("integration bridge", open_vswitch.bridge),
    ("chassis name", ovn.identity),
    ("ovn-encap", ovn.encapsulation),
    ("ovn-remote", ovn.remote),
    ("certificate", certificates.certificate),
    ("ovn-controller", ovn.controller),
    ("southbound chassis", ovn.registration),
    ("mtu", tunnels.mtu),
    ("neutron agent", neutron.agents),
    ("neutron configuration", neutron.configuration),
    ("bridge netfilter", neutron.bridge_netfilter),
    ("libvirt", libvirt.connection),
    ("vnics", vnics.identities),
    ("rows", vnics.rows),
    ("versions", open_vswitch.version),
    ("versions", ovn.version),
    ("versions", libvirt.version),
)

# Seconds for one check: all it asks has deadlines that are shorter.
_TIMEOUT = 15.0


async def examine(sight: Sight) -> list[Finding]:
    """Make all checks, at the same time."""
    results = await asyncio.gather(*(_guarded(name, check, sight) for name, check in CHECKS))
    return [finding for result in results for finding in result]


async def _guarded(name: str, check: Check, sight: Sight) -> list[Finding]:
    try:
        return await asyncio.wait_for(check(sight), _TIMEOUT)
    except VifError as error:
        return [of_error(name, error)]
    except asyncio.TimeoutError:
        return [unknown(name, f"could not be checked within {_TIMEOUT:g} s")]
    except Exception as error:  # one check that fails must not hide the others
        return [unknown(name, f"the check failed ({type(error).__name__}: {error})")]
