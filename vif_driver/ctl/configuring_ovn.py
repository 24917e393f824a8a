# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl configure ovn``, and what ``vdsm-tool ovn-config`` makes of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vif_driver.configuration import ovn, ovn_host, tunnel
from vif_driver.configuration.ovn import Wanted
from vif_driver.ctl.changing import tell, transaction_of
from vif_driver.ctl.look import look
from vif_driver.host import certificates
from vif_driver.host.certificates import Credentials
from vif_driver.inspection import vnics

_COMMAND = "vifctl configure ovn"


def run(options: argparse.Namespace, *, as_json: bool) -> int:
    """Make this host one of OVN's.

    Args:
        options: as ``vifctl configure`` takes them.
        as_json: for programs.
    """
    wanted = Wanted(
        centrals=ovn.parse_centrals(options.central),
        tunnel=tunnel.parse(options.tunnel),
        fqdn=ovn.parse_fqdn(options.fqdn) if options.fqdn else None,
        encaps=ovn.parse_encaps(options.encap),
        credentials=_credentials(options),
        ipsec=options.ipsec or options.ipsec_if_possible,
        ipsec_may_fail=not options.ipsec,
    )
    timeout = None if options.no_wait else options.timeout
    with transaction_of(_COMMAND, repr(wanted)) as changes:
        notes = ovn_host.join(wanted, changes, _vms, timeout=timeout, force=options.force)
    return tell(_COMMAND, changes, notes, as_json=as_json)


def undo(*, force: bool, as_json: bool) -> int:
    """Take OVN away from this host."""
    command = f"{_COMMAND} --undo"
    with transaction_of(command, command) as changes:
        notes = ovn_host.leave(changes, _vms, force=force)
    return tell(command, changes, notes, as_json=as_json)


def _credentials(options: argparse.Namespace) -> Credentials | None:
    if options.no_ssl:
        return None
    if options.private_key is None:
        return certificates.in_folder()
    files = (options.private_key, options.certificate, options.ca_cert)
    return Credentials(*map(Path, files))


def _vms() -> Sequence[str]:
    """Name the VMs that have vNICs of OVN's on this host.

    Those that libvirt does not tell of, as it does not answer, are known by their ports.
    """
    found, _ = look(vnics.find)
    return sorted(
        {
            f"VM {vnic.vm_name or vnic.identity.vm_id or f'of vNIC {vnic.id}'}"
            for vnic in found
            if vnic.attachment == vnics.OVN and vnic.vm_state != vnics.GONE
        }
    )
