# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for VDSM: the life of a VM on a host, with every hook where VDSM runs it.

libvirt, QEMU and the hooks are real; what is replaced is VDSM's own bookkeeping.
"""

from __future__ import annotations

import threading
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from .deadline import wait_until
from .guest import Guest, GuestSpec, begin_console
from .hypervisor import VDSM_USER, Hypervisor
from .libvirt_daemon import libvirt
from .nic import FILTER_XML, Nic
from .vdsm_hooks import HookRun, HookRunner

START_PAUSED = 1
# MiB/s: a guest's memory takes more than a minute, or less than a second.
CRAWL = 1
HURRY = 1000


class UpdateFailed(Exception):
    """VDSM could not change a NIC; the cause is the hook's or libvirt's error."""


@dataclass
class Vm:
    """A VM as VDSM knows it.

    Attributes:
        name: of the domain.
        id: of the VM, the domain's uuid.
        nics: its NICs, as they are now.
        custom: custom properties of the VM.
        guest: the running guest; None before it was created.
        dhcp: the guest asks for addresses.
        checksum_offload: see :class:`GuestSpec`.
        device_xml: per NIC (by alias) the XML that the ``before`` hook returned.
        plugged_later: aliases of the NICs that it was not started with.
    """

    name: str
    nics: list[Nic] = field(default_factory=list)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    custom: dict[str, str] = field(default_factory=dict)
    dhcp: bool = True
    checksum_offload: bool = False
    guest: Guest | None = None
    device_xml: dict[str, bytes] = field(default_factory=dict)
    plugged_later: set[str] = field(default_factory=set)

    @property
    def running(self) -> Guest:
        """The guest.

        Raises:
            RuntimeError: the VM was not created.
        """
        if self.guest is None:
            raise RuntimeError(f"{self.name} was not created")
        return self.guest

    @property
    def launch_flags_path(self) -> str:
        """Where VDSM keeps the start flags while it makes the VM."""
        return f"/run/vdsm/{self.id}/launchflags"


class Vdsm:
    """VDSM of one host.  Its methods may be called from several threads, for different VMs.

    Args:
        host: the hypervisor.

    Attributes:
        hooks: runs the hooks, and remembers the runs.
    """

    def __init__(self, host: Hypervisor) -> None:
        self.host = host
        self.hooks = HookRunner(host)
        self._filter_lock = threading.Lock()
        self._filter_defined_for = 0

    @property
    def runs(self) -> list[HookRun]:
        """Every run of a hook so far."""
        return self.hooks.runs

    # ---- a VM's life -------------------------------------------------------------------------

    def create_vm(self, vm: Vm, *, paused: bool = False) -> Guest:
        """Start a VM.

        Args:
            vm: which.
            paused: the engine asks for a paused start.

        Returns:
            The guest, which boots (or stands still, if a hook or the engine wanted that).

        Raises:
            HookError: a hook refused.
            libvirt.libvirtError: libvirt refused.
        """
        self._define_filter(vm.nics)
        self._write_launch_flags(vm, START_PAUSED if paused else 0)
        try:
            for nic in vm.nics:
                vm.device_xml[nic.alias] = self._device_hook("before_device_create", vm, nic)
            domain_xml = self._domain_xml(vm).encode()
            domain_xml = self._vm_hook("before_vm_start", vm, domain_xml)
            flags = int(self.host.read(vm.launch_flags_path))
            begin_console(self.host, vm.name)
            self.host.libvirt.connection.createXML(domain_xml.decode(), flags)
            vm.guest = Guest(self.host, vm.name)
            self._vm_hook("after_vm_start", vm, vm.guest.xml.encode())
            for nic in vm.nics:
                self._device_hook("after_device_create", vm, nic, self._kept_xml(vm, nic))
        finally:
            self.host.path(vm.launch_flags_path).unlink(missing_ok=True)
        return vm.guest

    def create_vms(self, vms: Sequence[Vm], *, paused: bool = False) -> None:
        """Start several VMs at the same time; raises the first error, after all have ended."""
        errors: list[BaseException] = []

        def start(vm: Vm) -> None:
            try:
                self.create_vm(vm, paused=paused)
            except BaseException as error:  # handed to the caller's thread
                errors.append(error)

        threads = [threading.Thread(target=start, args=(vm,)) for vm in vms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def destroy_vm(self, vm: Vm) -> None:
        """Stop a VM, or clean up after one that stopped by itself or failed to start.

        VDSM runs the hooks for every device, whether or not it was ever plugged.
        """
        xml = self._domain_text(vm)
        for nic in vm.nics:
            self._device_hook("before_device_destroy", vm, nic, self._kept_xml(vm, nic))
        self._vm_hook("before_vm_destroy", vm, xml)
        if vm.guest is not None:
            vm.guest.destroy()
        self._vm_hook("after_vm_destroy", vm, xml)
        for nic in vm.nics:
            self._device_hook("after_device_destroy", vm, nic, self._kept_xml(vm, nic))
        vm.guest = None

    def resume_vm(self, vm: Vm) -> None:
        """Resume a VM, as the engine asks for."""
        vm.running.domain.resume()

    # ---- NICs of a running VM ----------------------------------------------------------------

    def hotplug(self, vm: Vm, nic: Nic) -> None:
        """Plug a NIC into a running VM.

        Raises:
            HookError: a hook refused.
            libvirt.libvirtError: libvirt refused.
        """
        self._define_filter([nic])
        xml = self._device_hook("before_nic_hotplug", vm, nic)
        vm.device_xml[nic.alias] = xml
        try:
            vm.running.domain.attachDevice(xml.decode())
        except libvirt.libvirtError:
            self._device_hook("after_nic_hotplug_fail", vm, nic, xml)
            raise
        vm.nics.append(nic)
        vm.plugged_later.add(nic.alias)
        self._device_hook("after_nic_hotplug", vm, nic, self.live_xml(vm, nic))

    def hotunplug(self, vm: Vm, nic: Nic, timeout: float = 30.0) -> None:
        """Take a NIC from a running VM.

        Args:
            vm: which.
            nic: which.
            timeout: seconds that the guest may take to let go of it.
        """
        xml = self._device_hook("before_nic_hotunplug", vm, nic)
        try:
            vm.running.domain.detachDevice(xml.decode())
            what = f"{self.host.name}: {vm.name}: NIC {nic.mac} gone"
            wait_until(lambda: not self.live_xml(vm, nic), timeout, what, interval=0.05)
        except (libvirt.libvirtError, TimeoutError):
            self._device_hook("after_nic_hotunplug_fail", vm, nic, xml)
            raise
        vm.nics = [other for other in vm.nics if other.alias != nic.alias]
        self._device_hook("after_nic_hotunplug", vm, nic, xml)

    def update_nic(self, vm: Vm, nic: Nic, **changes: Any) -> Nic:
        """Change a NIC of a running VM: link state, network, custom properties, MTU.

        The XML is built anew from VDSM's model of the NIC, so it holds nothing a hook once added.

        Args:
            vm: which.
            nic: which.
            changes: attributes of :class:`Nic`.

        Returns:
            The NIC as it is now.

        Raises:
            UpdateFailed: the hook or libvirt refused; the NIC is as it was.
        """
        changed = replace(nic, **changes)
        self._define_filter([changed])
        xml = changed.xml().encode()
        try:
            xml = self._device_hook("before_update_device", vm, changed)
            live = libvirt.VIR_DOMAIN_AFFECT_LIVE
            vm.running.domain.updateDeviceFlags(xml.decode(), live)
        except Exception as error:
            self._device_hook("after_update_device_fail", vm, changed, xml)
            raise UpdateFailed(str(error)) from error
        vm.device_xml[changed.alias] = xml
        vm.nics = [changed if other.alias == nic.alias else other for other in vm.nics]
        self._device_hook("after_update_device", vm, changed, xml)
        return changed

    # ---- migration ---------------------------------------------------------------------------

    def migrate(
        self,
        vm: Vm,
        target: Vdsm,
        *,
        flags: int = 0,
        parameters: Mapping[str, Any] | None = None,
        meanwhile: Callable[[], object] | None = None,
        after_on_target: bool = True,
        after_on_source: bool = True,
    ) -> None:
        """Move a running VM to another host, live and peer to peer.

        Args:
            vm: which; afterwards its guest is on the target.
            target: the other host's VDSM.
            flags: more flags of migrateToURI3, such as VIR_MIGRATE_POSTCOPY.
            parameters: more parameters of it.
            meanwhile: what is done while the guest's memory is on its way, in a thread of its own;
                the guest does not arrive before it is done, and its error is raised.
            after_on_target: run the target's hooks when the migration has completed.
            after_on_source: run the source's.

        Raises:
            HookError: a hook refused before anything was moved.
            libvirt.libvirtError: the migration failed or was aborted; no hook of the target is run
                then, and the guest goes on here.
        """
        guest = vm.running
        before = {nic.alias: self._last_xml(vm, nic) for nic in vm.nics}
        for nic in vm.nics:
            self._device_hook("before_device_migrate_source", vm, nic, before[nic.alias])
        self._vm_hook("before_vm_migrate_source", vm, guest.xml.encode())
        target._define_filter(vm.nics)
        for nic in vm.nics:
            # What this hook returns is ignored: the domain's XML comes with the migration.
            target._device_hook("before_device_migrate_destination", vm, nic, b"")
        wanted = (
            libvirt.VIR_MIGRATE_LIVE
            | libvirt.VIR_MIGRATE_PEER2PEER
            | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
            | flags
        )
        if target.host not in guest.hosts:
            begin_console(target.host, vm.name)
        address = target.host.management_address
        options = dict(parameters or {})
        if not flags & libvirt.VIR_MIGRATE_TUNNELLED:  # which goes over libvirt's own connection
            options["migrate_uri"] = f"tcp://{address}"
        acting: AbstractContextManager[None] = nullcontext()
        if meanwhile:
            options["bandwidth"] = CRAWL
            acting = on_its_way(guest.domain, meanwhile)
        with self.host.libvirt.connection_for_long() as connection, acting:
            domain = connection.lookupByUUIDString(vm.id)
            domain.migrateToURI3(f"qemu+tcp://{address}/system", options, wanted)
        guest.host = target.host
        if after_on_target:
            for nic in vm.nics:
                xml = target.live_xml(vm, nic)
                target._device_hook("after_device_migrate_destination", vm, nic, xml)
            target._vm_hook("after_vm_migrate_destination", vm, guest.xml.encode())
        if after_on_source:
            for nic in vm.nics:
                self._device_hook("after_device_migrate_source", vm, nic, before[nic.alias])
            self._vm_hook("after_vm_migrate_source", vm, guest.xml.encode())

    # ---- the host ----------------------------------------------------------------------------

    def get_capabilities(self, capabilities: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Answer getCapabilities, starting from what is given."""
        return self.hooks.run_json("after_get_caps", capabilities or {"cpuCores": "2"})

    def get_stats(self, statistics: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Answer getStats, starting from what is given."""
        return self.hooks.run_json("after_get_stats", statistics or {"memUsed": "10"})

    def setup_networks(
        self,
        networks: Mapping[str, Any] | None = None,
        bondings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run what comes before setupNetworks, and return the request as the hooks leave it.

        Raises:
            HookError: a hook refused.
        """
        request = {
            "networks": networks or {},
            "bondings": bondings or {},
            "options": options or {},
        }
        return self.hooks.run_json("before_network_setup", {"request": request})

    # ---- inside ------------------------------------------------------------------------------

    def live_xml(self, vm: Vm, nic: Nic) -> bytes:
        """The NIC's element in the running domain; empty when it is not there."""
        guest = vm.guest
        domain = None if guest is None else self.host.libvirt.domain(vm.id)
        if domain is None:
            return b""
        for element in ElementTree.fromstring(domain.XMLDesc()).iter("interface"):
            mac = element.find("mac")
            if mac is not None and mac.get("address", "").lower() == nic.mac.lower():
                element.tail = None
                return ElementTree.tostring(element)
        return b""

    def _kept_xml(self, vm: Vm, nic: Nic) -> bytes:
        """What VDSM has kept of a device's XML: nothing, but of one that was plugged later.

        In VDSM only hot plug and update set it (vdsm/virt/vmdevices/core.py, ``_deviceXML``); its
        hooks of a device that the VM was started with are given an empty file.
        """
        return vm.device_xml[nic.alias] if nic.alias in vm.plugged_later else b""

    def _last_xml(self, vm: Vm, nic: Nic) -> bytes:
        live = self.live_xml(vm, nic)
        return live or vm.device_xml.get(nic.alias) or nic.xml().encode()

    def _domain_text(self, vm: Vm) -> bytes:
        domain = self.host.libvirt.domain(vm.id)
        return self._domain_xml(vm).encode() if domain is None else str(domain.XMLDesc()).encode()

    def _domain_xml(self, vm: Vm) -> str:
        devices = [vm.device_xml.get(nic.alias, nic.xml().encode()).decode() for nic in vm.nics]
        spec = GuestSpec(
            vm.name,
            # A device may come back with an XML declaration, which can't stand inside a domain.
            [device[device.index("?>") + 2 :] if "?>" in device else device for device in devices],
            uuid=vm.id,
            dhcp=vm.dhcp,
            checksum_offload=vm.checksum_offload,
        )
        return spec.domain_xml()

    def _write_launch_flags(self, vm: Vm, flags: int) -> None:
        self.host.make_directory(f"/run/vdsm/{vm.id}", owner=VDSM_USER)
        self.host.write(vm.launch_flags_path, str(flags), owner=VDSM_USER)

    def _device_hook(self, event: str, vm: Vm, nic: Nic, xml: bytes | None = None) -> bytes:
        data = nic.xml().encode() if xml is None else xml
        if not nic.custom:
            return data  # VDSM calls device hooks only for devices with custom properties
        return self.hooks.run(
            event, data, vm_id=vm.id, vm_custom=vm.custom, device_custom=nic.custom
        )

    def _vm_hook(self, event: str, vm: Vm, data: bytes) -> bytes:
        return self.hooks.run(event, data, vm_id=vm.id, vm_custom=vm.custom)

    def _define_filter(self, nics: Sequence[Nic]) -> None:
        """Define VDSM's nwfilter in libvirt, as VDSM does when it is installed."""
        if not any(nic.filter for nic in nics):
            return
        with self._filter_lock:
            if self._filter_defined_for != self.host.pid:
                self.host.libvirt.connection.nwfilterDefineXML(FILTER_XML)
                self._filter_defined_for = self.host.pid


@contextmanager
def on_its_way(domain: Any, act: Callable[[], object]) -> Iterator[None]:
    """Do something while the block's migration, which crawls, is under way; then let it hurry.

    It hurries whatever becomes of the deed: a migration that crawls may take for ever.
    """
    over = threading.Event()

    def under_way() -> bool:
        with suppress(libvirt.libvirtError):  # libvirt is busy with its beginning, or its end
            return bool(domain.jobStats().get("memory_processed"))
        return False

    def hurry() -> None:
        while not over.is_set():
            try:
                domain.migrateSetMaxSpeed(HURRY)
            except libvirt.libvirtError:  # it hasn't begun, was aborted, or has lost a host
                over.wait(0.1)
            else:
                return

    def go_along() -> None:
        try:
            wait_until(under_way, 60, "a migration under way")
            act()
        finally:
            hurry()

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(go_along)
        try:
            yield
        finally:
            over.set()
            going.result()


def ended(vm: Vm, *hosts: Vdsm) -> None:
    """End a VM wherever it is, with VDSM's hooks there."""
    for vdsm in hosts:
        if vdsm.host.powered and vdsm.host.libvirt.domain(vm.id) is not None:
            vdsm.destroy_vm(vm)
