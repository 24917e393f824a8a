# SPDX-License-Identifier: GPL-2.0-or-later
"""What 50_vif_driver does for an event that is ours; one source for every event.

Stands in the path of every VM start, so it imports next to nothing: os, json and socket would
each cost more than all of this.  The agent does the work (vif_driver/wire.py is its protocol);
this process reads and writes VDSM's file, as the user that VDSM runs it as.
"""

import posix
import sys
from posix import environ

EVENT = ("/" + sys.argv[0]).split("/")[-2]
# What VDSM asks for every few seconds or minutes, and goes on without.
REPORTS = EVENT in ("after_get_caps", "after_get_stats")
# About the whole host, in JSON; the other events are about a VM or a vNIC, in XML.
OF_HOST = REPORTS or EVENT == "before_network_setup"
REFUSES = EVENT.startswith("before_")
WRITES = REPORTS or (REFUSES and not OF_HOST)
UNDO = "after_nic_hotplug_fail" if EVENT in ("before_device_create", "before_nic_hotplug") else ""
SOCKET = "/run/vif-driver/agent.sock"
# VDSM's, while it makes a VM: the flags with which libvirt is going to start it.
LAUNCH_FLAGS = "/run/vdsm/%s/launchflags"
# Seconds; a little longer than the agent takes at most.
PATIENCE = {
    "after_vm_start": 400,
    "before_network_setup": 10,
    "after_get_caps": 5,
    "after_get_stats": 2,
}
OF_OTHERS = 60
MAX_DATA = 8 * 1024 * 1024 if OF_HOST else 64 * 1024
PROPERTIES = (b"provider_type", b"plugin_type", b"vnic_id", b"security_groups", b"vmId")
WITHOUT_AGENT = "/usr/libexec/vif-driver/without-agent"
# VDSM brings back the host's own network, after a failure or at boot, when neither the agent nor
# Open vSwitch runs yet: that has to pass, whatever is wrong, and nobody is to wait for it.  So it
# is written by VDSM; a quote within a text would have a backslash before it.
ROLLBACK = b'"_inRollback": true'


def main():
    while posix.open("/dev/null", posix.O_RDWR) <= 2:
        pass  # VDSM's file must not become the stderr of a caller who closed his
    if EVENT == "after_vm_start":  # of all that its file holds, nothing is needed
        status, message, _, _ = ask(EVENT, b"")
        if message:
            say(message)
        return status
    name = "_hook_json" if OF_HOST else "_hook_domxml"
    path = environ.get(name.encode())
    if not path:
        return fail(name + " is not set; this is a hook for VDSM to run")
    try:
        file = posix.open(path, (posix.O_RDWR if WRITES else posix.O_RDONLY) | posix.O_CLOEXEC)
        data = posix.read(file, MAX_DATA + 1)
    except OSError as error:
        return fail("VDSM's file %s: %s; see vdsm.log" % (path.decode(), error.strerror))
    if len(data) > MAX_DATA:
        return fail("VDSM's file has more than %d bytes; see vdsm.log" % MAX_DATA)
    if EVENT == "before_network_setup" and ROLLBACK in data:
        return 0
    launch = Launch() if EVENT == "before_device_create" else None
    status, message, new, flags = ask(EVENT, data, b"" if launch is None else launch.property)
    try:
        if new is not None and REPORTS:
            replace_at_once(file, data, new)
        elif new is not None and WRITES:
            replace(file, new)
        if flags and launch is not None:
            launch.add(flags)
    except OSError as error:
        return take_back(file, data, error)
    if message:
        say(message)
    return status


class Launch:
    """The flags with which VDSM is going to have libvirt start the VM."""

    property = b""  # nothing is said of flags that VDSM doesn't let a hook change

    def __init__(self):
        path = LAUNCH_FLAGS % environ.get(b"vmId", b"").decode("ascii", "replace")
        try:
            self.file = posix.open(path, posix.O_RDWR | posix.O_CLOEXEC)
            text = posix.read(self.file, 32).strip()
        except OSError:
            return
        if text.isdigit() and len(text) <= 10:  # what the agent takes for flags
            self.flags = int(text)
            self.property = b"launch_flags=%d\0" % self.flags

    def add(self, flags):
        """Add some, unless there is no file of VDSM's to add them to."""
        if self.property:
            replace(self.file, b"%d" % (self.flags | flags))


def take_back(file, data, error):
    why = "VDSM's file cannot be written: %s" % error.strerror
    for step in (lambda: replace(file, data), lambda: UNDO and ask(UNDO, data)):
        try:
            step()
        except Exception as failure:
            why += ", and it could not be taken back: %s" % failure
    return fail(why + "; see vdsm.log, and free space where VDSM keeps its temporary files")


