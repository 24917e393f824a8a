# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from vif_driver.errors import BadRequest, NotAnInterface
from vif_driver.interface_xml import MAX_SIZE, Connection, Interface, interface_if_any

from .conftest import MAC, VDSM_INTERFACE, VNIC_ID

OVN = Connection(bridge="br-int", target="tap3c1ad1e9-4d", interface_id=VNIC_ID)
OVS = Connection(bridge="br-int", target="tap3c1ad1e9-4d", interface_id=VNIC_ID, dead_vlan=True)
HYBRID = Connection(bridge="qbr3c1ad1e9-4d", target="tap3c1ad1e9-4d")

RICH_INTERFACE = f"""
<interface type='network' trustGuestRxFilters='no'>
  <!-- kept -->
  <mac address='{MAC}' type='static'/>
  <source network='default' portgroup='x'/>
  <target dev='vnet7'/>
  <target dev='other'/>
  <model type='virtio'/>
  <driver name='vhost' queues='4'><host csum='off'/></driver>
  <virtualport type='802.1Qbg'>
    <parameters managerid='1' typeid='2' typeidversion='3'/>
  </virtualport>
  <filterref filter='clean-traffic'><parameter name='IP' value='10.0.0.1'/></filterref>
  <port isolated='yes'/>
  <bandwidth><inbound average='1000' peak='2000'/></bandwidth>
  <link state='down'/>
  <boot order='1'/>
  <mtu size='1400'/>
  <coalesce><rx><frames max='7'/></rx></coalesce>
  <teaming type='persistent'/>
  <alias name='ua-x'/>
  <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
</interface>
""".encode()


def rewritten(data: bytes, connection: Connection) -> etree._Element:
    interface = Interface(data)
    interface.connect(connection)
    return etree.fromstring(interface.to_bytes())


@pytest.fixture(scope="module")
def libvirts_schema() -> etree.RelaxNG:
    """libvirt's own schema, of the element <interface> alone."""
    folder = Path("/usr/share/libvirt/schemas")
    grammar = f"""
      <grammar xmlns="http://relaxng.org/ns/structure/1.0">
        <include href="file://{folder}/domaincommon.rng"/>
        <start><ref name="interface"/></start>
      </grammar>"""
    return etree.RelaxNG(etree.fromstring(grammar))


@pytest.mark.parametrize("data", [VDSM_INTERFACE, RICH_INTERFACE], ids=["vdsm", "rich"])
@pytest.mark.parametrize("connection", [OVN, OVS, HYBRID], ids=["ovn", "ovs", "hybrid"])
def test_the_result_is_valid_by_libvirts_schema(
    libvirts_schema: etree.RelaxNG, data: bytes, connection: Connection
) -> None:
    element = rewritten(data, connection)

    libvirts_schema.assertValid(element)


def test_an_ovn_vnic_becomes_an_openvswitch_port_with_the_vnics_id() -> None:
    element = rewritten(VDSM_INTERFACE, OVN)

    assert element.get("type") == "bridge"
    assert element.xpath("source/@bridge") == ["br-int"]
    assert element.xpath("virtualport/@type") == ["openvswitch"]
    assert element.xpath("virtualport/parameters/@interfaceid") == [VNIC_ID]
    assert element.xpath("target/@dev") == ["tap3c1ad1e9-4d"]
    assert not element.findall("vlan")


def test_a_hybrid_vnic_has_no_virtualport() -> None:
    element = rewritten(RICH_INTERFACE, HYBRID)

    assert element.xpath("source/@bridge") == ["qbr3c1ad1e9-4d"]
    assert not element.findall("virtualport")


def test_exactly_one_target_remains() -> None:
    element = rewritten(RICH_INTERFACE, OVN)

    assert [dict(target.attrib) for target in element.findall("target")] == [{"dev": OVN.target}]


def test_a_virtualport_that_is_there_is_replaced() -> None:
    element = rewritten(RICH_INTERFACE, OVN)

    assert element.xpath("virtualport/@type") == ["openvswitch"]


@pytest.mark.parametrize(
    "path",
    [
        "mac[@type='static']",
        "model[@type='virtio']",
        "driver[@queues='4']/host[@csum='off']",
        "bandwidth/inbound[@peak='2000']",
        "link[@state='down']",
        "boot[@order='1']",
        "mtu[@size='1400']",
        "coalesce/rx/frames[@max='7']",
        "teaming[@type='persistent']",
        "alias[@name='ua-x']",
        "address[@slot='0x03']",
        "comment()",
        "self::*[@trustGuestRxFilters='no']",
    ],
)
def test_what_does_not_say_where_it_is_connected_is_kept(path: str) -> None:
    element = rewritten(RICH_INTERFACE, OVN)

    assert element.xpath(f"count({path})") == 1


def test_what_libvirt_refuses_beside_openvswitch_is_dropped_and_told() -> None:
    interface = Interface(RICH_INTERFACE)

    dropped = interface.connect(OVN)

    element = etree.fromstring(interface.to_bytes())
    assert dropped == ["filterref 'clean-traffic'", "port isolation"]
    assert not element.findall("filterref") and not element.findall("port")


