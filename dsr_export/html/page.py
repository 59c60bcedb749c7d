"""The page around everything: one style for light and dark, desktop and phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.version import __version__

Tone = Literal["good", "warn", "bad"]

_STYLE = """
:root { color-scheme: light dark;
  --paper: #fbfbf9; --card: #ffffff; --ink: #1d2126; --soft: #5d6670; --rule: #dfe2e5; --cell: #eef0f2;
  --hot: #c8401a; --a: #c8401a; --b: #1f6fb4; --c: #128060; --good: #128060; --warn: #b35a00; --bad: #b3261e;
  --outline: rgb(235, 64, 32); }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --card: #1c2024; --ink: #e8eaec; --soft: #9ea7b0; --rule: #343a40; --cell: #272c31;
  --hot: #ff7a4d; --a: #ff7a4d; --b: #62aee8; --c: #4cc49c; --good: #4cc49c; --warn: #f0a04b; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 56px; }
h1 { font-size: 1.15rem; font-weight: 600; color: var(--soft); margin: 0 0 14px; }
h2 { font-size: 1.2rem; margin: 44px 0 6px; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 75ch; }
.note { color: var(--soft); font-size: .92rem; }
.verdict { border-left: 5px solid var(--soft); padding: 2px 0 2px 18px; }
.verdict.good { border-color: var(--good); } .verdict.warn { border-color: var(--warn); }
.verdict.bad { border-color: var(--bad); }
.verdict .headline { font-size: 1.6rem; line-height: 1.25; font-weight: 650; margin: 0 0 10px; max-width: 44ch;
  text-wrap: balance; }
.next { color: var(--soft); font-size: .92rem; margin: 14px 0 4px; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px 14px; margin: 0;
  overflow-x: auto; font: .88rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 10px; margin: 26px 0 0; }
