# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy module, built and loaded into a policy of its own, and what that policy then says.

No kernel enforces it here: what is asked is the policy, by setools.  It is Debian's, with every
module that it has.  EL's has other names; the last test says how far they are covered.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import setools

from tests.lab.conftest import CONFIGURATION
from tests.lab.harness.command import CommandError, run_command
from tests.lab.harness.lab import Lab
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.product import AGENT as PROGRAM
from tests.lab.harness.product import SystemdProduct, install_into
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.vdsm import Vdsm
from tests.lab.harness.vdsm_notes import NETCONF, save
from tests.lab.neutron_vnics import FILTERED_BY_IPTABLES, a_vm

SOURCE = PROJECT / "selinux"
DEVEL = Path("/usr/share/selinux/devel")
# The distribution's modules; "default" is what Debian calls its policy.
MODULES = Path("/usr/share/selinux/default")
STORE = "default"
AGENT = "vif_agent_t"

FILES = {"file", "dir", "lnk_file", "sock_file", "fifo_file", "chr_file", "blk_file"}
READ = {"read"}
CHANGE = {
    "append", "add_name", "create", "link", "mounton", "relabelfrom", "relabelto",
    "remove_name", "rename", "reparent", "rmdir", "setattr", "unlink", "write",
}  # fmt: skip

# Of files and the like the agent may change these; all of the others are sockets to write to.
ITS_OWN = {"vif_agent_state_t", "vif_agent_metrics_t"}
SOCKETS = {
    "openvswitch_runtime_t",  # Open vSwitch's database
    "virt_runtime_t",  # libvirt
    "devlog_t",  # the journal
    "init_runtime_t",  # sd_notify(3)
    "avahi_runtime_t", "nscd_runtime_t", "systemd_resolved_runtime_t",  # names of hosts
}  # fmt: skip

# What a process of everybody's runs as: guests, services that listen, users.
STRANGERS = ("svirt_t", "sshd_t", "dnsmasq_t", "user_t", "quantum_t", "openvswitch_t")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module was built and installed, by its own Makefile."""
    folder = tmp_path_factory.mktemp("built")
    sources = shutil.copytree(SOURCE, folder / "selinux", ignore=shutil.ignore_patterns("tmp"))
    make(sources, "install", f"DESTDIR={folder / 'root'}")
    return folder


@pytest.fixture(scope="module")
def root(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of its own, with the module; every assertion of the distribution's holds in it."""
    root = tmp_path_factory.mktemp("policy")
    (root / "etc/selinux").mkdir(parents=True)
    (root / "var/lib/selinux").mkdir(parents=True)
    settings = "module-store = direct\nexpand-check = 1\nbzip-blocksize = 0\n"
    (root / "etc/selinux/semanage.conf").write_text(settings)
    ours = built / "root/usr/share/selinux/packages/targeted/vif_agent.pp.bz2"
    modules = [str(path) for path in (*sorted(MODULES.glob("*.pp.bz2")), ours)]
    run_command(
        "here",
        ["semodule", "--path", str(root), "--store", STORE, "--noreload", "--install", *modules],
        timeout=180,
    )
    return root


@pytest.fixture(scope="module")
def policy(root: Path) -> Any:
    """What the kernel would be given."""
    (binary,) = (root / f"etc/selinux/{STORE}/policy").glob("policy.*")
    return setools.SELinuxPolicy(str(binary))


def make(folder: Path, *arguments: str) -> None:
    run_command("here", ["make", "-s", "-C", str(folder), *arguments], timeout=120)


@functools.cache
def rules(policy: Any, **wanted: Any) -> Sequence[Any]:
    """The rules that allow something, whether to a type or to all of its kind."""
    return list(setools.TERuleQuery(policy, ruletype=["allow"], **wanted).results())


def allowed(policy: Any, source: str, permissions: set[str], classes: set[str]) -> Iterator[Any]:
    """The rules by which a domain may do one of some things."""
    for rule in rules(policy, source=source):
        if str(rule.tclass) in classes and permissions & set(rule.perms):
            yield rule


