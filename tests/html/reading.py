"""Reads pages back: what is in them, and whether they stand alone."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

_VOID = {"meta", "br", "hr", "img", "link"}
_LOADS = re.compile(r"""(?:src|href|action|poster|data)\s*=\s*["'](?!data:|\#)|url\(\s*["']?(?!data:)|@import""", re.I)


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()


def check_document(document: str) -> set[str]:
    """Tags of a document that is balanced, loads nothing and runs nothing; AssertionError otherwise."""
    parser = _Balance()
    parser.feed(document)
    assert parser.open == []
    assert not parser.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert _LOADS.search(document) is None, _LOADS.search(document)
    assert not re.search(
        r"\bnan\b|\binf\b(?!er)", " ".join(re.findall(r'(?:points|x|y|width|height|x1|y1)="[^"]*"', document))
    )
    return parser.tags


def svg_of(markup: str) -> ElementTree.Element:
    """An SVG as a tree: it must be well-formed XML."""
    return ElementTree.fromstring(markup)
