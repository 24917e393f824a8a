# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl configure neutron``: have one of Neutron's agents serve this host."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from vif_driver.configuration import message_queue, neutron_host, neutron_mappings, tunnel
from vif_driver.configuration.message_queue import MessageQueue
from vif_driver.configuration.neutron import Wish
from vif_driver.configuration.transaction import Rehearsal, Transaction
from vif_driver.ctl.changing import tell, transaction_of
from vif_driver.ctl.look import require_root
from vif_driver.errors import ConfigError, one_line
from vif_driver.host.addresses import Ip

_COMMAND = "vifctl configure neutron"


def run(options: argparse.Namespace, *, as_json: bool) -> int:
    """Do it, or undo it.

    Raises:
        VifError: it can't be done; nothing is changed.
    """
    require_root(_COMMAND)
    command = f"{_COMMAND} --undo" if options.undo else _COMMAND
    wish = None if options.undo else _wish(options)
    with _changes(command, is_dry=options.dry_run) as changes:
        if wish is None:
            notes = neutron_host.undo(changes, force=options.force)
        else:
            wait = None if options.no_wait or options.dry_run else options.timeout
            notes = neutron_host.configure(changes, wish, options.agent, wait, force=options.force)
    return tell(command, changes, notes, as_json=as_json, is_dry=options.dry_run)


@contextlib.contextmanager
def _changes(command: str, *, is_dry: bool) -> Iterator[Transaction]:
    if is_dry:
        yield Rehearsal()
    else:
        with transaction_of(command) as changes:
            yield changes


def _wish(options: argparse.Namespace) -> Wish:
    bridge = options.integration_bridge
    if bridge is not None:
        neutron_mappings.device(bridge, "the integration bridge")
    types = options.tunnel_types
    uplinks = _pairs(options.uplink, "--uplink", "a device") or {}
    for name in uplinks:
        neutron_mappings.device(name, "a bridge")
    return Wish(
        interfaces=_pairs(options.interface_mapping, "--interface-mapping", "an interface"),
        bridges=_pairs(options.bridge_mapping, "--bridge-mapping", "a bridge"),
        integration_bridge=bridge,
        uplinks=uplinks,
        tunnel_ip=_address(options.tunnel_ip),
        tunnel_types=None if types is None else neutron_mappings.tunnel_types(types),
        # Last: the password may be asked for.
        queue=_queue(options),
    )


def _pairs(texts: list[str] | None, option: str, what: str) -> Mapping[str, str] | None:
    return None if texts is None else neutron_mappings.pairs(texts, option, what)


def _address(text: str | None) -> Ip | None:
    if text is None:
        return None
    address = tunnel.parse(text)
    if isinstance(address, str):
        raise ConfigError(
            f'--tunnel-ip: "{one_line(text, 80)}" is no address', "give one such as 192.0.2.1"
        )
    return address


def _queue(options: argparse.Namespace) -> MessageQueue | None:
    if not options.message_queue:
        return None
    hosts = [message_queue.parse_host(host) for host in options.message_queue]
    if options.user == "":
        raise ConfigError("--user has no name", "give one, or leave it out")
    password = None if options.user is None else _password(options)
    return MessageQueue(hosts, options.user, password, options.virtual_host or "")


def _password(options: argparse.Namespace) -> str:
    if options.password_file == "-":  # noqa: S105, which it is not
        return message_queue.read_password(sys.stdin.buffer.read(4096), "standard input")
    if options.password_file is not None:
        return message_queue.read_password_file(Path(options.password_file))
    if not sys.stdin.isatty():
        raise ConfigError(
            f"the password of {one_line(options.user, 80)} is not known",
            "give a file that has it with --password-file, or - for standard input",
        )
    asked = getpass.getpass(f"Password of {one_line(options.user, 80)} at the message queue: ")
    return message_queue.read_password(asked.encode(), "what was typed")