def targets(policy: Any, source: str, permissions: set[str], classes: set[str]) -> set[str]:
    """The types to which a domain may do one of some things."""
    found = allowed(policy, source, permissions, classes)
    return {str(target) for rule in found for target in rule.target.expand()}


def members(policy: Any, attribute: str) -> set[str]:
    return {str(one) for one in policy.lookup_typeattr(attribute).expand()}


def who_connects(policy: Any) -> set[str]:
    """The domains that may connect to the agent's socket."""
    found = [rule for rule in rules(policy, target=AGENT) if "connectto" in rule.perms]
    return {str(one) for rule in found for one in rule.source.expand()}


# ---- as it is installed --------------------------------------------------------------------------


def test_it_is_installed_where_the_distributions_tools_look(built: Path) -> None:
    root = built / "root"
    installed = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    assert installed == {
        "usr/share/selinux/packages/targeted/vif_agent.pp.bz2",
        "usr/share/selinux/devel/include/distributed/vif_agent.if",
    }


def test_without_the_distributions_makefile_it_is_said_what_to_install(tmp_path: Path) -> None:
    sources = shutil.copytree(SOURCE, tmp_path / "selinux")
    (sources / "vif_agent.pp").unlink(missing_ok=True)

    done = run_command("here", ["make", "-s", "-C", str(sources), "DEVEL=/nowhere"], check=False)

    assert done.returncode != 0
    assert "install selinux-policy-devel (EL) or selinux-policy-dev (Debian)" in done.stderr


# ---- how the agent starts ------------------------------------------------------------------------


def test_systemd_starts_the_agent_in_its_domain(policy: Any) -> None:
    transitions = setools.TERuleQuery(
        policy, ruletype=["type_transition"], source="init_t", target="vif_agent_exec_t",
        tclass={"process"},
    )  # fmt: skip
    assert {str(rule.default) for rule in transitions.results()} == {AGENT}
    assert AGENT in targets(policy, "init_t", {"transition"}, {"process"})
    # Its units have NoNewPrivileges=yes, which would keep it in systemd's domain.
    assert AGENT in targets(policy, "init_t", {"nnp_transition"}, {"process2"})
    entrances = targets(policy, AGENT, {"entrypoint"}, {"file"})
    assert entrances == {"vif_agent_exec_t"}


def test_the_agent_is_confined(policy: Any) -> None:
    assert not policy.lookup_type(AGENT).ispermissive
    kinds = {str(attribute) for attribute in policy.lookup_type(AGENT).attributes()}
    assert {"domain", "daemon"} <= kinds
    assert not {kind for kind in kinds if "unconfined" in kind}


def test_of_root_it_has_nothing_but_the_network(policy: Any) -> None:
    kinds = {"capability", "capability2", "cap_userns", "cap2_userns"}
    found = [rule for rule in rules(policy, source=AGENT) if str(rule.tclass) in kinds]

    assert {name for rule in found for name in rule.perms} == {"net_admin"}


# ---- what it may do ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("passwords", "shadow_t"),
        ("the host's ssh keys", "sshd_key_t"),
        ("users' ssh keys", "ssh_home_t"),
        ("VMs' images", "virt_image_t"),
        ("running VMs' images", "svirt_image_t"),
        ("VMs' media", "virt_content_t"),
        ("libvirt's configuration", "virt_etc_t"),
        ("Open vSwitch's keys and database", "openvswitch_conf_t"),
        ("disks", "fixed_disk_device_t"),
        ("memory", "memory_device_t"),
        ("logs", "auditd_log_t"),
        ("homes", "user_home_t"),
    ],
)
def test_it_may_not_read(policy: Any, what: str, kind: str) -> None:
    readable = targets(policy, AGENT, READ, FILES - {"dir"})

    assert {"vif_agent_etc_t", "vif_agent_netconf_t"} <= readable
    assert policy.lookup_type(kind)
    assert kind not in readable, what


