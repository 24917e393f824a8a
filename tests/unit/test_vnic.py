# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vif_driver import vnic
from vif_driver.errors import BadRequest
from vif_driver.vnic import Plugin, SecurityGroups

from .conftest import MAC, VM_ID, VNIC_ID


def test_a_vnic_carries_what_vdsm_said(ovn_properties: dict[str, str]) -> None:
    subject = vnic.parse(ovn_properties, MAC, "1442")

    assert subject == vnic.Vnic(
        id=VNIC_ID, plugin=Plugin.OVIRT_PROVIDER_OVN, mac=MAC, vm_id=VM_ID, mtu=1442
    )


def test_device_names_carry_the_first_eleven_characters_of_the_id(
    ovn_properties: dict[str, str],
) -> None:
    subject = vnic.parse(ovn_properties, MAC, None)

    names = [
        subject.tap,
        subject.bridge,
        subject.bridge_end,
        subject.switch_end,
        subject.hidden_tap,
    ]

    assert names == [prefix + "3c1ad1e9-4d" for prefix in ("tap", "qbr", "qvb", "qvo", "qtp")]


def test_device_names_fit_into_the_kernels_limit(ovn_properties: dict[str, str]) -> None:
    subject = vnic.parse(ovn_properties, MAC, None)

    assert len(subject.tap) < 16


def test_a_mac_address_is_compared_in_lower_case(ovn_properties: dict[str, str]) -> None:
    subject = vnic.parse(ovn_properties, MAC.upper(), None)

    assert subject.mac == MAC


@pytest.mark.parametrize(
    ("provider", "plugin", "expected"),
    [
        ("EXTERNAL_NETWORK", "OVIRT_PROVIDER_OVN", Plugin.OVIRT_PROVIDER_OVN),
        ("OPENSTACK_NETWORK", "OPENSTACK_OVN", Plugin.OPENSTACK_OVN),
        ("OPENSTACK_NETWORK", "OPEN_VSWITCH", Plugin.OPEN_VSWITCH),
        ("OPENSTACK_NETWORK", "LINUX_BRIDGE", Plugin.LINUX_BRIDGE),
    ],
)
def test_provider_and_plugin_type_name_the_plugin(
    ovn_properties: dict[str, str], provider: str, plugin: str, expected: Plugin
) -> None:
    properties = {**ovn_properties, "provider_type": provider, "plugin_type": plugin}

    assert vnic.parse(properties, MAC, None).plugin is expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (None, SecurityGroups.DEFAULT),
        ("", SecurityGroups.NONE),
        (" ", SecurityGroups.NONE),
        (VM_ID, SecurityGroups.LISTED),
        (f"{VM_ID}, {VNIC_ID}", SecurityGroups.LISTED),
    ],
)
def test_security_groups_are_default_none_or_listed(
    ovs_properties: dict[str, str], groups: str | None, expected: SecurityGroups
) -> None:
    if groups is not None:
        ovs_properties["security_groups"] = groups

    assert vnic.parse(ovs_properties, MAC, None).security_groups is expected


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vnic_id": None}, "no vnic_id"),
        ({"vnic_id": ""}, "no vnic_id"),
        ({"vnic_id": "eth0"}, "not a UUID"),
        ({"vnic_id": VNIC_ID.upper()}, "lower case"),
        ({"vnic_id": VNIC_ID + "\n"}, "not a UUID"),
        ({"vnic_id": "../../../../etc/passwd"}, "not a UUID"),
        ({"plugin_type": "NSX"}, "unknown plugin_type 'NSX'"),
        ({"plugin_type": None}, "unknown plugin_type None"),
        ({"plugin_type": "OVIRT_PROVIDER_OVN"}, "unknown plugin_type"),
        ({"provider_type": "PHYSICAL"}, "unknown provider_type"),
        ({"vmId": "../x"}, "vmId"),
        ({"security_groups": "default"}, "security group 'default'"),
        ({"security_groups": ","}, "security group ''"),
    ],
)
def test_a_property_without_meaning_is_refused_by_name(
    ovs_properties: dict[str, str], changes: dict[str, str | None], complaint: str
) -> None:
    properties = {
        key: value for key, value in {**ovs_properties, **changes}.items() if value is not None
    }

    with pytest.raises(BadRequest, match=complaint):
        vnic.parse(properties, MAC, None)


@pytest.mark.parametrize(
    ("mac", "complaint"),
    [
        (None, "no MAC"),
        ("", "no MAC"),
        ("56:6f:1a:2b:00", "malformed"),
        ("01:00:5e:00:00:01", "multicast"),
        ("56-6f-1a-2b-00-01", "malformed"),
    ],
)
def test_a_mac_address_that_no_port_can_have_is_refused(
    ovn_properties: dict[str, str], mac: str | None, complaint: str
) -> None:
    with pytest.raises(BadRequest, match=complaint):
        vnic.parse(ovn_properties, mac, None)


@pytest.mark.parametrize("mtu", ["", "0", "67", "65536", "9k", "-1500", "1500 ", "\u0661500"])
def test_an_mtu_that_no_device_can_have_is_refused(
    ovn_properties: dict[str, str], mtu: str
) -> None:
    with pytest.raises(BadRequest, match="MTU"):
        vnic.parse(ovn_properties, MAC, mtu)


def test_another_vendors_external_network_is_not_ours() -> None:
    assert not vnic.is_external({"provider_type": "EXTERNAL_NETWORK", "plugin_type": "NUAGE"})


def test_a_vm_is_known_in_lower_case(ovn_properties: dict[str, str]) -> None:
    subject = vnic.identify({**ovn_properties, "vmId": VM_ID.upper()})

    assert subject.vm_id == VM_ID


@pytest.mark.parametrize("vm_id", [None, ""])
def test_vdsm_need_not_say_which_vm(vm_id: str | None) -> None:
    assert vnic.parse_vm_id(vm_id) is None


@pytest.mark.parametrize("vm_id", ["vm", "../" + VM_ID, VM_ID + "\n", VM_ID + "/", "\u0661" * 36])
def test_a_vms_id_is_a_uuid_and_nothing_more(vm_id: str) -> None:
    with pytest.raises(BadRequest, match="not a UUID"):
        vnic.parse_vm_id(vm_id)


@given(st.dictionaries(st.sampled_from(vnic.PROPERTIES), st.text()), st.text(), st.text())
def test_any_properties_make_a_vnic_or_a_clear_refusal(
    properties: dict[str, str], mac: str, mtu: str
) -> None:
    try:
        subject = vnic.parse(properties, mac, mtu)
    except BadRequest as refusal:
        assert refusal.what and refusal.remedy
    else:
        assert subject.id == properties["vnic_id"]
