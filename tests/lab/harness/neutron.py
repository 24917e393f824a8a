"""Neutron on a hypervisor: its server, and one of its agents at a time.

Everything is the distribution's own, at its own paths, with as little configuration as will do:
networks that exist on this one host (type ``local``), no DHCP and no layer 3, no Keystone.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .anchor import CLEAN_ENVIRONMENT
from .deadline import wait_until
from .hypervisor import INTEGRATION_BRIDGE, Hypervisor
from .lab import Lab
from .service import Service

Json = dict[str, Any]
AgentKind = Literal["hybrid", "direct", "linux_bridge"]

ETC = "/etc/neutron"
SERVER_CONFIG = f"{ETC}/neutron.conf"
PLUGIN_CONFIG = f"{ETC}/plugins/ml2/ml2_conf.ini"
OVS_AGENT_CONFIG = f"{ETC}/plugins/ml2/openvswitch_agent.ini"
LINUX_BRIDGE_AGENT_CONFIG = f"{ETC}/plugins/ml2/linuxbridge_agent.ini"
STATE = "/var/lib/neutron-lab"
LOG = "/var/log/neutron-lab"
MYSQL_SOCKET = f"{STATE}/mysql/socket"
PROJECT = "lab"
API_PORT, DATABASE_PORT, MESSAGE_PORT, OVSDB_PORT = 9696, 3306, 5672, 6640
# As the engine names the owner of a port.  Of ports of compute:*, which are Nova's, the Linux
# bridge agent leaves the plugging to Nova.
OWNER = "oVirt"

_SERVER = f"""\
[DEFAULT]
auth_strategy = noauth
core_plugin = ml2
service_plugins =
bind_host = 127.0.0.1
api_paste_config = {ETC}/api-paste.ini
state_path = {STATE}
transport_url = rabbit://guest:guest@127.0.0.1:{MESSAGE_PORT}/
api_workers = 0
rpc_workers = 0
rpc_state_report_workers = 0
notify_nova_on_port_status_changes = False
notify_nova_on_port_data_changes = False
use_stderr = True
[database]
connection = mysql+pymysql://neutron:neutron@127.0.0.1/neutron?charset=utf8
[oslo_concurrency]
lock_path = {STATE}/lock
[oslo_messaging_notifications]
driver = noop
[agent]
root_helper = env
report_interval = 10
[quotas]
quota_port = -1
quota_security_group = -1
[experimental]
linuxbridge = True
"""

_PLUGIN = """\
[ml2]
type_drivers = local
tenant_network_types = local
mechanism_drivers = openvswitch,linuxbridge
extension_drivers = port_security
[securitygroup]
enable_security_group = True
"""

_OVS_AGENT = f"""\
[DEFAULT]
host = {{host}}
[ovs]
datapath_type = netdev
integration_bridge = {INTEGRATION_BRIDGE}
ovsdb_connection = tcp:127.0.0.1:{OVSDB_PORT}
[securitygroup]
firewall_driver = {{firewall}}
"""

_LINUX_BRIDGE_AGENT = """\
[DEFAULT]
host = {host}
[vxlan]
enable_vxlan = False
[securitygroup]
firewall_driver = iptables
"""

# Debian 12's ebtables cannot delete a rule with --among-src, which the Linux bridge agent then
# tries again for ever.  It can by the rule's number.
_EBTABLES = """\
#!/bin/bash
table=filter chain= among=
arguments=("$@")
for ((i = 0; i < $#; i++)); do
    case ${arguments[i]} in
        -t) table=${arguments[i + 1]} ;;
        -D) chain=${arguments[i + 1]} ;;
        --among-src) among=yes ;;
    esac
done
if [ -n "$chain" ] && [ -n "$among" ]; then
    number=$(/usr/sbin/ebtables-nft -t "$table" -L "$chain" --Ln |
        awk -F. '/--among-src/ { print $1 + 0; exit }')
    [ -n "$number" ] || exit 0
    exec /usr/sbin/ebtables-nft -t "$table" -D "$chain" "$number"
