# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes this host one of OVN's, and undoes it: ``vifctl configure ovn``.

Open vSwitch is never restarted: what it would read at its start is written down beside what is
changed in its database.  ovn-controller goes on, too, and takes up what has changed in the
database; but for a new name of the chassis, which it does not take up (ovn-controller(8),
system-id).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from vif_driver.configuration import ovn_registered, ovs_settings, tls, tunnel
from vif_driver.configuration.agent_credentials import AgentHasCredentials
from vif_driver.configuration.files import FileContent
from vif_driver.configuration.ovn import KEYS, Wanted, ipsec_keys
from vif_driver.configuration.ovs_settings import OpenVSwitchSettings
from vif_driver.configuration.services import OPEN_VSWITCH, ServiceState
from vif_driver.configuration.transaction import Transaction
from vif_driver.errors import HostError
from vif_driver.host import certificates, handed_credentials, ovn_controller, units
from vif_driver.host.certificates import FOLDER, Credentials
from vif_driver.host.ovs_settings import Settings, Tls
from vif_driver.host.units import Unit

CONTROLLER = "ovn-controller.service"
IPSEC = ("openvswitch-ipsec.service",)

#: Open vSwitch's parts, on EL and Debian.
DATABASE, SWITCH = "ovsdb-server.service", "ovs-vswitchd.service"

# What has ovn-controller started at boot where its own unit has no [Install]: Debian's.
_CONTROLLERS = "ovn-host.service"

#: Where the scripts that start Open vSwitch have its system-id from (ovs-ctl, --system-id=random).
SYSTEM_ID = Path("/etc/openvswitch/system-id.conf")

#: Tells which VMs have vNICs of OVN's here, by their names.
Vms = Callable[[], Sequence[str]]


def check(wanted: Wanted) -> tuple[Unit, Unit]:
    """Find out, without changing anything, whether this host can be what is wanted.

    Returns:
        Open vSwitch's unit, and that by which ovn-controller is started at boot.

    Raises:
        HostError: it cannot.
    """
    open_vswitch = units.first(*OPEN_VSWITCH)
    if open_vswitch is None:
        raise HostError("this host has no Open vSwitch", "install the package openvswitch")
    boot = _boot_unit()
    if boot is None:
        raise HostError("this host has no ovn-controller", "install the package ovn-host")
    if wanted.credentials is not None:
        tls.check(wanted.credentials)
    return open_vswitch, boot


def join(
    wanted: Wanted, changes: Transaction, vms: Vms, *, timeout: float | None, force: bool
) -> list[str]:
    """Make this host one of OVN's.

    Args:
        wanted: what it is to be like.
        changes: makes the changes.
        vms: tells who would lose their networks by a new name, or another OVN.
        timeout: seconds in which OVN has to know the host; None if that does not matter.
        force: whoever loses them.

    Returns:
        What else is to be said.

    Raises:
        HostError: it cannot be done; what was changed is to be taken back.
    """
    open_vswitch, boot = check(wanted)
    address = asyncio.run(tunnel.find(wanted.tunnel))
    changes.make(ServiceState(open_vswitch.name, enabled=True))
    # It has nothing to run itself, and need not have been started with its parts.
    switch = open_vswitch if not units.look(SWITCH).is_active else units.look(SWITCH)
    changes.make(ServiceState(switch.name, active=True, keeps_running=True))
    now = ovs_settings.look()
    name = _chassis_name(wanted, now)
    settings = wanted.external_ids(address, name, now.external_ids)
    renamed = name != _chassis_name(None, now)
    if renamed and "ovn-remote" in now.external_ids and not force:
        _refuse_for(vms(), f"its chassis' name changes from {_chassis_name(None, now)} to {name}")
    remote = now.external_ids.get("ovn-remote")
    if remote and not wanted.shares_central(remote) and not force:
        # Another OVN does not know their ports, and has this host let go of them.
        why = f"OVN's southbound database would no longer be {remote} but {wanted.remote}"
        _refuse_for(vms(), why)
    if renamed or "ovn-remote" not in now.external_ids:
        hostname = now.external_ids.get("hostname")
        asyncio.run(ovn_registered.refuse_taken(wanted, address, name, hostname))
    if wanted.fqdn is not None:
        content = f"{wanted.fqdn}\n".encode()
        changes.make(FileContent(SYSTEM_ID, content, f"{SYSTEM_ID} has {wanted.fqdn}"))
    if renamed and units.look(CONTROLLER).is_active:
        # It signs off under its old name while it still has it.
        changes.note(ServiceState(CONTROLLER, active=True))
        units.stop(CONTROLLER)
    maps = {"external_ids": settings, "other_config": _encryption(wanted, now)}
    changes.make(OpenVSwitchSettings(maps, _named_tls(wanted, now)))
    changes.make(ServiceState(boot.name, enabled=True))
    changes.make(ServiceState(CONTROLLER, active=True))
    notes = _make_ipsec_run(wanted, changes, name)
    if timeout is not None:
        asyncio.run(ovn_registered.wait(wanted, address, name, timeout))
    if wanted.credentials is not None and wanted.credentials.certificate.parent == FOLDER:
        notes += _hand_over(wanted.credentials, changes)
    return notes