def run():
    """Do it; give the exit status."""
    try:
        return main()
    except Exception as error:
        who = (
            "vif-agent does not answer" if REPORTS else "neither vif-agent nor its stand-in answers"
        )
        why = "%s properly: %s" % (who, error)
        return fail(why + "; restart it (systemctl restart vif-agent), see journalctl -u vif-agent")


def ask(event, data, more=b""):
    """One request, one reply: the exit status, a message, new data or None, and launch flags."""
    names = () if OF_HOST else PROPERTIES
    pairs = [b"%s=%s\0" % (name, environ[name]) for name in names if name in environ]
    block = b"".join(pairs) + more
    request = b"vif1 %s %d %d\n%s%s" % (event.encode(), len(block), len(data), block, data)
    reply = ask_agent(request)
    if reply == b"":
        # It ended, and another one may be starting already on the same socket, which stays open.
        # What was done is done over: an event may be repeated.
        reply = ask_agent(request)
    if REPORTS and not reply:
        return 0, b"", None, 0  # what the agent knows, nobody else here could find out
    return parse(reply or ask_here(request))


def ask_agent(request):
    """Give the agent's reply, nothing if it ended before it replied, None if it isn't there."""
    import _socket

    seconds, gone = PATIENCE.get(EVENT, OF_OTHERS), None
    try:
        agent = _socket.socket(_socket.AF_UNIX)
        limit(agent, seconds)
        agent.connect(SOCKET)
        gone = b""
        return exchange(agent, request)
    except BlockingIOError:
        if REPORTS:
            raise TimeoutError("not within %d s" % seconds) from None
        return None
    except OSError:
        return gone


def limit(peer, seconds):
    # Not settimeout(): that makes the socket non-blocking, and to such a one a queue that is
    # full for a moment is an error (unix(7), EAGAIN).
    import _socket

    timeout = seconds.to_bytes(8, sys.byteorder) + bytes(8)  # struct timeval
    peer.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeout)
    peer.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, timeout)


def exchange(peer, request):
    peer.sendall(request)
    reply = []
    while not reply or reply[-1]:
        reply.append(peer.recv(65536))
    return b"".join(reply)


def ask_here(request):
    """The same event code in a process of our own, without the agent's privileges."""
    import _socket

    ours, theirs = _socket.socketpair()
    files = [(posix.POSIX_SPAWN_DUP2, theirs.fileno(), number) for number in (0, 1)]
    # What it has to say it says over the socket; a failing start must not be a traceback.
    files.append((posix.POSIX_SPAWN_OPEN, 2, "/dev/null", posix.O_WRONLY, 0))
    child = posix.posix_spawn(WITHOUT_AGENT, [WITHOUT_AGENT], environ, file_actions=files)
    theirs.close()
    limit(ours, max(PATIENCE.get(EVENT, 0), OF_OTHERS))
    try:
        return exchange(ours, request)
    finally:
        posix.kill(child, 9)  # it has answered, or never will
        posix.waitpid(child, 0)


def parse(reply):
    header, end, body = reply.partition(b"\n")
    version, status, length, data_length, flags = header.split()
    new = None if data_length == b"-" else body[int(length) :]
    whole = int(length) + (0 if new is None else int(data_length))
    if version != b"vif1" or not end or len(body) != whole:
        raise ValueError("it is cut off")
    return int(status), body[: int(length)], new, int(flags)


def replace(file, data):
    write(file, data, 0)
    posix.ftruncate(file, len(data))


def replace_at_once(file, old, new):
    """Put JSON in the place of JSON, so that at no moment there is half of it.

    Behind it blanks may stand.  They make room first, for then it is known that the disk has some,
    and then the whole is one write over what is there.
    """
    write(file, b" " * (len(new) - len(old)), len(old))
    new = new.ljust(len(old))
    if posix.pwrite(file, new, 0) < len(new):
        raise OSError(5, "only a part was written")


def write(file, data, place):
    end = place + len(data)
    while place < end:
        place += posix.pwrite(file, data[place - end :], place)


def say(message):
    try:
        posix.write(2, message + b"\n")
    except OSError:
        return  # nobody listens; the exit status is what counts


def fail(why):
    subject = EVENT
    if not OF_HOST:
        what, name = ("VM", b"vmId") if EVENT == "after_vm_start" else ("vNIC", b"vnic_id")
        which = (environ.get(name) or b"without " + name).decode("ascii", "replace")
        subject += ": %s %s" % (what, which)
    say(("vif-driver: %s: %s" % (subject, why)).replace("\n", " ").encode())
    return 2 if REFUSES else 1