def test_it_writes_only_its_own_files_network_settings_and_sockets(policy: Any) -> None:
    assert targets(policy, AGENT, CHANGE, {"dir", "lnk_file", "blk_file"}) == ITS_OWN
    # /proc/self is the process's own; init_tmpfs_t is what systemd hands over already open.
    files = targets(policy, AGENT, CHANGE, {"file"})
    assert files == ITS_OWN | {"sysctl_net_t", AGENT, "init_tmpfs_t"}
    sockets = targets(policy, AGENT, CHANGE, {"sock_file"})
    assert sockets == SOCKETS | {"setrans_runtime_t"}  # that is everybody's
    pipes = targets(policy, AGENT, CHANGE, {"fifo_file"})
    assert pipes == {AGENT, "init_t", "initrc_t"}  # inherited ones


def test_of_devices_it_writes_what_every_daemon_does(policy: Any) -> None:
    writable = targets(policy, AGENT, CHANGE, {"chr_file"})
    of_a_daemon = targets(policy, "chronyd_t", CHANGE, {"chr_file"})

    assert "null_device_t" in writable
    assert writable <= of_a_daemon | {"console_device_t", "initrc_devpts_t"}


def test_of_the_kernels_sockets_it_has_routes_and_lists_of_connections(policy: Any) -> None:
    found = [rule for rule in rules(policy, source=AGENT) if "create" in rule.perms]
    made = {str(rule.tclass) for rule in found if str(rule.tclass).endswith("socket")}

    assert made == {
        "netlink_route_socket", "netlink_tcpdiag_socket",
        "tcp_socket", "udp_socket", "unix_stream_socket", "unix_dgram_socket",
    }  # fmt: skip


def test_it_connects_to_ovn_and_name_servers_alone(policy: Any) -> None:
    reached = targets(policy, AGENT, {"name_connect"}, {"tcp_socket"})

    assert reached == {"unreserved_port_t", "dns_port_t"}
    # 6641 and 6642, OVN's, are among the former.
    for port in (6641, 6642):
        numbers = setools.PortconQuery(policy, ports=(port, port), ports_overlap=True)
        kinds = {str(one.context.type_) for one in numbers.results() if "tcp" in str(one.protocol)}
        assert "unreserved_port_t" in kinds


def test_it_listens_nowhere_on_the_network(policy: Any) -> None:
    assert not targets(policy, AGENT, {"name_bind"}, {"tcp_socket", "udp_socket"})
    assert not targets(policy, AGENT, {"node_bind"}, {"tcp_socket", "udp_socket"})


def test_it_talks_to_open_vswitch_libvirt_and_what_all_daemons_do(policy: Any) -> None:
    reached = targets(policy, AGENT, {"connectto"}, {"unix_stream_socket"})

    assert {"openvswitch_t", "virtd_t"} <= reached
    assert reached - {"openvswitch_t", "virtd_t", AGENT} <= {
        "avahi_t", "nscd_t", "setrans_t", "syslogd_t", "systemd_resolved_t",
        "systemd_socket_proxyd_t",
    }  # fmt: skip


def test_it_starts_programs_in_no_other_domain(policy: Any) -> None:
    assert not targets(policy, AGENT, {"transition", "dyntransition"}, {"process"})
    assert not targets(policy, AGENT, {"ptrace", "sigkill"}, {"process"})
    assert targets(policy, AGENT, {"execute_no_trans"}, {"file"}) == {"bin_t"}


# ---- who reaches it ------------------------------------------------------------------------------


def test_hooks_and_administrators_connect_to_its_socket_and_nobody_else(policy: Any) -> None:
    administrators = members(policy, "unconfined_domain_type") | {"sysadm_t"}

    assert who_connects(policy) - administrators == {"virtd_t", AGENT}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_others_do_not_reach_it(policy: Any, stranger: str) -> None:
    assert policy.lookup_type(stranger)
    assert stranger not in who_connects(policy)
    own = {
        "vif_agent_etc_t", "vif_agent_state_t", "vif_agent_released_t", "vif_agent_var_run_t",
        "vif_agent_netconf_t",
    }  # fmt: skip
    assert not own & targets(policy, stranger, CHANGE, FILES)


