"""Markdown, reStructuredText and HTML to plain text: prose only, one paragraph a line, a blank line between two.

Everything goes through HTML: markdown-it and docutils write it, and READMEs in Markdown are full of it anyway.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from dataclasses import dataclass

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag
from bs4.exceptions import ParserRejectedMarkup
from docutils.core import publish_parts  # type: ignore[import-untyped]  # docutils ships no types
from markdown_it import MarkdownIt

#: Not prose: programs, pictures, forms, and what a browser would not show.
DROPPED = frozenset(
    ("script", "style", "template", "head", "pre", "img", "svg", "math", "form", "button", "iframe", "noscript")
)

#: Where a paragraph begins and ends. A table's row is one, its cells are not.
BLOCKS = frozenset(
    (
        "html",
        "address",
        "article",
        "aside",
        "blockquote",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "figcaption",
        "figure",
        "footer",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "section",
        "summary",
        "table",
        "tbody",
        "thead",
        "tr",
        "ul",
    )
)

_DOCUTILS = {
    "_disable_config": True,  # or a docutils.conf in the current folder would change the answer
    "doctitle_xform": False,
    "initial_header_level": 1,
    "embed_stylesheet": False,
    "stylesheet_path": "",
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "syntax_highlight": "none",
    "report_level": 5,
    "halt_level": 5,
    "input_encoding": "unicode",
    "warning_stream": False,
}

#: docutils keeps the roles that a document defines for the whole process, so that the next document would be read
#: differently; and ``date::`` writes today's. Without these lines, and with ``:role:`text``` as text, nothing of
#: one document reaches another, and Sphinx's roles, unknown to docutils, read well too.
_STATEFUL = re.compile(r"^[ \t]*\.\. (?:\|[^|\n]*\| )?(?:role|default-role|date)::.*$", re.MULTILINE)
_ROLE = re.compile(r":[A-Za-z][\w.+:-]{0,60}:`([^`\n]*)`")

#: docutils has module-level state while it parses; its time is spent in Python anyway.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Plain:
    """What is left of a text without its markup.

    Args:
        text: paragraphs, each one line, with a blank line between two.
        heading: the first heading of the highest level, or "".
        links: web addresses that were linked to, each once, in order.
        note: "" or why the markup could not be read, in which case the text is the source as it is.
    """

    text: str
    heading: str = ""
    links: tuple[str, ...] = ()
    note: str = ""


def to_plain(source: str, media_type: str) -> Plain:
    """Take the markup out of a text.

    Args:
        source: the text; lone surrogates and control characters in it are replaced.
        media_type: text/markdown, text/x-rst or text/html; anything else is taken as plain text.
    """
    cleaned = _clean(source)
    try:
        match media_type:
            case "text/markdown":
                return _from_html(MarkdownIt("commonmark").enable("table").render(cleaned))
            case "text/x-rst":
                return _from_html(_rst_to_html(cleaned))
            case "text/html":
                return _from_html(cleaned)
            case _:
                return Plain(_paragraphs(cleaned))
    except RecursionError:  # quotes in quotes in quotes, a thousand deep: docutils recurses
        problem = "nested too deeply"
    except ParserRejectedMarkup:  # a few broken declarations, such as "<![+[", end Python's own parser
        problem = "too broken"
    return Plain(_paragraphs(cleaned), note=f"{problem} to be read as {media_type}; taken as plain text")


def _rst_to_html(source: str) -> str:
    readable = _ROLE.sub(r"\1", _STATEFUL.sub("", source))
    with _ONE_AT_A_TIME:
        parts = publish_parts(readable, writer="html5", settings_overrides=dict(_DOCUTILS))
    return str(parts["html_body"])


def _from_html(markup: str) -> Plain:
    # A root element of our own keeps BeautifulSoup from guessing (and warning) whether this is a file name or XML.
    soup = BeautifulSoup(f"<html>{markup}</html>", "html.parser")
    belongs: dict[int, Tag | None] = {id(soup): soup}  # element -> the block its text is part of; None if dropped
    paragraphs: list[tuple[Tag | None, list[str]]] = []
    links: dict[str, None] = {}
    for node in soup.descendants:
        block = belongs[id(node.parent)]
        if isinstance(node, Tag):
            if node.name in DROPPED:
                block = None
            elif block is not None and node.name in BLOCKS:
                block = node
            elif node.name in ("br", "hr"):
                paragraphs.append((None, []))  # whatever follows is a paragraph of its own
            belongs[id(node)] = block
            target = str(node.get("href", "")).strip() if node.name == "a" else ""
            if target.startswith(("http://", "https://")):
                links[target] = None
        elif block is not None and type(node) is NavigableString:  # not its subclasses: comments, doctypes
            if not paragraphs or paragraphs[-1][0] is not block:
                paragraphs.append((block, []))
            paragraphs[-1][1].append(f"{node} " if node.parent and node.parent.name in ("td", "th") else str(node))
    lines = [(block, " ".join("".join(parts).split())) for block, parts in paragraphs]
    heading = next((line for block, line in lines if block is not None and block.name == "h1" and line), "")
    return Plain("\n\n".join(line for _, line in lines if line), heading=heading, links=tuple(links))


def _paragraphs(text: str) -> str:
    lines = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(line for line in lines if line)


def _clean(source: str) -> str:
    valid = unicodedata.normalize("NFC", source.encode("utf-8", "replace").decode("utf-8"))
    unified = valid.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(" " if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in unified)
