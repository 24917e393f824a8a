# SPDX-License-Identifier: GPL-2.0-or-later
"""What Neutron's agents are told of the host's network."""

from __future__ import annotations

from pathlib import Path

import pytest

from vif_driver.host import neutron_agent
from vif_driver.host.neutron_agent import Underlay

OVS = "plugins/ml2/openvswitch_agent.ini"
LINUX_BRIDGE = "plugins/ml2/linuxbridge_agent.ini"


def told(folder: Path, file: str, text: str) -> Underlay:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return neutron_agent.underlay(folder)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("transport_url = rabbit://n:canary@mq/\n", "line 1 stands before the first [section]"),
        ("[DEFAULT]\n= rabbit://n:canary@mq/\n", "not understood: line 2"),
        ("[DEFAULT\npassword = canary\n", "line 1 stands before the first [section]"),
    ],
)
def test_of_a_file_that_cannot_be_read_no_word_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    (tmp_path / "neutron.conf").write_text(text)

    assert neutron_agent.firewall_driver(tmp_path) is None

    assert caplog.messages == [f"{tmp_path / 'neutron.conf'} cannot be read: {why}"]


def test_without_files_nothing_is_told(tmp_path: Path) -> None:
    assert neutron_agent.underlay(tmp_path) == Underlay()


def test_the_open_vswitch_agent_has_bridges_and_an_end_of_tunnels(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        OVS,
        "[ovs]\nintegration_bridge = br-n\nbridge_mappings = p1:br-1, p2:br-2\n"
        "local_ip = 192.0.2.1\n[agent]\ntunnel_types = vxlan,gre\n",
    )

    assert found == Underlay(
        switches={"p1": "br-1", "p2": "br-2"},
        tunnel_ends={"192.0.2.1": ("vxlan", "gre")},
        integration_bridge="br-n",
    )


def test_an_agent_that_makes_no_tunnels_has_no_end_of_them(tmp_path: Path) -> None:
    assert told(tmp_path, OVS, "[ovs]\nlocal_ip = 192.0.2.1\n").tunnel_ends == {}


def test_the_linux_bridge_agent_has_devices_and_bridges(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        LINUX_BRIDGE,
        "[linux_bridge]\nphysical_interface_mappings = p1:eth1\nbridge_mappings = p2:br-2\n"
        "[vxlan]\nlocal_ip = 192.0.2.1\n",
    )

    assert found == Underlay(
        bridges={"p2": "br-2"},
        interfaces={"p1": "eth1"},
        tunnel_ends={"192.0.2.1": ("vxlan",)},
    )


@pytest.mark.parametrize("word", ["false", "False", "0", "no"])
def test_its_tunnels_can_be_switched_off(tmp_path: Path, word: str) -> None:
    text = f"[vxlan]\nenable_vxlan = {word}\nlocal_ip = 192.0.2.1\n"

    assert told(tmp_path, LINUX_BRIDGE, text).tunnel_ends == {}


def test_a_file_that_is_no_ini_file_is_left_out(tmp_path: Path) -> None:
    told(tmp_path, OVS, "[ovs]\nbridge_mappings = p1:br-1\n")

    assert told(tmp_path, LINUX_BRIDGE, "%%%").switches == {"p1": "br-1"}


def test_pairs_that_are_none_are_left_out(tmp_path: Path) -> None:
    text = "[ovs]\nbridge_mappings = p1, :, p2:, p3:br-3\n"

    assert told(tmp_path, OVS, text).switches == {"p3": "br-3"}