def leave(changes: Transaction, vms: Vms, *, force: bool) -> list[str]:
    """Have this host be none of OVN's any more; see :func:`join`.

    Its name stays: Open vSwitch needs one, with OVN or without.
    """
    if units.first(*OPEN_VSWITCH) is None:
        return ["this host has no Open vSwitch: there is nothing to be taken away"]
    database = units.look(DATABASE)
    if database.is_there and not database.is_active:
        # For so long as it takes to change the database.
        changes.note(ServiceState(DATABASE, active=True))
        units.start(DATABASE)
    now = ovs_settings.look()
    if "ovn-remote" in now.external_ids and not force:
        _refuse_for(vms(), "it would leave OVN")
    notes = []
    if "ovn-remote" in now.external_ids and not units.look(CONTROLLER).is_active:
        notes.append(
            "ovn-controller did not run, so nobody told OVN: if it still lists this host, "
            f"ovn-sbctl chassis-del {_chassis_name(None, now)} where its databases are"
        )
    # It signs off, which it can only while it is told where.
    boot = _boot_unit()
    for name in dict.fromkeys((CONTROLLER, CONTROLLER if boot is None else boot.name)):
        changes.make(ServiceState(name, active=False, enabled=False))
    encrypted = _ipsec_settings(now)
    # Or a run that this one finishes has taken that away before it was killed.
    was_encrypted = encrypted or any(
        before["maps"].get("other_config") for before in changes.noted(OpenVSwitchSettings)
    )
    gone: dict[str, str | None] = dict.fromkeys(KEYS)
    maps = {"external_ids": gone, "other_config": encrypted}
    unnamed: tuple[Tls | None, ...] = (None,) if now.tls is not None and now.tls.is_ours else ()
    changes.make(OpenVSwitchSettings(maps, unnamed))
    ipsec = units.first(*IPSEC)
    if was_encrypted and ipsec is not None:
        changes.make(ServiceState(ipsec.name, active=False, enabled=False))
    was_started = any(
        before["name"] == DATABASE and before["active"] is False
        for before in changes.noted(ServiceState)
    )
    if was_started and not units.look(SWITCH).is_active:
        units.stop(DATABASE)
    return notes


def _boot_unit() -> Unit | None:
    """Give the unit by which ovn-controller is started at boot; None if it is not installed."""
    controller = units.look(CONTROLLER)
    if not controller.is_there:
        return None
    if controller.is_enabled is not None:
        return controller
    return units.first(_CONTROLLERS) or controller


def _chassis_name(wanted: Wanted | None, now: Settings) -> str:
    configured = now.external_ids.get("system-id")
    fqdn = None if wanted is None else wanted.fqdn
    name = ovn_controller.chassis_name(fqdn or configured)
    if name is None:
        raise HostError(
            "this host has no system-id", "give its name, or start Open vSwitch by its unit"
        )
    if fqdn is not None and name != fqdn:
        raise HostError(
            f"{ovn_controller.SYSTEM_ID_OVERRIDE} goes before the name {fqdn}", "remove that file"
        )
    return name


def _refuse_for(vms: Sequence[str], why: str) -> None:
    if vms:
        raise HostError(
            f"{', '.join(vms)} on this host would lose the network: {why}",
            "put the host into maintenance first, or say --force",
        )


def _named_tls(wanted: Wanted, now: Settings) -> tuple[Tls | None, ...]:
    """Give what the database is to name, if that is to be changed.

    Raises:
        HostError: somebody else has named files there, and ovn-controller would use those.
    """
    if wanted.credentials is None:
        return (None,) if now.tls is not None and now.tls.is_ours else ()
    if now.tls is not None and not now.tls.is_ours and now.tls.credentials != wanted.credentials:
        raise HostError(
            "Open vSwitch's database names another certificate, which ovn-controller would use: "
            f"{now.tls.credentials.certificate}",
            "give that one and its key (ovs-vsctl get-ssl), or remove it: ovs-vsctl del-ssl",
        )
    return (Tls(wanted.credentials),)


def _hand_over(credentials: Credentials, changes: Transaction) -> list[str]:
    """Have the agent started anew for the certificate; OVN serves this host in any case."""
    error = changes.attempt(AgentHasCredentials(credentials))
    if error is None:
        return []
    return [
        f"vif-agent does not have this host's certificate so far: {error.what}; {error.remedy}, "
        f"then: systemctl restart {handed_credentials.UNIT}"
    ]


def _make_ipsec_run(wanted: Wanted, changes: Transaction, name: str) -> list[str]:
    if not wanted.ipsec or wanted.credentials is None:
        return []
    service = units.first(*IPSEC)
    if service is None:
        return [
            "tunnels cannot be encrypted: this host has no openvswitch-ipsec; if OVN is to encrypt "
            "them, install it and run this again"
        ]
    start = ServiceState(service.name, active=True, enabled=True)
    if wanted.ipsec_may_fail:
        error = changes.attempt(start)
        if error is not None:
            return [
                f"tunnels cannot be encrypted: {error.what}; if OVN is to encrypt them, "
                f"{error.remedy}, and run this again"
            ]
    else:
        changes.make(start)
    certificate = wanted.credentials.certificate
    if name in certificates.names(certificate):
        return []
    # It says who sends; ovs-monitor-ipsec has the other hosts expect the chassis' name.
    return [
        f"tunnels cannot be encrypted: {certificate} is not made out to {name}; if OVN is to "
        f"encrypt them, {certificates.ENROLL}"
    ]


def _encryption(wanted: Wanted, now: Settings) -> dict[str, str]:
    """Give what is to be set for IPsec; once it is set, it follows the certificate."""
    if wanted.credentials is not None and (wanted.ipsec or _ipsec_settings(now)):
        return ipsec_keys(wanted.credentials)
    return {}


def _ipsec_settings(now: Settings) -> dict[str, str | None]:
    """Give what we have set for IPsec, to be taken away: our certificate in its keys."""
    if now.tls is None:
        return {}
    ours = ipsec_keys(now.tls.credentials)
    there = now.maps["other_config"]
    return dict.fromkeys(ours) if ours.items() <= there.items() else {}