def test_hooks_have_what_they_need_and_no_more(policy: Any) -> None:
    ours = {"vif_agent_etc_t", "vif_agent_state_t", "vif_agent_released_t", "vif_agent_var_run_t"}

    def given(permissions: set[str], kind: str) -> set[str]:
        """What our module gives the domain of the hooks, of our own types."""
        found = rules(policy, source="virtd_t", source_indirect=False)
        found = [rule for rule in found if str(rule.tclass) == kind]
        return ours & {str(rule.target) for rule in found if permissions & set(rule.perms)}

    assert given({"write"}, "sock_file") == {"vif_agent_var_run_t"}
    assert given({"read"}, "file") == {
        "vif_agent_etc_t", "vif_agent_state_t", "vif_agent_released_t",
    }  # fmt: skip
    assert given({"write", "create", "unlink"}, "file") == {"vif_agent_released_t"}
    assert given({"add_name", "remove_name"}, "dir") == {"vif_agent_released_t"}


def test_vdsms_notes_are_found_behind_their_link_in_the_content_of_vms(policy: Any) -> None:
    assert "vif_agent_netconf_t" in targets(policy, AGENT, READ, {"lnk_file"})
    assert "vif_agent_netconf_t" in targets(policy, AGENT, READ, {"dir"})
    above = targets(policy, AGENT, {"search"}, {"dir"})
    assert {"var_lib_t", "virt_content_t"} <= above
    assert not {"var_lib_t", "virt_content_t"} & targets(policy, AGENT, READ, FILES)


def test_a_folder_that_vdsm_makes_for_its_notes_gets_their_label(policy: Any) -> None:
    named = setools.TERuleQuery(
        policy, ruletype=["type_transition"], source="virtd_t", target="virt_content_t",
        default="vif_agent_netconf_t", tclass={"dir"},
    )  # fmt: skip

    assert {rule.filename for rule in named.results()} == {"staging", "persistence"}


def test_vdsm_has_all_rights_on_its_notes_and_copies_them_with_their_labels(policy: Any) -> None:
    for kind in ("dir", "file", "lnk_file"):
        for right in ("read", "create", "rename", "unlink" if kind != "dir" else "rmdir"):
            assert "vif_agent_netconf_t" in targets(policy, "virtd_t", {right}, {kind}), right
    for kind in ("dir", "file"):
        for right in ("relabelfrom", "relabelto"):
            assert "vif_agent_netconf_t" in targets(policy, "virtd_t", {right}, {kind}), right


def test_systemd_makes_the_socket_and_the_folders(policy: Any) -> None:
    assert "vif_agent_var_run_t" in targets(policy, "init_t", {"create"}, {"sock_file"})
    made = targets(policy, "systemd_tmpfiles_t", {"create"}, {"dir"})
    assert {
        "vif_agent_var_run_t", "vif_agent_state_t", "vif_agent_metrics_t", "vif_agent_released_t",
    } <= made  # fmt: skip
    # The entry for the agent's user on the socket of Open vSwitch's database.
    entered = targets(policy, "systemd_tmpfiles_t", {"setattr"}, {"sock_file"})
    assert "openvswitch_runtime_t" in entered


# ---- labels --------------------------------------------------------------------------------------

LABELS = {
    "/usr/sbin/vif-agent": "vif_agent_exec_t",
    "/usr/libexec/vif-driver/boot-pass": "vif_agent_exec_t",
    "/usr/libexec/vif-driver/without-agent": "bin_t",  # in the domain of the hook that runs it
    "/usr/libexec/vdsm/hooks/before_device_create/50_vif_driver": "bin_t",
    "/usr/bin/vifctl": "bin_t",  # in the administrator's
    "/etc/vif-driver": "vif_agent_etc_t",
    "/etc/vif-driver/vif-driver.conf": "vif_agent_etc_t",
    "/run/vif-driver": "vif_agent_var_run_t",
    "/run/vif-driver/agent.sock": "vif_agent_var_run_t",
    "/run/vif-driver/allowed/bond0": "vif_agent_var_run_t",
    "/run/vif-driver/starting": "vif_agent_state_t",
    "/run/vif-driver/starting/1": "vif_agent_state_t",
    "/run/vif-driver/protected/known": "vif_agent_state_t",
    "/run/vif-driver/released/1": "vif_agent_released_t",
    "/run/vif-driver/metrics/vif-driver.prom": "vif_agent_metrics_t",
    "/var/lib/vdsm/storage/image": "var_lib_t",  # EL's policy has another type for it
    "/var/lib/vdsm/staging": "vif_agent_netconf_t",
    "/var/lib/vdsm/staging/netconf": "vif_agent_netconf_t",
    "/var/lib/vdsm/staging/netconf.KvHmQd3z/nets/ovirtmgmt": "vif_agent_netconf_t",
    "/var/lib/vdsm/persistence/netconf.aB3dE5gH/bonds/bond0": "vif_agent_netconf_t",
}


