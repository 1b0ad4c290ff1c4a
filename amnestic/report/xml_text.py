"""XML that can be read whatever the texts in it hold."""

import re
from xml.etree import ElementTree

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(root: ElementTree.Element) -> str:
    """A tree as an XML file; what no XML file can hold becomes a replacement character, all else is escaped.

    Args:
        root: The tree; its texts and attributes are changed in place.

    Returns:
        XML with a declaration, indented, that ends in a new line.

    Example:
        >>> xml_text(ElementTree.Element("a", b="<" + chr(0))).splitlines()[1].encode("ascii", "xmlcharrefreplace")
        b'<a b="&lt;&#65533;" />'
    """
    for element in root.iter():
        element.text = None if element.text is None else _clean(element.text)
        element.attrib.update({name: _clean(value) for name, value in element.attrib.items()})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