.facts div { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px 12px; }
.facts dt { color: var(--soft); font-size: .8rem; } .facts dd { margin: 0; font-size: 1.2rem; font-weight: 600; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 14px; }
.row.wide { grid-template-columns: minmax(0, 1fr); }
figure { margin: 0 0 14px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 16px; min-width: 0; }
figcaption { color: var(--soft); font-size: .86rem; margin-top: 8px; max-width: 90ch; }
.scroll { overflow-x: auto; }
svg { display: block; max-width: 100%; height: auto; }
.scroll svg { max-width: none; } .scroll svg.fluid { width: 100%; min-width: 320px; max-width: 500px; }
svg text { fill: var(--soft); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg .value { font-size: 10.5px; fill: var(--ink); }
svg .axis, svg .grid { stroke: var(--rule); fill: none; } svg .axis { stroke: var(--soft); }
svg .cell { fill: var(--cell); } svg .heat { fill: var(--hot); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; } svg .area { stroke: none; fill-opacity: .12; }
svg .a { stroke: var(--a); } svg .b { stroke: var(--b); stroke-dasharray: 7 3; }
svg .c { stroke: var(--c); stroke-dasharray: 2 3; }
svg .d { stroke: var(--soft); stroke-dasharray: 9 3 2 3; } svg .bar { fill: var(--b); }
svg .area.a { fill: var(--a); } svg .area.b { fill: var(--b); } svg .area.c { fill: var(--c); }
svg .mark { stroke: var(--ink); stroke-dasharray: 4 3; } svg .marktext { fill: var(--ink); }
svg image { image-rendering: pixelated; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; color: var(--soft); font-size: .86rem; margin: 0 0 8px;
  align-items: center; }
.legend svg { display: inline-block; vertical-align: middle; margin-right: 6px; }
.strips { display: grid; gap: 12px; } .strips p { margin: 0 0 4px; font-size: .86rem; color: var(--soft); }
.strips img { display: block; width: 100%; max-width: 460px; height: auto; image-rendering: pixelated; }
td .good { color: var(--good); } td .bad { color: var(--bad); font-weight: 650; }
.barcell { display: inline-flex; align-items: center; gap: 10px; } .track { display: inline-block; width: 96px;
  height: 9px; background: var(--cell); border-radius: 3px; } .fill { display: block; height: 100%;
  background: var(--b); border-radius: 3px; } .amount { min-width: 4.2em; text-align: right; }
.stackcell { display: block; min-width: clamp(90px, 60vw - 140px, 480px); } .stack { display: flex; height: 13px;
  border-radius: 3px; overflow: hidden; } .part { display: block; height: 100%; border-right: 1px solid var(--card); }
.solid-a { background: var(--a); } .solid-b { background: var(--b); }
.hatched-c { background: repeating-linear-gradient(45deg, var(--c) 0 3px, var(--card) 3px 5px); }
.dotted { background: radial-gradient(var(--soft) 40%, transparent 45%) 0 0 / 5px 5px; }
.legend .swatch { display: inline-block; width: 26px; height: 11px; margin-right: 6px; vertical-align: -1px; }
details { margin: 0 0 14px; } summary { cursor: pointer; color: var(--soft); font-size: .92rem; margin: 0 0 8px; }
tbody th { color: var(--ink); font-weight: 500;
  white-space: normal; }
svg .dot { stroke: none; } svg .dot.a { fill: var(--a); } svg .dot.b { fill: var(--b); } svg .dot.c { fill: var(--c); }
svg .dot.d { fill: var(--soft); }
svg .outlined { fill: none; stroke: var(--outline); stroke-width: 2; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
footer { color: var(--soft); font-size: .84rem; margin-top: 44px; border-top: 1px solid var(--rule);
  padding-top: 12px; }
@media (max-width: 560px) { main { padding: 18px 12px 40px; } .verdict .headline { font-size: 1.3rem; }
  figure { padding: 12px; } }
"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the reader came for: one sentence, what supports it, and the next command."""

    tone: Tone
    headline: str
    details: tuple[str, ...] = ()
    command: str | None = None
    why: str = "Next:"


@dataclass(frozen=True)
class Section:
    """A heading, what the reader is to see in it, and the figures."""

    heading: str
    explanation: str
    body: Markup


def page(title: str, verdict: Verdict, facts: Sequence[tuple[str, str]], sections: Sequence[Section], foot: str) -> str:
    """A whole document. `facts` are label and value of a few numbers; `foot` says how it was made."""
    head = joined(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("title", text(title)),
            element("style", Markup(_STYLE)),
        ]
    )
    body = element(
        "main",
        element("h1", text(title)),
        _verdict(verdict),
        _facts(facts),
        *(_section(section) for section in sections),
        element("footer", text(f"{foot} dsr-export {__version__}.")),
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The browser itself refuses whatever would leave this file."""


def figure(content: Markup, *, title: str | None = None, caption: str | None = None) -> Markup:
    """A framed chart; wider ones scroll within their frame."""
    parts = [] if title is None else [element("h3", text(title))]
    parts.append(element("div", content, class_="scroll"))
    if caption is not None:
        parts.append(element("figcaption", text(caption)))
    return element("figure", *parts)


def row(*figures: Markup, wide: bool = False) -> Markup:
    """Figures side by side where there is room, or each on a line of its own."""
    return element("div", *figures, class_="row wide" if wide else "row")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A plain table; the first column is left-aligned, numbers are not."""
    head = element("tr", *(element("th", text(name), scope="col") for name in header))
    body = (element("tr", *(element("td", text(value)) for value in values)) for values in rows)
    return element("table", element("thead", head), element("tbody", *body))


def _verdict(verdict: Verdict) -> Markup:
    parts = [element("p", text(verdict.headline), class_="headline")]
    parts += [element("p", text(detail)) for detail in verdict.details]
    if verdict.command is not None:
        parts += [element("p", text(verdict.why), class_="next"), element("pre", text(verdict.command))]
    return element("section", *parts, class_=f"verdict {verdict.tone}")


def _facts(facts: Sequence[tuple[str, str]]) -> Markup:
    cells = (element("div", element("dt", text(name)), element("dd", text(value))) for name, value in facts)
    return element("dl", *cells, class_="facts")


def _section(section: Section) -> Markup:
    head = element("h2", text(section.heading))
    return element("section", head, element("p", text(section.explanation), class_="note"), section.body)