def labels(root: Path, paths: list[str], kind: str = "file") -> dict[str, str]:
    """What a policy calls the files at paths, whether or not they are there."""
    contexts = root / f"etc/selinux/{STORE}/contexts/files/file_contexts"
    command = ["matchpathcon", "-m", kind, "-f", str(contexts), *paths]
    lines = run_command("here", command).stdout.splitlines()
    types = {}
    for line in lines:
        path, context = line.split()
        # For those below /run that have none by their path: it is their folder's, then.
        types[path] = "var_run_t" if context == "<<none>>" else context.split(":")[2]
    return types


def test_files_are_labelled(root: Path) -> None:
    assert labels(root, list(LABELS)) == LABELS


def test_a_policy_that_says_var_run_labels_the_same(root: Path) -> None:
    # Ours for EL9, whose policy looks /run up as /var/run; here with nothing in between.
    contexts = root / f"etc/selinux/{STORE}/contexts/files/file_contexts"
    lines = [line.split() for line in contexts.read_text().splitlines() if "vif-driver" in line]

    def below(prefix: str) -> dict[str, str]:
        return {line[0][len(prefix) :]: line[-1] for line in lines if line[0].startswith(prefix)}

    assert below("/run/") == below("/var/run/")
    assert len(below("/run/")) == 5


def test_everything_that_is_installed_has_a_label(root: Path, tmp_path: Path) -> None:
    install_into(tmp_path)
    there = [f"/{path.relative_to(tmp_path)}" for path in tmp_path.rglob("*") if path.is_file()]

    known = labels(root, there)

    assert len(known) == len(there) > 100
    assert not {path for path, kind in known.items() if kind in ("default_t", "unlabeled_t")}
    ours = {path for path, kind in known.items() if kind.startswith("vif_agent")}
    assert ours == {
        "/usr/sbin/vif-agent", "/usr/libexec/vif-driver/boot-pass",
        "/etc/vif-driver/vif-driver.conf",
    }  # fmt: skip


# ---- what the agent really does ------------------------------------------------------------------

TRACE = "/run/vif-driver/metrics/trace"
# As the service, with what its sandbox denies to a tracer; of system calls those that succeed.
TRACED = f"""[Service]
SystemCallFilter=@debug @setuid
ExecStart=
ExecStart=/usr/bin/strace -D -f -z -y -s 4096 -e trace=%%file,connect,socket -o {TRACE} {PROGRAM}
"""
CLASSES = {"S_IFREG": "file", "S_IFDIR": "dir", "S_IFSOCK": "sock_file", "S_IFCHR": "chr_file"}
SOCKET_CLASSES = {
    "AF_UNIX, SOCK_STREAM": "unix_stream_socket",
    "AF_UNIX, SOCK_DGRAM": "unix_dgram_socket",
    "NETLINK_ROUTE": "netlink_route_socket",
    "NETLINK_SOCK_DIAG": "netlink_tcpdiag_socket",
    "AF_INET, SOCK_DGRAM": "udp_socket",
    "AF_INET6, SOCK_DGRAM": "udp_socket",
    "AF_INET, SOCK_STREAM": "tcp_socket",
    "AF_INET6, SOCK_STREAM": "tcp_socket",
}
# Done to what stands first in the call.
BY_NAME = {
    "unlink": ("file", "unlink"),
    "rename": ("file", "rename"),
    "chmod": ("file", "setattr"),
    "readlink": ("lnk_file", "read"),
    "readlinkat": ("lnk_file", "read"),
    "execve": ("file", "execute"),
}


@dataclasses.dataclass(frozen=True, order=True)
class Need:
    """A right that the agent has used, on the file at a path, or on a socket of its own."""

    path: str
    kind: str
    right: str