fi
exec /usr/sbin/ebtables-nft "$@"
"""

_FIREWALLS: Mapping[AgentKind, str] = {"hybrid": "iptables_hybrid", "direct": "openvswitch"}


class NeutronError(Exception):
    """Neutron did not do what was asked of it."""


@dataclass(frozen=True)
class NeutronNetwork:
    """A network with one IPv4 subnet.

    Attributes:
        id: its UUID.
        subnet: its addresses.
        mtu: bytes.
    """

    id: str
    subnet: ipaddress.IPv4Network
    mtu: int

    @property
    def bridge(self) -> str:
        """The Linux bridge that the Linux bridge agent makes for it."""
        return f"brq{self.id[:11]}"


@dataclass(frozen=True)
class NeutronPort:
    """A port.

    Attributes:
        id: its UUID, ``vnic_id`` in its other life.
        mac: its MAC.
        address: its IPv4 address.
        network: where it is.
        vif_details: ``binding:vif_details``, what Neutron tells the one who plugs it.
    """

    id: str
    mac: str
    address: str
    network: NeutronNetwork
    vif_details: Mapping[str, Any]

    @property
    def interface(self) -> str:
        """Its address with the prefix length, as a guest sets it."""
        return f"{self.address}/{self.network.subnet.prefixlen}"


class Neutron:
    """Neutron's server and agents on one host.  Requests may be made from several threads.

    Args:
        machine: the host, one without OVN, its Open vSwitch running.

    Attributes:
        database, messages, server: the daemons of the central half.
        agent: the running agent's daemon; None when none runs.
    """

    def __init__(self, machine: Hypervisor) -> None:
        self.machine = machine
        self.database = Service(
            machine,
            "neutron-database",
            [
                "mariadbd",
                "--no-defaults",
                "--user=mysql",
                f"--datadir={STATE}/mysql",
                f"--socket={MYSQL_SOCKET}",
                f"--port={DATABASE_PORT}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                # Nothing here needs to outlive a power cut.
                "--innodb-flush-log-at-trx-commit=0",
            ],
            log=f"{LOG}/database.log",
            ready=lambda: self._listens(DATABASE_PORT) and machine.exists(MYSQL_SOCKET),
        )
        broker = f"{STATE}/rabbitmq"
        self.messages = Service(
            machine,
            "neutron-messages",
            ["runuser", "-u", "rabbitmq", "--", "/usr/lib/rabbitmq/bin/rabbitmq-server"],
            log=f"{LOG}/messages.log",
            ready=lambda: self._listens(MESSAGE_PORT),
            env={
                "HOME": broker,
                "RABBITMQ_NODENAME": "lab@localhost",
                "RABBITMQ_MNESIA_BASE": f"{broker}/mnesia",
                "RABBITMQ_LOG_BASE": f"{broker}/log",
                "RABBITMQ_LOGS": "-",
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_ENABLED_PLUGINS_FILE": f"{broker}/plugins",
                "RABBITMQ_PID_FILE": f"{broker}/pid",
                "ERL_EPMD_ADDRESS": "127.0.0.1",
            },
            ready_timeout=60,
        )
        self.server = Service(
            machine,
            "neutron-server",
            ["neutron-server", *_config(PLUGIN_CONFIG)],
            log=f"{LOG}/server.log",
            ready=lambda: self._listens(API_PORT),
            ready_timeout=90,
        )
        self.agent: Service | None = None
        self._kind: AgentKind | None = None

    # ---- daemons -----------------------------------------------------------------------------

    def start(self) -> None:
        """Make the database and start the server; takes 15 s."""
        machine = self.machine
        for directory in (f"{STATE}/lock", LOG):
            machine.make_directory(directory)
        machine.make_directory(f"{STATE}/mysql", owner="mysql")
        machine.make_directory(f"{STATE}/rabbitmq", owner="rabbitmq")
        machine.write(SERVER_CONFIG, _SERVER)
        machine.write(PLUGIN_CONFIG, _PLUGIN)
        machine.write(f"{STATE}/bin/ebtables", _EBTABLES, mode=0o755)
        with ThreadPoolExecutor(1) as pool:
            messages = pool.submit(self.messages.start)  # slow, but needed only by the server
            self._make_database()
            messages.result()
        self.server.start()

    def _make_database(self) -> None:
        machine = self.machine
        install = ["mariadb-install-db", "--no-defaults", "--user=mysql", "--skip-test-db"]
        install += [f"--datadir={STATE}/mysql", "--auth-root-authentication-method=normal"]
        machine.run(install)
        self.database.start()
        statements = (
            "create database neutron character set utf8;"
            "create user neutron@'127.0.0.1' identified by 'neutron';"
            "grant all on neutron.* to neutron@'127.0.0.1';"
        )
        client = ["mariadb", "--no-defaults", "-S", MYSQL_SOCKET, "-uroot"]
        machine.run(client, input=statements)
        machine.run(["neutron-db-manage", *_config(PLUGIN_CONFIG), "upgrade", "head"], timeout=120)

    def start_agent(self, kind: AgentKind) -> None:
        """Start an agent; returns when the server knows that it is alive.

        Args:
            kind: ``hybrid`` and ``direct`` are the Open vSwitch agent with the firewall driver
                ``iptables_hybrid`` and ``openvswitch``; ``linux_bridge`` is the other agent.

        Raises:
            RuntimeError: an agent runs already, or this one ended at once.
            TimeoutError: it did not report to the server.
        """
        if self.agent is not None:
            raise RuntimeError(f"{self.machine.name}: {self.agent.name} runs already")
        if kind == "linux_bridge":
            program, config = "neutron-linuxbridge-agent", LINUX_BRIDGE_AGENT_CONFIG
            text = _LINUX_BRIDGE_AGENT.format(host=self._agent_host(kind))
        else:
            program, config = "neutron-openvswitch-agent", OVS_AGENT_CONFIG
            text = _OVS_AGENT.format(host=self._agent_host(kind), firewall=_FIREWALLS[kind])
            self._open_ovsdb()
        # Its services' own file, where the product looks too.
        self.machine.write(config, text)
        self._forget_rules_of_others(kind)
        agent = Service(
            self.machine,
            f"neutron-agent-{kind}",
            [program, *_config(config)],
            log=f"{LOG}/agent-{kind}.log",
            env={"PATH": f"{STATE}/bin:{CLEAN_ENVIRONMENT['PATH']}"},
        )
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        agent.start()
        self.agent, self._kind = agent, kind

        def reported() -> bool:
            if not agent.running:
                raise RuntimeError(self.machine.read(agent.log)[-4000:])
            found = self.agents(self._agent_host(kind))
            return bool(found) and found[0]["alive"] and found[0]["started_at"] >= since

        wait_until(reported, 90, f"{agent.name} alive", interval=0.25)

    def agents(self, host: str) -> list[Json]:
        """What the server knows of the agents of a host, by the name that they have for it."""
        found: list[Json] = self._request("GET", f"agents?host={host}")["agents"]
        return found

    def add_user(self, name: str, password: str) -> None:
        """Let a user at the message queue."""
        script = (
            f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{password}">>, <<"lab">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"/">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"lab">>).'
        )
        command = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-n", "lab@localhost", "eval", script]
        env = {"HOME": f"{STATE}/rabbitmq"}
        self.machine.run(["runuser", "-u", "rabbitmq", "--", *command], env=env)

    def stop_agent(self) -> None:
        """End the running agent, if any; what it has wired stays wired.

        By SIGKILL: asked to end, it takes ten seconds to say good-bye to the server.
        """
        if self.agent is not None:
            self.agent.kill()
            self.agent = None

    def use_agent(self, kind: AgentKind) -> None:
        """Make sure that the agent of that kind runs, and no other one."""
        if self.agent is not None and self._kind != kind:
            self.stop_agent()
        if self.agent is None:
            self.start_agent(kind)

    def _forget_rules_of_others(self, kind: AgentKind) -> None:
        """Remove the packet filter rules that an agent of another kind has left."""
        if self._kind in (None, kind):
            return
        commands = [
            f"{tool} -w -t {table} {action}"
            for tool in ("iptables", "ip6tables")
            for table in ("filter", "raw")
            for action in ("-F", "-X")
        ]
        self.machine.run("\n".join(["set -e", *commands]))

    def _open_ovsdb(self) -> None:
        """Let ovsdb-server listen where the agent looks for it."""
        if not self._listens(OVSDB_PORT):
            remote = f"ptcp:{OVSDB_PORT}:127.0.0.1"
            self.machine.appctl("-t", "ovsdb-server", "ovsdb-server/add-remote", remote)

    def _agent_host(self, kind: AgentKind) -> str:
        return f"{self.machine.name}-{kind.replace('_', '-')}"

    def _listens(self, port: int) -> bool:
        """Whether something listens on that TCP port; the cheapest way to ask."""
        wanted = f":{port:04X}"
        for line in self.machine.read("/proc/1/net/tcp").splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
        return False

    # ---- networks and ports ------------------------------------------------------------------

    def create_network(self, name: str, subnet: str, *, mtu: int = 1442) -> NeutronNetwork:
        """Create a network and its subnet, without DHCP and without a router.

        Args:
            name: of both.
            subnet: like ``10.0.0.0/24``.
            mtu: bytes.
        """
        made = self._create("network", name=name, mtu=mtu)
        self._create(
            "subnet",
            name=name,
            network_id=made["id"],
            ip_version=4,
            cidr=subnet,
            enable_dhcp=False,
            gateway_ip=None,
        )
        return NeutronNetwork(made["id"], ipaddress.IPv4Network(subnet), mtu)

    def create_port(
        self, network: NeutronNetwork, groups: Sequence[str], *, device: str = ""
    ) -> NeutronPort:
        """Create a port on this host, for the agent that runs.

        Args:
            network: where.
            groups: the security groups' ids.
            device: the VM's id.

        Raises:
            NeutronError: refused, or bound to no agent.
        """
        return self.create_ports(1, network, groups, device=device)[0]

    def create_ports(
        self, count: int, network: NeutronNetwork, groups: Sequence[str], *, device: str = ""
    ) -> list[NeutronPort]:
        """Create several ports in one request, which takes half a second for each."""
        if self._kind is None:
            raise NeutronError("a port is bound to an agent, and none was started")
        wanted = {
            "tenant_id": PROJECT,
            "network_id": network.id,
            "security_groups": list(groups),
            "binding:host_id": self._agent_host(self._kind),
            "device_owner": OWNER,
            "device_id": device,
        }
        answer = self._request("POST", "ports", {"ports": [wanted] * count})
        return [self._port(made, network) for made in answer["ports"]]

    def _port(self, made: Json, network: NeutronNetwork) -> NeutronPort:
        if made["binding:vif_type"] in ("binding_failed", "unbound"):
            raise NeutronError(f"port {made['id']}: {made['binding:vif_type']}")
        address = made["fixed_ips"][0]["ip_address"]
        details = made["binding:vif_details"]
        return NeutronPort(made["id"], made["mac_address"], address, network, details)

    def set_admin_state(self, port: NeutronPort, up: bool) -> None:
        """Switch a port on or off."""
        self._request("PUT", f"ports/{port.id}", {"port": {"admin_state_up": up}})

    def delete_port(self, port: NeutronPort) -> None:
        """Delete a port."""
        self._request("DELETE", f"ports/{port.id}")

    def port_status(self, port: NeutronPort) -> str:
        """What Neutron says of a port: ``ACTIVE``, ``DOWN`` or ``BUILD``."""
        return str(self._request("GET", f"ports/{port.id}?fields=status")["port"]["status"])

    def statuses(self, ports: Iterable[NeutronPort]) -> dict[str, str]:
        """The status of many ports by their id, in one request."""
        wanted = {port.id for port in ports}
        answer = self._request("GET", "ports?fields=id&fields=status")
        return {port["id"]: port["status"] for port in answer["ports"] if port["id"] in wanted}

    def wait_status(self, status: str, *ports: NeutronPort, timeout: float = 30.0) -> None:
        """Wait until Neutron says of all the ports that they have that status.

        Raises:
            TimeoutError: of one it doesn't.
        """

        def others() -> dict[str, str]:
            found = self.statuses(ports)
            return {port: seen for port, seen in found.items() if seen != status}

        try:
            wait_until(lambda: not others(), timeout, f"ports {status}", interval=0.25)
        except TimeoutError as late:
            raise TimeoutError(f"{late}: {others()}") from None

    # ---- security groups ---------------------------------------------------------------------

    def create_security_group(self, name: str) -> str:
        """Create a security group, which lets everything out and nothing in; returns its id."""
        return str(self._create("security_group", name=name)["id"])

    def add_rule(self, group: str, protocol: str | None = None) -> str:
        """Let IPv4 traffic in, of one protocol or any; returns the rule's id."""
        more = {} if protocol is None else {"protocol": protocol}
        rule = self._create(
            "security_group_rule",
            security_group_id=group,
            direction="ingress",
            ethertype="IPv4",
            **more,
        )
        return str(rule["id"])

    def delete_rule(self, rule: str) -> None:
        """Take a rule back."""
        self._request("DELETE", f"security-group-rules/{rule}")

    # ---- REST --------------------------------------------------------------------------------

    def _create(self, kind: str, **attributes: Any) -> Json:
        body = {kind: {"tenant_id": PROJECT, **attributes}}
        answer: Json = self._request("POST", f"{kind.replace('_', '-')}s", body)[kind]
        return answer

    def _request(self, method: str, path: str, body: Json | None = None) -> Json:
        url = f"http://127.0.0.1:{API_PORT}/v2.0/{path}"
        command = ["curl", "-sS", "-X", method, "-H", "Content-Type: application/json", url]
        text = None
        if body is not None:
            command += ["--data-binary", "@-"]
            text = json.dumps(body)
        answer = self.machine.run(command, input=text, timeout=180).stdout
        if not answer.strip():
            return {}
        try:
            content: Json = json.loads(answer)
        except ValueError:
            raise NeutronError(f"{method} {path}: {answer[:1000]}") from None
        if "NeutronError" in content:
            raise NeutronError(f"{method} {path}: {content['NeutronError']}")
        return content


class NeutronLab(Lab):
    """A lab of one hypervisor, which has no OVN but Neutron's server and agents.

    Attributes:
        neutron: Neutron on that hypervisor; its server runs, none of its agents does.
    """

    def __init__(self) -> None:
        super().__init__(hypervisors=1, ovn=False)
        self.neutron = Neutron(self.hosts[0])

    def start(self) -> None:
        """Start the hypervisor and Neutron's server on it."""
        super().start()
        self.neutron.start()

    def save_logs(self, test: str) -> Path:
        """Copy all logs, and Neutron's, to ``build/lab-logs/<test>``; return that directory."""
        target = super().save_logs(test)
        host = self.hosts[0]
        if host.powered:
            host.collect(target / "neutron", [LOG, ETC])
            tables = host.run("iptables-save; ebtables-save", check=False).stdout
            (target / "neutron" / "packet-filter.txt").write_text(tables)
        return target


def _config(agent_or_plugin: str) -> list[str]:
    return ["--config-file", SERVER_CONFIG, "--config-file", agent_or_plugin]
