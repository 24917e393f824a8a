# SPDX-License-Identifier: GPL-2.0-or-later
"""vifctl, the administrator's command.

It looks at the host itself, so that it has something to say when the agent is dead; only what the
agent waits for it must ask the agent.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys

from vif_driver import __version__
from vif_driver.ctl import configuring
from vif_driver.errors import VifError, one_line
from vif_driver.vnic import is_uuid

#: The exit status: everything is as it should be, something is not, or the command was misused.
FINE, WRONG, USAGE = 0, 1, 2

#: Seconds for which something is allowed if nothing is said.
DEFAULT_ALLOWANCE = 600.0

# Characters of a message; what could not be taken back is told besides, each with its remedy.
_LONGEST = 4000

_DESCRIPTION = """\
Looks after the vNICs of external networks on this host. It shows and changes nothing, but for
reconcile, protect and configure, which are for root. An ordinary user is shown what he may see.
"""

_EPILOG = """\
exit status: 0 everything is as it should be, 1 something is not, 2 wrong usage.
A VM has no network? vifctl list shows the vNICs, vifctl trace where the path of one ends, and
vifctl doctor what is wrong with the host. See vifctl(8).
"""


def main(arguments: list[str] | None = None) -> int:
    """Run ``vifctl``, and give its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "protect" and options.seconds is not None and not options.allow:
        parser.error("--for says how long --allow holds")
    if options.command == "configure":
        configuring.check(parser, options)
    # What the libraries and adapters log is for daemons; here it is said in the findings.
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.CRITICAL,
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        return _run(options)
    except VifError as error:
        complain(error)
        return WRONG
    except BrokenPipeError:  # into a pager or head that has ended
        sys.stderr.close()
        return WRONG
    except KeyboardInterrupt:
        return 130


def complain(error: VifError) -> None:
    """Say what is wrong, and what to do.

    What others have named is in it, such as a host that OVN knows, and goes to root's terminal.
    """
    print(f"vifctl: {one_line(str(error), _LONGEST)}", file=sys.stderr)


def _run(options: argparse.Namespace) -> int:
    # Each command imports what it needs when it is needed: libvirt, lxml, ovs and pyroute2
    # together take half a second.
    if options.command == "status":
        from vif_driver.ctl import status

        return status.run(as_json=options.json)
    if options.command == "list":
        from vif_driver.ctl import listing

        return listing.run(as_json=options.json)
    if options.command == "trace":
        from vif_driver.ctl import tracing

        return tracing.run(options.vnic, as_json=options.json)
    if options.command == "reconcile":
        return _reconcile(options)
    if options.command == "protect":
        return _protect(options)
    if options.command == "configure":
        return configuring.run(options)
    from vif_driver.ctl import doctoring

    return doctoring.run(as_json=options.json)


def _reconcile(options: argparse.Namespace) -> int:
    if options.list or options.restore:
        from vif_driver.ctl import restoring

        if options.list:
            return restoring.show(as_json=options.json)
        return restoring.run(options.restore, as_json=options.json)
    from vif_driver.ctl import reconciling

    if options.dry_run:
        return reconciling.dry_run(as_json=options.json)
    return reconciling.run(as_json=options.json)


def _protect(options: argparse.Namespace) -> int:
    from vif_driver.ctl import protecting

    if options.allow:
        seconds = DEFAULT_ALLOWANCE if options.seconds is None else options.seconds
        return protecting.allow(options.allow, seconds, as_json=options.json)
    if options.revoke:
        return protecting.revoke(options.revoke, as_json=options.json)
    return protecting.show(as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vifctl",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help="tell on stderr what is done")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "status", help="tell how the agent and what it needs are, and what waits for what"
    )
    commands.add_parser("list", help="list the vNICs of external networks on this host")
    trace = commands.add_parser("trace", help="follow a vNIC from its VM to the tunnel")
    trace.add_argument(
        "vnic",
        metavar="VNIC",
        help="its id, the beginning of it, or one of its devices",
    )
    commands.add_parser("doctor", help="check everything on this host that vNICs depend on")
    reconcile = commands.add_parser(
        "reconcile",
        help="have what VMs that are gone have left removed, and what VMs have lost plugged again",
    )
    instead = reconcile.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="show it and change nothing")
    instead.add_argument("--list", action="store_true", help="list what was removed")
    instead.add_argument(
        "--restore", metavar="ID", type=_row_id, help="put back what the list has by this id"
    )
    protect = commands.add_parser(
        "protect",
        help="list what external networks stand on, and have setupNetworks change it nevertheless",
    )
    instead = protect.add_mutually_exclusive_group()
    instead.add_argument(
        "--allow",
        metavar="DEVICE",
        type=_device,
        action="append",
        help="let anything be done to it",
    )
    instead.add_argument(
        "--revoke", metavar="DEVICE", type=_device, action="append", help="protect it again"
    )
    protect.add_argument(
        "--for",
        dest="seconds",
        metavar="TIME",
        type=_duration,
        help="how long it may, such as 90s, 10m (which is the default) or 2h",
    )
    configuring.add_arguments(
        commands.add_parser(
            "configure", help="make this host one of OVN's or Neutron's, or no longer"
        )
    )
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="for programs")
    return parser


def _device(text: str) -> str:
    from vif_driver.protection.allowances import is_device

    if not is_device(text):
        raise argparse.ArgumentTypeError("give the name of a network device")
    return text


def _duration(text: str) -> float:
    from vif_driver.protection.allowances import LONGEST

    match = re.fullmatch(r"([0-9]{1,5})([smh]?)", text)
    seconds = 0 if match is None else int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    if not 0 < seconds <= LONGEST:
        raise argparse.ArgumentTypeError(
            f"give a time such as 90s, 10m or 2h, at most {LONGEST / 3600:g}h"
        )
    return seconds


def _row_id(text: str) -> str:
    if not is_uuid(text.lower()):
        raise argparse.ArgumentTypeError("give an id that vifctl reconcile --list shows")
    return text.lower()
