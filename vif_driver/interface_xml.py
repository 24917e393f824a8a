# SPDX-License-Identifier: GPL-2.0-or-later
"""How a libvirt ``<interface>`` is rewritten: bytes in, bytes out, and nothing else.

Only what says *where* the interface is connected changes: its type, ``<source>``,
``<virtualport>``, ``<target>`` and, where the connection asks for it, ``<vlan>``.  Everything
else comes through, known to us or not.

The format is libvirt's (https://libvirt.org/formatdomain.html#network-interfaces).  The input
is untrusted: no document type, no entity, no network, a limit on the size.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from lxml import etree

from vif_driver.errors import BadRequest, NotAnInterface

#: Bytes; a real ``<interface>`` has less than two thousand.  libxml2 takes time by the square of
#: the number of an element's attributes: a quarter of a megabyte of them is ten seconds.
MAX_SIZE = 32 * 1024

#: A VLAN that leads nowhere: ids end at 4094 (IEEE 802.1Q), and Neutron's Open vSwitch agent drops
#: it.  A port is dead as a trunk of this VLAN alone: an access port of it would still exchange
#: frames with other such ports and with trunks.  A tag, which the agent sets when it wires the
#: port, makes Open vSwitch disregard the trunk.
DEAD_VLAN = 4095

# The types of interface whose connection can be replaced by that of a bridge.  The others
# (hostdev, direct, vhostuser, vdpa, user, ...) are other kinds of device, not other wires.
_REWIRABLE_TYPES = ("bridge", "network", "ethernet")

_XML_DECLARATION = re.compile(r"<\?xml\s")

_FROM_VDSM = "the XML of the device comes from VDSM: see vdsm.log for the hook that changed it last"


@dataclasses.dataclass(frozen=True)
class Connection:
    """Where an interface is connected, as its XML says it.

    Attributes:
        bridge: ``<source bridge>``.
        target: ``<target dev>``, the name of the tap.
        interface_id: for an Open vSwitch port, its ``iface-id``; None for a Linux bridge.
        dead_vlan: make the Open vSwitch port a member of no VLAN until its agent wires it.
    """

    bridge: str
    target: str
    interface_id: str | None = None
    dead_vlan: bool = False


class Interface:
    """A parsed ``<interface>``.

    Args:
        data: the element, UTF-8, with or without an XML declaration.

    Raises:
        BadRequest: too large, not XML, or XML that reaches outside itself.
        NotAnInterface: some other element.
    """

    def __init__(self, data: bytes) -> None:
        self._tree, self._declared = _parse(data)
        self._root = self._tree.getroot()
        name = etree.QName(self._root)
        if name.localname == "interface" and name.namespace:
            raise BadRequest(
                f"the interface is in the XML namespace {name.namespace!r}", _FROM_VDSM
            )
        if name.localname != "interface":
            raise NotAnInterface(f"the device is a <{self._root.tag}>, not an <interface>")

    @property
    def mac(self) -> str | None:
        """The text of ``<mac address>``, unchecked."""
        return self._attribute("mac", "address")

    @property
    def mtu(self) -> str | None:
        """The text of ``<mtu size>``, unchecked."""
        return self._attribute("mtu", "size")

    @property
    def connection(self) -> Connection | None:
        """Where the interface is connected; None if it isn't to a bridge, or by no named tap."""
        bridge = self._attribute("source", "bridge")
        target = self._attribute("target", "dev")
        if self._root.get("type") != "bridge" or bridge is None or target is None:
            return None
        virtualport = self._root.find("virtualport[@type='openvswitch']/parameters")
        vlans = [tag.get("id") for tag in self._root.iterfind("vlan/tag")]
        return Connection(
            bridge=bridge,
            target=target,
            interface_id=None if virtualport is None else virtualport.get("interfaceid"),
            dead_vlan=vlans == [str(DEAD_VLAN)],
        )

    def connect(self, connection: Connection) -> list[str]:
        """Rewrite the element so that it is connected as ``connection`` says.

        Returns:
            What had to be dropped because libvirt refuses it on such an interface, as phrases
            for the log.

        Raises:
            BadRequest: the interface is of a type that no bridge can stand in for.
        """
        kind = self._root.get("type")
        if kind not in _REWIRABLE_TYPES:
            raise BadRequest(
                f"an interface of type {kind!r} cannot be connected to an external network",
                "use a vNIC profile without passthrough",
            )
        self._root.set("type", "bridge")
        source = self._replace("source", {"bridge": connection.bridge})
        self._replace("target", {"dev": connection.target})
        self._remove("virtualport")
        dropped: list[str] = []
        if connection.interface_id is not None:
            _add_virtualport(source, connection.interface_id)
            dropped = self._drop_what_openvswitch_refuses()
        if connection.dead_vlan:
            vlan = self._replace("vlan", {"trunk": "yes"})
            etree.SubElement(vlan, "tag", {"id": str(DEAD_VLAN)})
        return dropped

    def to_bytes(self) -> bytes:
        """Serialise, with an XML declaration if there was one."""
        declaration: dict[str, Any] = {"xml_declaration": self._declared}
        if self._declared and self._tree.docinfo.standalone is not None:
            declaration["standalone"] = self._tree.docinfo.standalone
        text: bytes = etree.tostring(self._tree, encoding="UTF-8", **declaration)
        return text

    def _attribute(self, tag: str, name: str) -> str | None:
        element = self._root.find(tag)
        return None if element is None else element.get(name)

    def _remove(self, tag: str) -> None:
        for element in self._root.findall(tag):
            self._remove_child(element)

    def _remove_child(self, element: etree._Element) -> None:
        """Remove an element, but not the text behind it, which is its parent's."""
        if element.tail:
            previous = element.getprevious()
            if previous is None:
                self._root.text = (self._root.text or "") + element.tail
            else:
                previous.tail = (previous.tail or "") + element.tail
        self._root.remove(element)

    def _replace(self, tag: str, attributes: dict[str, str]) -> etree._Element:
        """Leave exactly one ``tag``, in the place of the first one there was."""
        present = self._root.findall(tag)
        fresh = etree.Element(tag, attributes)
        if present:
            fresh.tail = present[0].tail
            present[0].tail = None
            self._root.replace(present[0], fresh)
            for element in present[1:]:
                self._remove_child(element)
        else:
            self._root.append(fresh)
        return fresh

    def _drop_what_openvswitch_refuses(self) -> list[str]:
        # libvirt: "filterref is not supported for network interfaces with virtualport type
        # openvswitch", and the same for <port isolated='yes'/>.
        dropped = []
        for element in self._root.findall("filterref"):
            dropped.append(f"filterref {element.get('filter')!r}")
            self._remove_child(element)
        for element in self._root.findall("port"):
            if "isolated" not in element.attrib:
                continue
            dropped.append("port isolation")
            del element.attrib["isolated"]
            if not element.attrib and not len(element):
                self._remove_child(element)
        return dropped


