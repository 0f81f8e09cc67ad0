"""Markup to plain text."""

from __future__ import annotations

import pytest

from docanalysis.plaintext import Plain, to_plain


def test_markdown_loses_its_markup_code_and_pictures() -> None:
    source = """
[![build](https://ci/badge.svg)](https://ci)

<p align="center"><img src="logo.png"></p>

# Fine *thing*

It is **good**, see [the docs](https://docs.example) and `code`.
Same paragraph.

```python
secret = 1
```

- one
- two <!-- not this -->

| a | b |
|---|---|
| 1 | 2 |
"""
    assert to_plain(source, "text/markdown") == Plain(
        "Fine thing\n\nIt is good, see the docs and code. Same paragraph.\n\none\n\ntwo\n\na b\n\n1 2",
        heading="Fine thing",
        links=("https://ci", "https://docs.example"),
    )


def test_restructuredtext_with_sphinx_roles_and_directives() -> None:
    source = """
=====
Title
=====

.. image:: https://ci/badge.svg

See :class:`~a.B` and `the docs <https://docs.example>`_. `Interpreted` text::

    secret = 1

.. include:: /etc/passwd
.. unknown:: thing

A note, |today|.

.. |today| date::
"""
    plain = to_plain(source, "text/x-rst")
    assert plain.heading == "Title"
    assert plain.links == ("https://docs.example",)
    assert plain.text == "Title\n\nSee ~a.B and the docs. Interpreted text:\n\nA note, |today|."


def test_html_as_a_whole_page() -> None:
    source = """<?xml version="1.0"?><!DOCTYPE html><html><head><title>x</title><style>p {}</style></head>
<body><script>evil()</script><h2>Low</h2><h1>High</h1><p>a<br>b <b>bold</b>er</p><div>c<p>d</p>e</div></body></html>"""
    plain = to_plain(source, "text/html")
    assert plain.heading == "High"
    assert plain.text.split("\n\n") == ["Low", "High", "a", "b bolder", "c", "d", "e"]


def test_what_looks_like_an_address_or_a_file_is_text() -> None:
    assert to_plain("https://example.org/x.html", "text/html").text == "https://example.org/x.html"


def test_plain_text_keeps_its_words() -> None:
    assert to_plain("a <b>\nc\r\n\r\n  d\u0000e\x1b[31m", "text/plain").text == "a <b> c\n\nd e [31m"


@pytest.mark.parametrize("media_type", ["text/plain", "text/markdown", "text/x-rst", "text/html", "other/thing"])
@pytest.mark.parametrize("source", ["", " \n\n ", "\ud800", "<", "[" * 500, "<b>" * 500, "`" * 500, "===\n", ".. |"])
def test_odd_texts_are_taken(source: str, media_type: str) -> None:
    plain = to_plain(source, media_type)
    assert plain.text.encode("utf-8") is not None
    assert "\n\n\n" not in plain.text


def test_nesting_that_docutils_cannot_follow_is_read_as_plain_text() -> None:
    source = "".join(" " * depth + "quote\n\n" for depth in range(1_500))
    plain = to_plain(source, "text/x-rst")
    assert plain.note == "nested too deeply to be read as text/x-rst; taken as plain text"
    assert plain.text.startswith("quote\n\nquote")


@pytest.mark.parametrize("media_type", ["text/html", "text/markdown"])
def test_html_that_the_parser_refuses_is_read_as_plain_text(media_type: str) -> None:
    source = "<p>before <![+{[:<>=xa1x|"
    assert to_plain(source, media_type) == Plain(
        source, note=f"too broken to be read as {media_type}; taken as plain text"
    )


def test_one_document_leaves_nothing_behind_for_the_next() -> None:
    later = "A :shout:`word` and a `default` one, |name|."
    alone = to_plain(later, "text/x-rst")
    definitions = ".. role:: shout(strong)\n\n.. default-role:: shout\n\n.. |name| replace:: NAME\n\n:shout:`x` |name|"
    assert to_plain(definitions, "text/x-rst").text == "x NAME"
    assert to_plain(later, "text/x-rst") == alone
    assert alone.text == "A word and a default one, |name|."
