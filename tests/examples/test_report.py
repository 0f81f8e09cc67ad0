"""The report of the document analysis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docanalysis.agents import (
    Entities,
    Entity,
    Extracted,
    Keyword,
    Sentiment,
    Summary,
    extract_text,
    keywords_and_entities,
    sentiment,
    summarise,
)
from docanalysis.documents import Document, Skipped, installed_packages
from docanalysis.report import Analysis, build_report, combine, render_table, write_report


def analysis(title: str, *, label: str = "neutral", score: float = 0.0, words: int = 10) -> Analysis:
    return combine(
        Document(f"file:{title}:1", title, "text", "text/plain", f"in/{title}"),
        Extracted(
            title=f"On {title}", text="text", words=words, sentences=2, language="en", links=("https://a.example",)
        ),
        Sentiment(label, score, 1, 0, 2),
        Entities(
            (Keyword("Ray", 0.1), Keyword("cluster", 0.2)), (Entity("acronym", "SQL", 2), Entity("name", "Ada L", 1))
        ),
        Summary(("First.", "Second.")),
    )


ROWS = [
    analysis("b.md", label="positive", score=0.5, words=1_200),
    analysis("A.md", label="negative", score=-0.25),
    analysis("c.md", label="unknown"),
]


def test_the_report_has_each_document_by_title() -> None:
    report = build_report(ROWS)
    assert [entry["title"] for entry in report["documents"]] == ["A.md", "b.md", "c.md"]
    assert report["documents"][0] == {
        "id": "file:A.md:1",
        "title": "A.md",
        "source": "in/A.md",
        "heading": "On A.md",
        "language": "en",
        "words": 10,
        "sentences": 2,
        "truncated": False,
        "note": "",
        "links": ["https://a.example"],
        "sentiment": {"label": "negative", "score": -0.25, "positive": 1, "negative": 0, "sentences": 2},
        "keywords": [{"text": "Ray", "score": 0.1}, {"text": "cluster", "score": 0.2}],
        "entities": {"acronym": [{"text": "SQL", "count": 2}], "name": [{"text": "Ada L", "count": 1}]},
        "summary": "First. Second.",
    }


def test_totals_leave_unknown_moods_out_of_the_mean() -> None:
    assert build_report(ROWS, [Skipped("x", "it is binary")])["totals"] == {
        "documents": 3,
        "skipped": 1,
        "words": 1_220,
        "sentences": 6,
        "mean_words": 406.7,
        "mean_score": 0.125,
        "sentiment": {"positive": 1, "neutral": 0, "negative": 1, "unknown": 1},
        "languages": {"en": 3},
        "keywords": {"cluster": 3, "ray": 3},
    }


def test_the_order_of_the_rows_does_not_matter() -> None:
    skipped = [Skipped("b", "2"), Skipped("a", "1")]
    assert json.dumps(build_report(ROWS, skipped)) == json.dumps(build_report(ROWS[::-1], skipped[::-1]))


def test_an_empty_report_is_one() -> None:
    report = build_report([])
    assert (report["totals"]["mean_words"], report["totals"]["mean_score"]) == (0.0, 0.0)
    assert render_table(report) == "No documents."


def test_writing_is_readable_again_and_makes_the_folder(tmp_path: Path) -> None:
    report = build_report([*ROWS, analysis("日本.md")])
    path = write_report(tmp_path / "new" / "report.json", report)
    assert path == tmp_path / "new" / "report.json"
    assert json.loads(path.read_text(encoding="utf-8")) == report
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_report_and_nothing_else(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.json", {"format": 1})
    with pytest.raises(UnicodeEncodeError):
        write_report(path, {"title": "\ud800"})
    assert json.loads(path.read_text()) == {"format": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_as_it_looks() -> None:
    table = render_table(build_report(ROWS, [Skipped("in/d.md", "it is binary")]), width=80)
    assert table.splitlines() == [
        "Document           Words  Mood            Keywords",
        "────────────────  ──────  ──────────────  ──────────────────────────────────────",
        "A.md                  10  negative -0.25  Ray, cluster",
        "b.md               1,200  positive +0.50  Ray, cluster",
        "c.md                  10  unknown         Ray, cluster",
        "────────────────  ──────  ──────────────  ──────────────────────────────────────",
        "3 documents, 1,220 words; 1 positive, 1 negative, 1 unknown; mean mood +0.12",
        "Keywords of several: cluster, ray",
        "Left out: in/d.md: it is binary",
    ]


def test_a_wide_table_has_the_summary() -> None:
    assert "First. Second." in render_table(build_report(ROWS), width=120)
    assert "First. Second." not in render_table(build_report(ROWS), width=119)


def test_a_small_negative_mean_is_not_minus_zero() -> None:
    assert "-0.00" not in render_table(build_report([analysis("a", score=-0.001)]))


def test_a_title_cannot_steer_the_terminal() -> None:
    table = render_table(build_report([analysis("evil\x1b[2J\n\u202ename")]))
    assert "evil?[2J ?name" in table


def test_wide_characters_take_two_columns() -> None:
    table = render_table(build_report([analysis("日本語の文書はとても長いです"), analysis("short")]), width=80)
    lines = table.splitlines()
    assert lines[3].startswith("日本語の文書は… ")
    assert lines[3].index("10") == lines[2].index("10") - 7  # seven characters stand on two columns each


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    rows = []
    for document in installed_packages().documents[:12]:
        extracted = extract_text(document)
        text = extracted.text
        rows.append(combine(document, extracted, sentiment(text), keywords_and_entities(text), summarise(text)))
    return build_report(rows)


@pytest.mark.parametrize("width", [20, 60, 80, 100, 119, 120, 160])
def test_no_line_of_a_real_table_is_too_long(real: dict[str, Any], width: int) -> None:
    lines = render_table(real, width).splitlines()
    assert max(map(len, lines)) <= max(width, 60)
    assert len(lines) >= 12 + 4
