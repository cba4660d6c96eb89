"""A drawn figure as part of the page: an SVG that takes the page's colours and font, and answers the pointer."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from puzzle_study.reporting.blocks import Figure
from puzzle_study.reporting.colours import GREY, INK, PALETTE

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
TOLD = "told-"
"""Begins the id of a group whose points say something."""
ROLES = {
    **dict.fromkeys(("#000000", INK), "currentColor"),
    "#ffffff": "var(--page)",
    "#cccccc": "var(--line)",
    GREY: "var(--soft)",
    **{colour: f"var(--c{index})" for index, colour in enumerate(PALETTE)},
}
"""What stands for a colour, so that a dark page can have another one."""
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_SHAPES = {f"{SVG}{name}" for name in ("path", "use", "rect")}
_DROPPED = {f"{SVG}metadata", f"{SVG}style"}


def inline(figure: Figure) -> str:
    """Return a figure's SVG for the page.

    The page's security policy forbids style attributes, so they become the attributes that mean the same. Ids carry the
    figure's name, because they are unique in the page and not in the figure alone.
    """
    root = ET.fromstring(figure.svg)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _DROPPED]:
            parent.remove(child)
    _tell(root, figure)
    named = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        _plain(element, figure.name, named)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    # matplotlib's style for all shapes; as attributes of the root it yields to that of each shape.
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    root.attrib |= {"width": str(figure.width), "height": str(figure.height), "role": "img", "aria-label": figure.alt}
    return re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode"))


def _tell(root: ET.Element, figure: Figure) -> None:
    """Give each point, or bar, the text that appears under the pointer."""
    for group in root.iter(f"{SVG}g"):
        name = group.get("id", "")
        if not name.startswith(TOLD):
            continue
        texts = figure.told[int(name.removeprefix(TOLD))]
        shapes = list(group.iter(f"{SVG}use")) or [shape for shape in group.iter() if shape.tag in _SHAPES]
        for shape, text in zip(shapes, texts, strict=False):
            ET.SubElement(shape, f"{SVG}title").text = text


def _references(element: ET.Element) -> Iterator[str]:
    for value in element.attrib.values():
        yield from re.findall(r"url\(#([^)]+)\)", value)
        if value.startswith("#"):
            yield value[1:]


def _plain(element: ET.Element, prefix: str, named: set[str]) -> None:
    """Write one element's attributes as the page needs them."""
    found: dict[str, str] = {}
    for key, value in element.attrib.items():
        if key == "style":
            found |= dict(_declared(value, text=element.tag == f"{SVG}text"))
        elif key != "id" or value in named:
            found[key.removeprefix(XLINK)] = value
    for key, value in found.items():
        if value.startswith("data:"):
            found[key] = re.sub(r"\s", "", value)
            continue
        plain = _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", " ".join(value.split()))
        if key == "id":
            plain = f"{prefix}-{plain}"
        elif plain.startswith("#") and key == "href":
            plain = f"#{prefix}-{plain[1:]}"
        found[key] = plain.replace("url(#", f"url(#{prefix}-")
    element.attrib.clear()
    element.attrib.update(found)
    element.tag = element.tag.removeprefix(SVG)


def _declared(style: str, *, text: bool) -> Iterator[tuple[str, str]]:
    """Yield the declarations of a style as attributes; the page's font is taken instead of the figure's."""
    for declaration in filter(None, map(str.strip, style.split(";"))):
        name, value = (part.strip() for part in declaration.split(":", 1))
        if name == "font":
            size = re.search(r"[\d.]+px", value)
            yield from [("font-size", size[0])] if size else []
            yield from [("font-weight", "bold")] if re.search(r"\b(bold|700)\b", value) else []
        elif name in ("fill", "stroke"):
            # White words lie on a coloured ground and stay white.
            yield name, value if text and value == "#ffffff" else ROLES.get(value, value)
        elif name != "font-family":
            yield name, value