def test_a_filter_on_a_linux_bridge_is_kept() -> None:
    element = rewritten(VDSM_INTERFACE, HYBRID)

    assert element.xpath("filterref/@filter") == ["vdsm-no-mac-spoofing"]


def test_an_xml_declaration_is_kept_and_none_is_added() -> None:
    with_declaration, without = Interface(VDSM_INTERFACE), Interface(RICH_INTERFACE.strip())

    assert with_declaration.to_bytes().startswith(b"<?xml")
    assert without.to_bytes().startswith(b"<interface")


def test_an_unknown_child_in_another_namespace_is_kept() -> None:
    data = b'<interface type="bridge"><x:y xmlns:x="urn:z" a="1">text</x:y></interface>'

    element = rewritten(data, OVN)

    assert element.xpath("x:y[@a='1']/text()", namespaces={"x": "urn:z"}) == ["text"]


def test_the_connection_that_was_written_is_read_back() -> None:
    for connection in (OVN, OVS, HYBRID):
        interface = Interface(VDSM_INTERFACE)
        interface.connect(connection)

        assert Interface(interface.to_bytes()).connection == connection


@pytest.mark.parametrize("kind", ["hostdev", "vhostuser", "direct", "user", None])
def test_an_interface_that_no_bridge_can_stand_in_for_is_refused(kind: str | None) -> None:
    attribute = "" if kind is None else f' type="{kind}"'

    with pytest.raises(BadRequest, match="passthrough"):
        Interface(f"<interface{attribute}/>".encode()).connect(OVN)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "does not parse"),
        (b"<interface", "does not parse"),
        (b"<interface/><interface/>", "does not parse"),
        (b"<interface>\xff</interface>", "not UTF-8"),
        ("<interface/>".encode("utf-16"), "not UTF-8"),
        (b"<interface>" + b" " * MAX_SIZE + b"</interface>", "bytes"),
        (b"<!DOCTYPE interface SYSTEM 'file:///etc/passwd'><interface/>", "document type"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><interface>&b;</interface>", "document type"),
        (b"<interface>&undeclared;</interface>", "does not parse"),
        (b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE a+AD4-<interface/>', "parse"),
    ],
)
def test_xml_that_is_broken_or_reaches_outside_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        Interface(data)


def test_another_device_is_told_apart() -> None:
    with pytest.raises(NotAnInterface, match="<disk>"):
        Interface(b"<disk type='file'/>")


@pytest.mark.parametrize("data", [b"", b"<interface", b"\xff", b"<interface xmlns='urn:x'/>"])
def test_what_makes_no_sense_is_no_interface_where_one_is_not_needed(data: bytes) -> None:
    assert interface_if_any(data) is None


def test_where_none_is_needed_one_that_is_there_is_read() -> None:
    interface = interface_if_any(VDSM_INTERFACE)

    assert interface is not None and interface.mac == MAC


def test_where_none_is_needed_another_device_is_told_apart() -> None:
    with pytest.raises(NotAnInterface, match="<disk>"):
        interface_if_any(b"<disk/>")


NAMES = st.sampled_from(
    ["mac", "source", "target", "virtualport", "port", "filterref", "vlan", "mtu", "other"]
)
# What XML can have: no control characters, and not these two.
CHARACTERS = st.characters(
    codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"
)
TEXTS = st.text(CHARACTERS, max_size=9)
ATTRIBUTES = st.dictionaries(st.sampled_from(["dev", "bridge", "type", "isolated"]), TEXTS)


@st.composite
def interfaces(draw: st.DrawFn) -> bytes:
    root = etree.Element("interface", {"type": draw(st.sampled_from(["bridge", "network"]))})
    root.text = draw(TEXTS)
    for name in draw(st.lists(NAMES, max_size=12)):
        child = etree.SubElement(root, name, draw(ATTRIBUTES))
        child.text, child.tail = draw(TEXTS), draw(TEXTS)
    return etree.tostring(root, encoding="UTF-8")


def own_text(element: etree._Element) -> str:
    return "".join([element.text or "", *(child.tail or "" for child in element)])


def ignoring_the_connection(element: etree._Element) -> list[bytes]:
    ours = {"source", "target", "virtualport", "vlan", "filterref", "port"}
    return [etree.tostring(child, with_tail=False) for child in element if child.tag not in ours]


@given(interfaces())
def test_any_interface_ends_up_connected_with_everything_else_in_place(data: bytes) -> None:
    element = rewritten(data, OVS)

    assert ignoring_the_connection(element) == ignoring_the_connection(etree.fromstring(data))
    assert Interface(etree.tostring(element)).connection == OVS
    assert own_text(element) == own_text(etree.fromstring(data))


@given(interfaces(), st.sampled_from([OVN, OVS, HYBRID]))
def test_rewriting_twice_is_rewriting_once(data: bytes, connection: Connection) -> None:
    once = Interface(data)
    once.connect(connection)
    twice = Interface(once.to_bytes())
    twice.connect(connection)

    assert twice.to_bytes() == once.to_bytes()


@given(st.binary() | st.text().map(str.encode) | interfaces())
@example(b"<interface>" * 300)
def test_any_bytes_are_parsed_or_clearly_refused(data: bytes) -> None:
    try:
        Interface(data)
    except BadRequest as refusal:
        assert refusal.what and refusal.remedy
