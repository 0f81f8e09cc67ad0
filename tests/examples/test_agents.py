"""The four agents, on small texts made for the purpose and on the packages that are installed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from docanalysis.agents import (
    Entities,
    Extracted,
    Sentiment,
    Summary,
    extract_text,
    keywords_and_entities,
    sentiment,
    summarise,
)
from docanalysis.documents import MAX_CHARS, Document, installed_packages

EXAMPLES = Path(__file__).parents[2] / "examples"

GERMAN = "Der schnelle Fuchs springt über den faulen Hund. Und dann geht er nach Hause, weil es schon spät ist."
JAPANESE = "これはテストです。私たちはここにいます。とても良い天気ですね。"


def document(text: str, media_type: str = "text/plain", *, truncated: bool = False) -> Document:
    return Document("file:x:1", "x.txt", text, media_type, "x.txt", truncated)


def kinds(entities: Entities) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for entity in entities.entities:
        found.setdefault(entity.kind, []).append((entity.text, entity.count))
    return found


# --- extract ----------------------------------------------------------------------------------------------
def test_extract_reads_counts_and_recognises_the_language() -> None:
    source = "# Guide\n\nThis is the [first](https://a.example) sentence. And this is the second one.\n"
    assert extract_text(document(source, "text/markdown")) == Extracted(
        title="Guide",
        text="Guide\n\nThis is the first sentence. And this is the second one.",
        words=12,
        sentences=3,
        language="en",
        links=("https://a.example",),
    )


def test_without_a_heading_the_title_is_the_documents() -> None:
    assert extract_text(document("Just text.")).title == "x.txt"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (GERMAN, "de"),
        ("Le renard brun saute par-dessus le chien paresseux et puis il rentre à la maison avec nous.", "fr"),
        ("Быстрая лиса прыгает через ленивую собаку и потом она идет домой к нам.", "ru"),
        (JAPANESE, "ja"),
        ("这是一个测试。我们在这里。", "zh"),
        ("이것은 시험입니다.", "ko"),
        ("foo bar baz qux spam eggs", "und"),
        ("", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert extract_text(document(text)).language == language


def test_more_than_the_cap_is_not_read() -> None:
    extracted = extract_text(document("word " * MAX_CHARS))
    assert (extracted.words, extracted.truncated) == (MAX_CHARS // 5, True)
    assert extract_text(document("word", truncated=True)).truncated


# --- sentiment --------------------------------------------------------------------------------------------
def test_moods_of_english_texts() -> None:
    good = sentiment("This is a wonderful library. I love it, and it is great fun. The sky is above the sea.")
    bad = sentiment("This is a horrible failure. I hate it, and it is the worst disaster that we had.")
    plain = sentiment("The table has four legs. It stands in the room with the window and the door.")
    assert (good.label, good.positive, good.negative, good.sentences) == ("positive", 2, 0, 3)
    assert (bad.label, bad.positive, bad.negative, bad.sentences) == ("negative", 0, 2, 2)
    assert plain == Sentiment("neutral", 0.0, 0, 0, 2)
    assert bad.score < plain.score < good.score


def test_length_alone_does_not_raise_the_score() -> None:
    line = "This is a good idea. The table has four legs and the room has a door. "
    assert sentiment(line * 50).score == sentiment(line).score < 0.5


def test_a_short_text_counts_where_the_lexicon_knows_its_words() -> None:
    assert sentiment("Great!").label == "positive"


@pytest.mark.parametrize("text", [GERMAN, JAPANESE, "", "foo bar baz"])
def test_the_mood_of_what_is_not_english_is_unknown(text: str) -> None:
    assert (sentiment(text).label, sentiment(text).score) == ("unknown", 0.0)


# --- keywords and entities --------------------------------------------------------------------------------
def test_entities_by_form() -> None:
    text = (
        "Ask Ada.Lovelace@Example.org or see https://example.org/a_(b), before 2024-02-29 or March 3, 2025.\n"
        "The work of Grace Hopper on the COBOL compiler was finished on 5 Jan 1959, not on 2023-02-30.\n"
        "It needs Python 3.11 or >=2.0 of it and v1.2.3rc1, and takes 99.5 percent of 3.5 GB at 127.0.0.1.\n"
        "All of it is one of the PyPI packages.\n"
    )
    assert kinds(keywords_and_entities(text)) == {
        "url": [("https://example.org/a_(b)", 1)],
        "email": [("ada.lovelace@example.org", 1)],
        "date": [("2024-02-29", 1), ("2025-03-03", 1), ("1959-01-05", 1)],
        "version": [("3.11", 1), ("2.0", 1), ("1.2.3rc1", 1)],
        "acronym": [("COBOL", 1)],
        "name": [("Grace Hopper", 1), ("PyPI", 1)],
    }


def test_entities_are_ranked_by_count_and_then_by_first_appearance() -> None:
    text = "We use the SQL and the XML and the CSV here. The CSV is better, as the CSV and the XML show."
    assert kinds(keywords_and_entities(text))["acronym"] == [("CSV", 3), ("XML", 2), ("SQL", 1)]


def test_keywords_are_what_the_text_comes_back_to_best_first() -> None:
    text = (
        "A durable workflow survives a crash. The journal keeps each durable workflow. Lemon tea is hot.\n"
        "Workflow engines replay the journal of a durable workflow after every crash of their workers."
    )
    found = keywords_and_entities(text).keywords
    assert [keyword.text for keyword in found[:2]] == ["durable workflow", "journal"]
    assert found[0].score == 1.0
    assert [keyword.score for keyword in found] == sorted((keyword.score for keyword in found), reverse=True)
    assert 1 <= len(found) <= 8


def test_a_keyword_that_says_nothing_new_is_left_out() -> None:
    text = "Red tables stand. The red table stands. Tables are red. A red table's leg is red. A table has a leg."
    found = [keyword.text.lower() for keyword in keywords_and_entities(text).keywords]
    assert sum("table" in keyword for keyword in found) == 1


def test_keywords_of_another_language_leave_its_stop_words_out() -> None:
    found = {keyword.text.lower() for keyword in keywords_and_entities(GERMAN).keywords}
    assert found
    assert not found & {"der", "und", "den", "weil", "dann"}


# --- summary ----------------------------------------------------------------------------------------------
def test_the_summary_takes_the_central_sentences_in_their_order() -> None:
    text = (
        "Rayflow runs durable workflows on a cluster.\n\nUnrelated heading\n\n"
        "Durable workflows survive the crash of a cluster node. The weather was rather pleasant yesterday evening. "
        "A journal on disk makes workflows durable in a cluster. My aunt prefers tea with lemon."
    )
    assert summarise(text).sentences == (
        "Rayflow runs durable workflows on a cluster.",
        "Durable workflows survive the crash of a cluster node.",
        "A journal on disk makes workflows durable in a cluster.",
    )


def test_a_sentence_that_stands_there_twice_is_said_once() -> None:
    chosen = summarise(
        "The pump moves water through the pipes. " * 20 + "The valve stops the water at night."
    ).sentences
    assert chosen == ("The pump moves water through the pipes.", "The valve stops the water at night.")


def test_short_texts_are_their_own_summary() -> None:
    assert summarise("Just a title").sentences == ("Just a title",)
    assert summarise("").sentences == ()
    assert Summary(("One.", "Two.")).text == "One. Two."


# --- any text ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a",
        ".",
        "\n\n",
        "!!! ???",
        "\u200b",
        "😀 😀",
        "x" * 5_000,
        "a. " * 2_000,
        "(" * 5_000,
        JAPANESE * 50,
        "1 2 3",
    ],
)
def test_every_agent_takes_any_text_and_repeats_itself(text: str) -> None:
    extracted = extract_text(document(text, "text/markdown"))
    for agent in (sentiment, keywords_and_entities, summarise):
        for given in (text, extracted.text):
            assert agent(given) == agent(given)
    assert extract_text(document(text, "text/markdown")) == extracted


def test_a_huge_text_takes_seconds_not_minutes() -> None:
    text = " ".join(
        f"Sentence number {n} is about topic{n % 97} and thing{n % 89} of the system." for n in range(4_000)
    )
    assert len(text) > MAX_CHARS
    begun = time.process_time()
    extracted = extract_text(document(text))
    answers = (sentiment(extracted.text), keywords_and_entities(extracted.text), summarise(extracted.text))
    assert time.process_time() - begun < 30
    assert all(answers)
    assert extracted.truncated


# --- real documents ---------------------------------------------------------------------------------------
PROGRAM = """
import dataclasses, json
from docanalysis.agents import extract_text, keywords_and_entities, sentiment, summarise
from docanalysis.documents import installed_packages
answers = []
for document in installed_packages().documents:
    if len(document.text) > 12_000:
        continue  # a few long changelogs would take most of the time
    extracted = extract_text(document)
    parts = (extracted, *(agent(extracted.text) for agent in (sentiment, keywords_and_entities, summarise)))
    answers.append([document.id, *map(dataclasses.asdict, parts)])
