# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits until vNICs work, and lets VMs run that stood still for them.

A start is forgotten only when its VM runs, is gone, or is to stay paused: whatever happens to the
agent or to libvirt meanwhile, the VM is resumed in the end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from vif_driver import attachments
from vif_driver.config import AfterDeadline, Config
from vif_driver.errors import HostError, Unavailable, VifError, one_line
from vif_driver.host import Host
from vif_driver.host.domains import Domains, State
from vif_driver.host.starts import Start, Starts
from vif_driver.journal import about
from vif_driver.vnic import Plugin, VnicIdentity

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# Seconds between two attempts to have libvirt resume a VM.
_RETRY = 1.0

# What is waited for, as ``vifctl status`` tells it.
START, HOT_PLUG = "start", "hot plug"


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A vNIC that is not ready yet.

    Attributes:
        vnic: which.
        purpose: what for: a VM's start, or a hot plug.
        begun: when, in the loop's time.
    """

    vnic: VnicIdentity
    purpose: str
    begun: float


@dataclasses.dataclass(frozen=True)
class Late:
    """A vNIC that was not ready in time.

    Attributes:
        vnic: which.
        seconds: for how long it was waited for.
        error: what went wrong with waiting itself.
    """

    vnic: VnicIdentity
    seconds: float = 0.0
    error: BaseException | None = None


class Readiness:
    """The vNICs of this host that are not ready yet.

    Args:
        config: the configuration.
        host: what the agent may use.
        domains: libvirt's VMs, watched.
        starts: the VMs that are being started.
    """

    def __init__(self, config: Config, host: Host, domains: Domains, starts: Starts) -> None:
        self._config = config
        self._host = host
        self._domains = domains
        self._starts = starts
        self._resuming: dict[str, asyncio.Task[str]] = {}
        self._expecting: dict[str, asyncio.Task[None]] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._waiting: set[Waiting] = set()
        self._unsubscribe = domains.subscribe(self._on_event)

    @property
    def waiting(self) -> list[Waiting]:
        """The vNICs that are waited for now, the longest first."""
        return sorted(self._waiting, key=lambda waiting: waiting.begun)

    def recover(self) -> None:
        """Take up the starts that an earlier agent left; must be called in the running loop."""
        self._starts.forget_released()
        for start in self._starts.all():
            if start.arrives:
                continue  # that is not for us to look after
            log.info("VM %s: its start goes on", start.vm_id, extra=about(vm=start.vm_id))
            if start.started:
                self._begin(start)
        # Of the others VDSM's hook will tell, or libvirt.

    async def close(self) -> None:
        """Stop waiting; what is not done is left to the next agent."""
        self._unsubscribe()
        tasks: list[asyncio.Task[Any]] = [
            *self._resuming.values(),
            *self._expecting.values(),
            *self._watching.values(),
        ]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def started(self, start: Start) -> str:
        """Wait until every vNIC of a VM is ready, then let it run; see events.vm.Readiness."""
        if not start.resume:
            self._forget(start)
            return ""
        start = dataclasses.replace(start, started=True)
        try:
            self._starts.put(start)
        except HostError as error:
            # It is needed by the next agent only, should this one end before the VM runs.
            log.error("VM %s: %s", start.vm_id, error, extra=about(vm=start.vm_id))
        # The caller may go; the VM still has to be resumed.
        return await asyncio.shield(self._begin(start))

    def watch(self, vnic: VnicIdentity, *, hot_plug: bool) -> None:
        """See that a vNIC becomes ready, and log it; see events.vm.Readiness."""
        start = None if vnic.vm_id is None else self._starts.get(vnic.vm_id)
        if start is None or start.token not in self._resuming:
            self._stop_watching(vnic)
            self._keep(self._watching, str(vnic), self._watch(vnic, hot_plug))

    def unplugged(self, vnic: VnicIdentity) -> None:
        """Forget a vNIC that is gone, and the start of its VM if that has none left."""
        self._stop_watching(vnic)
        start = None if vnic.vm_id is None else self._starts.get(vnic.vm_id)
        if start is None or not start.has(vnic) or start.token in self._resuming:
            return  # whether the VM is gone is libvirt's to say
        if start.arrives and not start.started:
            return  # nor is a vNIC forgotten before its port is as it was; see agent.switchover
        left = tuple(other for other in start.vnics if other.id != vnic.id)
        if left:
            self._starts.put(dataclasses.replace(start, vnics=left))
        else:
            self._forget(start)

    def _forget(self, start: Start) -> None:
        current = self._starts.get(start.vm_id)
        if current is None or current.token == start.token:  # not a later start of that VM
            self._starts.forget(start.vm_id)

    # ---- a VM's start ------------------------------------------------------------------------

    def _begin(self, start: Start) -> asyncio.Task[str]:
        return self._resuming.get(start.token) or self._keep(
            self._resuming, start.token, self._wait_and_resume(start)
        )

    async def _wait_and_resume(self, start: Start) -> str:
        gone = asyncio.ensure_future(self._wait_gone(start.vm_id))
        ready = asyncio.ensure_future(self._wait_all(start))
        try:
            await asyncio.wait((gone, ready), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            ready.cancel()
            await asyncio.wait((gone, ready))
        late: list[Late] = []
        if ready.cancelled():
            what = "ended before it ran"
        else:
            late = ready.result()
            what = await self._let_run(start, late)
        self._forget(start)
        extra = about(vm=start.vm_id, seconds=start.age)
        log.info(
            "VM %s %s, %.3f s after its start began", start.vm_id, what, start.age, extra=extra
        )
        if not late:
            return ""
        # It runs already: to find out why takes up to some seconds.
        reasons = await asyncio.gather(*map(self._tell_late, late))
        return one_line("; ".join([*reasons, f"VM {start.vm_id} {what}"]))

    async def _wait_gone(self, vm_id: str) -> None:
        try:
            await self._domains.wait_gone(vm_id)
        except Exception:
            # Not to be told from a VM that is gone, which would be left alone.
            log.exception("VM %s: unexpected", vm_id, extra=about(vm=vm_id))
            await asyncio.Event().wait()

    async def _wait_all(self, start: Start) -> list[Late]:
        """Wait for the vNICs of a VM; give those that aren't ready in time."""
        waits = (self._wait(vnic, START) for vnic in start.vnics)
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        # Whatever went wrong, the VM must not stand still because of it.
        return [
            Late(vnic, error=outcome) if isinstance(outcome, BaseException) else outcome
            for vnic, outcome in zip(start.vnics, outcomes)
            if outcome is not None
        ]

    async def _let_run(self, start: Start, late: list[Late]) -> str:
        if late and self._config.after_deadline is AfterDeadline.KEEP_PAUSED:
            return "stays paused (after_deadline in vif-driver.conf); resume it in the engine"
        told = ""
        while True:
            try:
                resumed = await self._domains.resume(start.vm_id)
                return "was resumed" if resumed else "needed no resuming"
            except Exception as error:  # whatever it is, the VM stands still
                if str(error) != told:
                    told = str(error)
                    unexpected = not isinstance(error, HostError)
                    extra = about(vm=start.vm_id)
                    log.error("VM %s: %s", start.vm_id, told, exc_info=unexpected, extra=extra)
                if isinstance(error, Unavailable):  # libvirtd is being restarted, say
                    await self._domains.wait_connected(_RETRY)
                    await asyncio.sleep(_RETRY / 10)
                else:
                    await asyncio.sleep(_RETRY)

    def _on_event(self, vm_id: str | None) -> None:
        """Expect VDSM's hook for every VM that libvirt has and that stands still for us."""
        starts = self._starts.all() if vm_id is None else [self._starts.get(vm_id)]
        for start in starts:
            if start is None or start.token in self._expecting:
                continue
            if start.resume and not start.started:
                self._keep(self._expecting, start.token, self._expect(start))

    async def _expect(self, start: Start) -> None:
        """Do the hook's work if it doesn't come: it may have died with an earlier agent."""
        await asyncio.sleep(self._config.start_deadline)
        current = self._starts.get(start.vm_id)
        if current is None or current.started or current.token != start.token:
            return
        try:
            paused = await self._domains.state(start.vm_id) is State.PAUSED
        except HostError:
            return  # the next event of libvirt's brings us here again
        if paused:
            what = "VDSM's hook after_vm_start did not come; not waiting for it any longer"
            log.warning("VM %s: %s", start.vm_id, what, extra=about(vm=start.vm_id))
            await self.started(current)

    # ---- one vNIC ----------------------------------------------------------------------------

    async def _watch(self, vnic: VnicIdentity, hot_plug: bool) -> None:
        if not hot_plug and self._is_ready(vnic):
            return  # as was logged when its VM was let run
        late = await self._wait(vnic, HOT_PLUG if hot_plug else START)
        if late is not None:
            await self._tell_late(late)

    def _is_ready(self, vnic: VnicIdentity) -> bool:
        ways = attachments.found(vnic, self._config, self._host)
        try:
            return bool(ways) and ways[0].is_ready(vnic)
        except VifError:
            return False

    async def _wait(self, vnic: VnicIdentity, purpose: str) -> Late | None:
        """Wait for one vNIC; None if it is ready in time."""
        loop = asyncio.get_running_loop()
        waiting = Waiting(vnic, purpose, loop.time())
        self._waiting.add(waiting)
        try:
            ready = await self._wait_ready(vnic, purpose, self._deadline)
        finally:
            self._waiting.discard(waiting)
        seconds = loop.time() - waiting.begun
        if not ready:
            return Late(vnic, seconds)
        extra = about(vnic, seconds=seconds)
        log.info("%s: ready after %.0f ms", vnic, seconds * 1000, extra=extra)
        return None

    async def _tell_late(self, late: Late) -> str:
        """Log that a vNIC was not ready in time, and why; give the same."""
        if late.error is not None:
            text = f"{late.vnic}: internal error ({late.error!r}); see the log of vif-agent"
        else:
            from vif_driver.inspection import likely_reason  # much to load, for bad days only

            reason = await likely_reason(late.vnic, self._config, self._host)
            text = f"{late.vnic} is not ready after {late.seconds:.0f} s: {reason}"
        extra = about(late.vnic, seconds=late.seconds)
        log.warning("%s", one_line(text), exc_info=late.error, extra=extra)
        return one_line(text)

    @property
    def _deadline(self) -> float:
        # With 0 no VM waits; what the log is to say of a hot plug is another matter.
        return self._config.start_deadline or Config.start_deadline

    async def _wait_ready(self, vnic: VnicIdentity, purpose: str, timeout: float) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        ovsdb = self._host.ovsdb
        if ovsdb is not None and vnic.plugin is not Plugin.LINUX_BRIDGE:
            # Without it, it can't even be told how the vNIC was plugged.
            await ovsdb.replica.wait(lambda: ovsdb.replica.connected, timeout)
        ways = attachments.found(vnic, self._config, self._host)
        if not ways:
            return False
        if purpose is START:
            # VDSM calls after_device_create only when we have answered, and until then a tap may
            # have to be taken off a bridge for its agent to see it.
            try:
                await ways[0].finish(vnic)
            except VifError as error:
                log.warning("%s: %s", vnic, error, extra=about(vnic))
        return await ways[0].wait_ready(vnic, max(0.0, end - loop.time()))

    # ---- tasks -------------------------------------------------------------------------------

    def _stop_watching(self, vnic: VnicIdentity) -> None:
        # Of this VM: another one's that was refused the vNIC ends here, too.
        task = self._watching.get(str(vnic))
        if task is not None:
            task.cancel()

    @staticmethod
    def _keep(
        tasks: dict[str, asyncio.Task[_T]], key: str, work: Coroutine[Any, Any, _T]
    ) -> asyncio.Task[_T]:
        """Run something as a task, and keep it under a key until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        tasks[key] = task

        def ended(_: asyncio.Task[_T]) -> None:
            if tasks.get(key) is task:
                del tasks[key]
            if not task.cancelled() and task.exception() is not None:
                log.error("waiting failed", exc_info=task.exception())

        task.add_done_callback(ended)
        return task
