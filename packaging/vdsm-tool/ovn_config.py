# SPDX-License-Identifier: GPL-2.0-or-later
"""``vdsm-tool ovn-config`` and ``ovn-unconfigure``, as oVirt's host deploy runs them.

vdsm-tool loads this with every command of its own, so the work is imported when it is done.  It
shows the docstrings of the commands as their usage (VDSM's static/usr/bin/vdsm-tool).
"""

from __future__ import annotations

from vdsm.tool import ExtraArgsError, expose


@expose("ovn-config")
def ovn_config(*args: str) -> int:
    """ovn-config CENTRAL TUNNEL [FQDN] [OPTION...]

    Make this host one of OVN's.

    Parameters:
    CENTRAL - IP address of OVN's southbound database; several with commas
    TUNNEL - this host's IP address for tunnels, or the VDSM network that has it
    FQDN - this host's name in the engine, by which OVN is to know it
    OPTION - as "vifctl configure ovn --help" lists them, such as --no-wait
    """  # noqa: D415, vdsm-tool prints it behind its own name
    given = [word for word in args[1:] if word]  # the engine gives an empty name if it has none
    # Values of options can't be told from parameters here; those are left to vifctl to count.
    if not any(word.startswith("-") for word in given) and not 2 <= len(given) <= 3:
        raise ExtraArgsError(n=2)
    from vif_driver import ctl

    return ctl.main(["configure", "ovn", *_ipsec(given), *given])


@expose("ovn-unconfigure")
def ovn_unconfigure(*args: str) -> int:
    """ovn-unconfigure [--force]

    Have this host be none of OVN's any more.

    Parameters:
    --force - even if VMs on this host lose their networks by it
    """  # noqa: D415, see above
    if args[1:] not in ((), ("--force",)):
        raise ExtraArgsError()
    from vif_driver import ctl

    return ctl.main(["configure", "ovn", "--undo", *args[1:]])


def _ipsec(given: list[str]) -> list[str]:
    # VDSM takes a host for one of OVN's only if openvswitch-ipsec runs (its network/ovn.py).  But
    # nobody has asked for it, so the host isn't to be without OVN if it doesn't start.
    return [] if "--no-ssl" in given or "--ipsec" in given else ["--ipsec-if-possible"]