@pytest.fixture(scope="module")
def needs() -> set[Need]:
    """What the agent of a host under systemd used while vNICs came and went."""
    with Lab(hypervisors=1, systemd=True) as lab:
        host = lab.hosts[0]
        assert isinstance(host, SystemdHypervisor)
        product = SystemdProduct(host)
        product.install()
        host.write(CONFIGURATION, f"{FILTERED_BY_IPTABLES}[start]\ndeadline = 0\n")
        host.write("/etc/pki/vdsm/keys/libvirt_password", "secret", mode=0o600, owner="vdsm")
        host.libvirt.require_password("secret")
        host.libvirt.restart()
        product.agent.configure("traced", TRACED)
        product.start()
        vdsm = Vdsm(host)
        vdsm.get_capabilities({"hostDevices": ["x" * 100] * 50_000})  # read by another process
        vdsm.get_stats()
        save(host, {"storage": {"nic": "eth0", "bridged": False}})
        vdsm.setup_networks({"storage": {"nic": "eth0", "bridged": False, "mtu": 1500}})
        vm = a_vm()
        vdsm.create_vm(vm)
        vdsm.destroy_vm(vm)
        # For a report VDSM waits a few seconds only, and strace takes its time.
        assert all(run.status == 0 for run in vdsm.runs if run.vm_id), vdsm.runs
        product.stop()
        return set(used(host.read(TRACE)))


def used(trace: str) -> Iterator[Need]:
    """Give the rights that system calls needed, as strace writes them."""
    for line in trace.splitlines():
        call = re.match(r"\d+ +(\w+)\((.*)\) += (\S+)", line)
        if call is None:
            continue
        name, arguments, result = call.groups()
        path = next(iter(re.findall(r'"(/[^"]*)"', arguments)), "")
        path = re.sub("^/var/run/", "/run/", path)  # a link, to libvirt as well
        opened = re.fullmatch(r"\d+<(/.*)>", result)
        mode = re.search(r"st_mode=(S_IF[A-Z]+)", arguments)
        if name in ("open", "openat") and opened:
            directory, device = "O_DIRECTORY" in arguments, opened[1].startswith("/dev/")
            kind = "dir" if directory else "chr_file" if device else "file"
            # What the kernel shows in /proc is never made by opening it.
            makes = "O_CREAT" in arguments and not opened[1].startswith("/proc/")
            wanted = {"open": True, "create": makes}
            wanted["read"] = "O_WRONLY" not in arguments
            wanted["write"] = "O_RDONLY" not in arguments
            yield from (Need(opened[1], kind, right) for right in wanted if wanted[right])
        elif "stat" in name and path and mode and mode[1] in CLASSES:
            yield Need(path, CLASSES[mode[1]], "getattr")
        elif name in BY_NAME and path:
            yield Need(path, *BY_NAME[name])
        elif name == "connect" and path:
            yield Need(path, "sock_file", "write")
        elif name == "socket":
            (kind,) = (kind for words, kind in SOCKET_CLASSES.items() if words in arguments)
            yield Need(AGENT, kind, "create")


def kinds_of(policy: Any, root: Path, needs: set[Need]) -> dict[Need, str]:
    """The types of what the agent has used, by the policy."""
    found = {need: _kind_of(policy, need.path) for need in needs}
    for kind in {need.kind for need in needs}:
        others = [need for need in needs if need.kind == kind and not found[need]]
        named = labels(root, sorted({need.path for need in others}), kind) if others else {}
        found.update((need, named[need.path]) for need in others)
    return found


def _kind_of(policy: Any, path: str) -> str:
    """The type of what is no file of a disk's; nothing for one that is."""
    if path == AGENT or re.match(r"/proc/(self|thread-self)\b", path):
        return AGENT
    if re.match(r"/proc/\d", path):
        return "init_t"  # or that of any other process
    if path.startswith("/run/credentials/"):
        return "ramfs_t"
    for top, system in (("/proc", "proc"), ("/sys", "sysfs")):
        if path.startswith(f"{top}/"):
            named = [one for one in policy.genfscons() if one.fs == system]
            fitting = [one for one in named if path[len(top) :].startswith(one.path)]
            return str(max(fitting, key=lambda one: len(one.path)).context.type_)
    return ""


