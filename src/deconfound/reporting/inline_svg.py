"""SVG that can stand inside a page: own ids, no metadata, and colours that the page's style sheet may replace."""

from __future__ import annotations

import re
from xml.etree import ElementTree

INK = "#747474"
MUTED = "#8a8a8a"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#9a6324")

_VARIABLES = {INK: "--ink", MUTED: "--muted", **{colour: f"--series-{i + 1}" for i, colour in enumerate(SERIES)}}
# A hundredth of a point cannot be seen; the digits behind it would be a third of the file.
_LONG = re.compile(r"-?\d+\.\d{3,}")
_KEPT = {"style", "d", "x", "y", "width", "height", "viewBox", "transform", "clip-path", "version", "id", "href"}


def tidy(text: str, prefix: str, title: str = "", description: str = "") -> str:
    """Matplotlib's SVG made small and safe to stand beside others.

    Drops prologue, metadata, embedded style sheets and names that nothing refers to; starts every other id with
    ``prefix``; writes each colour of this module as ``var(--series-1, #0072b2)``, so that a page decides for light and
    dark and a lone file still has its colours.
    """
    root = ElementTree.fromstring(text)
    for element in root.iter():
        element.tag = _local(element.tag)
        named = {_local(key): value for key, value in element.attrib.items()}
        element.attrib = {key: value for key, value in named.items() if key in _KEPT}
    _drop(root, {"metadata", "style"})
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text))
    for element in root.iter():
        _rename(element, used, prefix)
        _recolour(element)
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": root.attrib["viewBox"],
        "width": f"{width:g}",
        "height": f"{height:g}",
        "font-family": "system-ui, sans-serif",
        "stroke-linejoin": "round",
        "role": "img",
    }
    _describe(root, prefix, title, description)
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode").strip()) + "\n"


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _drop(root: ElementTree.Element, tags: set[str]) -> None:
    for parent in root.iter():
        for child in [child for child in parent if child.tag in tags]:
            parent.remove(child)


def _rename(element: ElementTree.Element, used: set[str], prefix: str) -> None:
    if (name := element.attrib.pop("id", None)) in used:
        element.attrib["id"] = f"{prefix}-{name}"
    if "href" in element.attrib:
        element.attrib["href"] = f"#{prefix}-{element.attrib['href'][1:]}"
    if "clip-path" in element.attrib:
        element.attrib["clip-path"] = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", element.attrib["clip-path"])
    for name in ("d", "x", "y", "transform"):
        if name in element.attrib:
            element.attrib[name] = _LONG.sub(_rounded, " ".join(element.attrib[name].split()))


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _recolour(element: ElementTree.Element) -> None:
    style = element.attrib.get("style")
    if style is None:
        return
    style = re.sub(r"font-family: [^;]*;?\s*", "", style)
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable}, {colour})")
    element.attrib["style"] = style


def _describe(root: ElementTree.Element, prefix: str, title: str, description: str) -> None:
    named = []
    for place, (tag, words) in enumerate((("title", title), ("desc", description))):
        if words:
            element = ElementTree.Element(tag, {"id": f"{prefix}-{tag}"})
            element.text = words
            root.insert(place, element)
            named.append(f"{prefix}-{tag}")
    if named:
        root.attrib["aria-labelledby"] = " ".join(named)


__all__ = ["INK", "MUTED", "SERIES", "tidy"]