def interface_if_any(data: bytes) -> Interface | None:
    """Read the XML that comes with an event which can do without; None if it makes no sense.

    VDSM has kept none of a device that its VM was started with: the file is empty then.

    Raises:
        NotAnInterface: some other device of a VM with our properties.
    """
    try:
        return Interface(data)
    except NotAnInterface:
        raise
    except BadRequest:
        return None


def _parse(data: bytes) -> tuple[etree._ElementTree, bool]:
    if len(data) > MAX_SIZE:
        raise BadRequest(f"the XML of the device has more than {MAX_SIZE} bytes", _FROM_VDSM)
    # Decoding here, not in libxml2, is what makes the search below see what the parser sees:
    # in UTF-16 or UTF-7 the same characters are other bytes.
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest("the XML of the device is not UTF-8", _FROM_VDSM) from error
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise BadRequest("the XML of the device declares a document type or an entity", _FROM_VDSM)
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        strip_cdata=False,
        huge_tree=False,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise BadRequest(f"the XML of the device does not parse ({error})", _FROM_VDSM) from error
    return root.getroottree(), bool(_XML_DECLARATION.match(text.lstrip("\ufeff")))


def _add_virtualport(source: etree._Element, interface_id: str) -> None:
    virtualport = etree.Element("virtualport", {"type": "openvswitch"})
    etree.SubElement(virtualport, "parameters", {"interfaceid": interface_id})
    virtualport.tail, source.tail = source.tail, None
    source.addnext(virtualport)
