# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl configure``: make this host one of OVN's or of Neutron's, or no longer.

Here is what it takes; what each of the two does is in a module of its own, imported when it is
needed.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what ``vifctl configure`` takes."""
    networks = parser.add_subparsers(dest="network", required=True, metavar="NETWORK")
    _add_ovn(networks.add_parser("ovn", help="connect this host to OVN"))
    _add_neutron(
        networks.add_parser("neutron", help="have one of Neutron's agents serve this host")
    )
    for network in networks.choices.values():
        # What was said before the network's name counts as well.
        network.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="for programs"
        )


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with the usage if what was said makes no sense together."""
    if options.network == "ovn":
        _check_ovn(parser, options)
    else:
        _check_neutron(parser, options)


def run(options: argparse.Namespace) -> int:
    """Do it, and give the exit status."""
    if options.network == "neutron":
        from vif_driver.ctl import configuring_neutron

        return configuring_neutron.run(options, as_json=options.json)
    from vif_driver.ctl import configuring_ovn

    if options.undo:
        return configuring_ovn.undo(force=options.force, as_json=options.json)
    return configuring_ovn.run(options, as_json=options.json)


def _add_ovn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "central",
        metavar="CENTRAL",
        nargs="?",
        help="addresses of OVN's southbound database, separated by commas; with a port if it is "
        "not 6642",
    )
    parser.add_argument(
        "tunnel",
        metavar="TUNNEL",
        nargs="?",
        help="this host's address for tunnels, or the VDSM network that has it",
    )
    parser.add_argument(
        "fqdn",
        metavar="FQDN",
        nargs="?",
        help="this host's name in the engine, by which OVN is to know it",
    )
    parser.add_argument("--undo", action="store_true", help="take OVN away from this host")
    parser.add_argument(
        "--encap",
        metavar="TYPE",
        default="geneve",
        help="how tunnels are made: geneve, which is the default, vxlan, or both, with a comma",
    )
    parser.add_argument("--private-key", metavar="FILE", help="this host's key")
    parser.add_argument("--certificate", metavar="FILE", help="what belongs to it")
    parser.add_argument("--ca-cert", metavar="FILE", help="who signs both sides' certificates")
    parser.add_argument("--no-ssl", action="store_true", help="plain TCP, without any of these")
    parser.add_argument(
        "--ipsec", action="store_true", help="have the host ready for OVN to encrypt its tunnels"
    )
    parser.add_argument(
        "--ipsec-if-possible", action="store_true", help="the same, and if it fails all but that"
    )
    _add_waiting(parser, "ovn-controller", 30.0)
    _add_force(parser)


def _check_ovn(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.undo and options.central is not None:
        parser.error("--undo takes no addresses")
    if not options.undo and options.tunnel is None:
        parser.error("give CENTRAL and TUNNEL, or --undo")
    files = (options.private_key, options.certificate, options.ca_cert)
    if any(files) and not all(files):
        parser.error("--private-key, --certificate and --ca-cert go together")
    if any(files) and options.no_ssl:
        parser.error("--no-ssl has no use for a key or certificates")
    if options.ipsec and options.no_ssl:
        parser.error("--ipsec needs the key and the certificates that --no-ssl does without")


def _add_neutron(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--agent",
        choices=("openvswitch", "linuxbridge"),
        help="which one, if both are installed",
    )
    queue = parser.add_argument_group("message queue")
    queue.add_argument(
        "--message-queue",
        metavar="HOST",
        action="append",
        help="where RabbitMQ is, with a port if it is not 5672; once for each host",
    )
    queue.add_argument("--user", metavar="NAME", help="its user; the password is asked for")
    queue.add_argument(
        "--password-file", metavar="FILE", help="what has that user's password; - is standard input"
    )
    queue.add_argument("--virtual-host", metavar="NAME", help="its virtual host, if it isn't /")
    ovs = parser.add_argument_group("Open vSwitch agent")
    ovs.add_argument(
        "--bridge-mapping",
        metavar="NETWORK:BRIDGE",
        action="append",
        help="the bridge that leads to a physical network; all of them, or '' for none",
    )
    ovs.add_argument("--integration-bridge", metavar="BRIDGE", help="the bridge of the vNICs")
    ovs.add_argument(
        "--uplink",
        metavar="BRIDGE:DEVICE",
        action="append",
        help="add a device that nothing else uses to a mapped bridge",
    )
    linux_bridge = parser.add_argument_group("Linux bridge agent")
    linux_bridge.add_argument(
        "--interface-mapping",
        metavar="NETWORK:DEVICE",
        action="append",
        help="the device that leads to a physical network; all of them, or '' for none",
    )
    tunnels = parser.add_argument_group("tunnels")
    tunnels.add_argument("--tunnel-ip", metavar="ADDRESS", help="this host's address for them")
    tunnels.add_argument(
        "--tunnel-types",
        metavar="TYPES",
        action="append",
        help="vxlan, gre or geneve, with commas, or '' for none",
    )
    parser.add_argument("--undo", action="store_true", help="make the host what it was before")
    parser.add_argument("--dry-run", action="store_true", help="show it and change nothing")
    _add_waiting(parser, "the agent", 60.0)
    _add_force(parser)


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="even if VMs lose their networks by it"
    )


def _add_waiting(parser: argparse.ArgumentParser, who: str, seconds: float) -> None:
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_timeout,
        default=seconds,
        help=f"how long {who} has to connect before all is taken back ({seconds:g})",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="leave it so, whether it connects or not"
    )


def _check_neutron(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.undo and any(getattr(options, name) is not None for name in _WISHES):
        parser.error("--undo takes none of what is to be configured")
    for name in ("user", "password_file", "virtual_host"):
        if getattr(options, name) is not None and not options.message_queue:
            parser.error(f"--{name.replace('_', '-')} goes with --message-queue")
    if options.password_file is not None and options.user is None:
        parser.error("--password-file goes with --user")


_WISHES = (
    "agent",
    "message_queue",
    "user",
    "password_file",
    "virtual_host",
    "bridge_mapping",
    "integration_bridge",
    "uplink",
    "interface_mapping",
    "tunnel_ip",
    "tunnel_types",
)


def _timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 600:
        raise argparse.ArgumentTypeError("give a number of seconds from 1 to 600")
    return seconds
