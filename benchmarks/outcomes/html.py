"""Results as one page. Owns: the HTML that holds tables and pictures and needs nothing else. Does not: draw them."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

type Table = Sequence[Sequence[str]]
"""Rows of cells; the first is the head."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #999 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0 }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ccc; white-space: nowrap }
th { border-bottom: 2px solid #111 } th:first-child, td:first-child { text-align: left }
pre { background: #f2f2f2; padding: .8rem; overflow-x: auto } svg { max-width: 100%; height: auto }
figure { margin: 1rem 0 } figcaption { color: #444; font-size: .9rem } .facts td { text-align: left; white-space: normal }
@media print { body { margin: 0; max-width: none } h2, figure { break-inside: avoid } }
"""  # noqa: E501 (CSS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawing, and what it is called."""

    name: str
    """Of its file."""
    heading: str
    caption: str
    figure: object
    """matplotlib's, which is imported on use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands under it: some of words, text as it is, a table, a picture."""

    heading: str
    words: str = ""
    text: str = ""
    table: Table = ()
    picture: str = ""
    """An <svg> element."""
    caption: str = ""


def page(title: str, sections: Iterable[Section], facts: Mapping[str, object]) -> str:
    """A page that can be mailed: no scripts, no fonts, no addresses; facts stand at its end."""
    parts = "\n".join(map(_section, sections))
    rows = [("fact", "value"), *((name, str(value)) for name, value in facts.items())]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{html.escape(title)}</h1>\n{parts}\n<h2>How it was made</h2>\n"
        f'<div class="facts">{_table(rows)}</div>\n</body>\n</html>\n'
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    if section.words:
        parts.append(f"<p>{html.escape(section.words)}</p>")
    if section.picture:
        parts.append(f"<figure>{section.picture}<figcaption>{html.escape(section.caption)}</figcaption></figure>")
    if section.table:
        parts.append(_table(section.table))
    if section.text:
        parts.append(f"<pre>{html.escape(section.text)}</pre>")
    return "\n".join(parts)


def _table(rows: Table) -> str:
    body = "".join(f"{_row('td', row)}\n" for row in rows[1:])
    return f'<div class="wide"><table>\n<thead>{_row("th", rows[0])}</thead>\n<tbody>\n{body}</tbody></table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