print(json.dumps(answers))
"""


def in_another_process(seed: str) -> list[list[object]]:
    environ = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(EXAMPLES), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stderr == ""
    answers: list[list[object]] = json.loads(done.stdout)
    return answers


def test_real_documents_give_the_same_answers_in_processes_with_other_hash_seeds() -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(in_another_process, ["1", "2"])
    assert len(one) > 20
    for mine, theirs in zip(one, other, strict=True):
        assert mine == theirs


def test_a_real_document_is_understood() -> None:
    (pydantic,) = (d for d in installed_packages().documents if d.source.startswith("package:pydantic=="))
    extracted = extract_text(pydantic)
    assert extracted.language == "en"
    assert extracted.words > 100
    assert "](" not in extracted.text
    assert any("github.com/pydantic" in link for link in extracted.links)
    found = keywords_and_entities(extracted.text)
    assert any("pydantic" in keyword.text.lower() for keyword in found.keywords)
    assert "validation" in summarise(extracted.text).text.lower()


def test_answers_are_plain_data() -> None:
    text = "This is a good library by Grace Hopper, made for the USA in 1999 and for you. See https://a.example."
    for answer in (sentiment(text), keywords_and_entities(text), summarise(text), extract_text(document(text))):
        assert json.loads(json.dumps(asdict(answer)))


def test_a_missing_library_says_how_to_install_it() -> None:
    program = "import sys; sys.modules['stop_words'] = None; import docanalysis.agents"
    environ = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "needs the package 'stop_words': pip install 'rayflow-durable[examples]'" in done.stderr.splitlines()[-1]