def test_what_it_does_all_day_is_allowed(policy: Any, root: Path, needs: set[Need]) -> None:
    given: dict[tuple[str, str], set[str]] = {}
    for rule in rules(policy, source=AGENT):
        for target in rule.target.expand():
            given.setdefault((str(target), str(rule.tclass)), set()).update(rule.perms)

    denied = sorted(
        f"{need.right} of {need.kind} {need.path} ({kind})"
        for need, kind in kinds_of(policy, root, needs).items()
        if need.right not in given.get((kind, need.kind), ())
    )

    seen = {(need.path, need.right) for need in needs}
    assert ("/run/openvswitch/db.sock", "write") in seen
    assert any("/proc/sys/net/" in path and right == "write" for path, right in seen)
    assert any(path.startswith("/run/credentials/") for path, _ in seen)
    assert any(re.match(f"{NETCONF}[.].*/nets/storage", path) for path, _ in seen)
    assert any(path.startswith("/usr/bin/python3") and right == "execute" for path, right in seen)
    assert not denied, "\n".join(denied)


# ---- EL's policy ---------------------------------------------------------------------------------

# Gives a compiled module as text.
TRANSLATOR = "/usr/libexec/selinux/hll/pp"

# The interfaces of Fedora's policy, from which EL's is made, that the module may ask for; each was
# looked up in its sources (policy/modules of fedora-selinux/selinux-policy).
FEDORA = (
    "init_daemon_domain",
    "files_config_file",
    "files_pid_file",
    "files_type",
    "corecmd_exec_bin",
    "miscfiles_read_generic_certs",
    "auth_read_passwd",
    "dev_read_sysfs",
    "kernel_read_system_state",
    "kernel_read_network_state",
    "kernel_read_kernel_sysctls",
    "kernel_rw_net_sysctls",
    "kernel_request_load_module",
    "domain_read_all_domains_state",
    "logging_send_syslog_msg",
    "sysnet_dns_name_resolve",
    "virt_stream_connect",
)


@pytest.fixture
def fedora(tmp_path: Path) -> Path:
    """A folder like the distribution's, that has Fedora's interfaces by name, and no others."""
    devel = tmp_path / "devel"
    include = devel / "include"
    shutil.copytree(DEVEL / "include/support", include / "support")
    for name in ("Makefile", "build.conf"):
        shutil.copy(DEVEL / "include" / name, include)
    (include / "system").mkdir()
    body = "gen_require(`type init_t;') allow $1 self:process fork;"
    stubs = [f"interface(`{name}',`{body}')\n" for name in FEDORA]
    (include / "system/all.if").write_text("".join(stubs))
    makefile = (DEVEL / "Makefile").read_text().replace("/usr/share/selinux/devel", str(devel))
    makefile = makefile.replace("$(SHAREDIR)/devel/include", str(include))
    (devel / "Makefile").write_text(makefile)
    return devel


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The module's sources, not built yet."""
    copied = shutil.copytree(SOURCE, tmp_path / "selinux", ignore=shutil.ignore_patterns("tmp"))
    (copied / "vif_agent.pp").unlink(missing_ok=True)
    return copied


def test_it_compiles_with_fedoras_names(fedora: Path, sources: Path) -> None:
    make(sources, f"DEVEL={fedora}")

    module = (sources / "vif_agent.pp").read_bytes()
    text = subprocess.run([TRANSLATOR], input=module, capture_output=True, check=True).stdout
    # Debian's policy has given these by itself; Fedora's "init_daemon_domain" does not.
    assert b"(allow init_t vif_agent_t (process2 (nnp_transition nosuid_transition)))" in text
    assert b"(allow vif_agent_t init_t (unix_dgram_socket (sendto)))" in text


def test_a_name_that_fedora_has_not_would_be_noticed(fedora: Path, sources: Path) -> None:
    with (sources / "vif_agent.te").open("a") as file:
        file.write("files_runtime_file(vif_agent_state_t)\n")

    with pytest.raises(CommandError, match="syntax error"):
        make(sources, f"DEVEL={fedora}")
