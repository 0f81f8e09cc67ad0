"""The four agents of the document analysis: extract, then sentiment, keywords and entities, and summary.

Pure functions of text: no model, no network, no clock. Each takes any text, an empty one too, and answers frozen
plain data with rounded numbers, so that two runs compare equal. At most ``MAX_CHARS`` characters are looked at.

Words that are not English are found and counted like any; only the mood is English, for its lexicon is
(``Sentiment.label`` is then "unknown", which is not the same as neutral).
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

try:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # type: ignore[import-untyped]  # no types

    from docanalysis.keywords import keyphrases
    from docanalysis.plaintext import to_plain
    from docanalysis.words import UNDETERMINED, is_prose, language, sentences, stop_words, words
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the document analysis needs the package {error.name!r}: pip install 'rayflow-durable[examples]'",
        name=error.name,
    ) from error

from docanalysis.documents import MAX_CHARS, Document

#: VADER's own bounds between positive, neutral and negative: https://github.com/cjhutto/vaderSentiment#about-the-scoring
MOOD_BOUND = 0.05

KEYWORDS = 8
ENTITIES_PER_KIND = 10
SUMMARY_SENTENCES = 3

#: Sentences that the summary chooses from, from the beginning; comparing them is what takes long.
SUMMARY_CANDIDATES = 1_000


@dataclass(frozen=True)
class Extracted:
    """The readable part of a document.

    Args:
        title: its first heading of the highest level, or the document's title where it has none.
        text: prose without markup, code and pictures; paragraphs are separated by blank lines.
        words: how many words.
        sentences: how many sentences, headings and list items included.
        language: ISO 639-1 code, or "und" where none is clear.
        links: web addresses that it links to, each once, in order.
        truncated: whether the document was longer than what was read.
        note: "" or what went wrong with its markup.
    """

    title: str
    text: str
    words: int
    sentences: int
    language: str
    links: tuple[str, ...] = ()
    truncated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Sentiment:
    """The mood of a text.

    Args:
        label: "positive", "neutral", "negative", or "unknown": another language, or no word that the lexicon knows.
        score: -1 to 1, the mean over the sentences; 0 where unknown.
        positive: sentences above VADER's bound.
        negative: sentences below it.
        sentences: all sentences that were scored.
    """

    label: str
    score: float
    positive: int = 0
    negative: int = 0
    sentences: int = 0


@dataclass(frozen=True)
class Keyword:
    """A word or phrase that a text is about, and how much: 1 is the most."""

    text: str
    score: float


@dataclass(frozen=True)
class Entity:
    """Something with a recognisable form: kind is "name", "acronym", "version", "date", "email" or "url"."""

    kind: str
    text: str
    count: int


@dataclass(frozen=True)
class Entities:
    """Keywords, best first, and entities, by kind and then by how often they occur."""

    keywords: tuple[Keyword, ...] = ()
    entities: tuple[Entity, ...] = ()


@dataclass(frozen=True)
class Summary:
    """The sentences that say most of a text, in the order in which they stand there."""

    sentences: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The sentences as one paragraph."""
        return " ".join(self.sentences)


# --- extract ----------------------------------------------------------------------------------------------
def extract_text(document: Document) -> Extracted:
    """Read a document: take its markup out, and count."""
    plain = to_plain(document.text[:MAX_CHARS], document.media_type)
    return Extracted(
        title=plain.heading or document.title,
        text=plain.text,
        words=len(words(plain.text)),
        sentences=len(sentences(plain.text)),
        language=language(plain.text),
        links=plain.links,
        truncated=document.truncated or len(document.text) > MAX_CHARS,
        note=plain.note,
    )


# --- sentiment --------------------------------------------------------------------------------------------
def sentiment(text: str) -> Sentiment:
    """The mood of an English text, by VADER.

    Every sentence is scored by itself and the scores are averaged: the score of a whole text runs to 1 or -1 with
    its length, for VADER was made for single sentences.

    Args:
        text: plain text.
    """
    text = text[:MAX_CHARS]
    spoken = language(text)
    if spoken not in ("en", UNDETERMINED):
        return Sentiment("unknown", 0.0)
    scores = [float(_vader().polarity_scores(sentence)["compound"]) for sentence in sentences(text)]
    if not scores or (spoken == UNDETERMINED and not any(scores)):
        return Sentiment("unknown", 0.0, sentences=len(scores))
    mean = round(math.fsum(scores) / len(scores), 4)
    label = "positive" if mean >= MOOD_BOUND else "negative" if mean <= -MOOD_BOUND else "neutral"
    positive = sum(score >= MOOD_BOUND for score in scores)
    negative = sum(score <= -MOOD_BOUND for score in scores)
    return Sentiment(label, mean, positive, negative, len(scores))


@cache
def _vader() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()  # reads its lexicon of 7,500 words, once per process


# --- keywords and entities --------------------------------------------------------------------------------
def keywords_and_entities(text: str) -> Entities:
    """What a text is about (by TextRank), and what is named in it (by form: no model guesses here).

    Args:
        text: plain text.
    """
    text = text[:MAX_CHARS]
    return Entities(_keywords(text), tuple(_entities(text)))


def _keywords(text: str) -> tuple[Keyword, ...]:
    lines = sentences(_EMAIL.sub(" , ", _URL.sub(" , ", text)))
    return tuple(Keyword(phrase, score) for phrase, score in keyphrases(lines, language(text), KEYWORDS))


_URL = re.compile(r"https?://[^\s<>\"'`{}|\\^]+")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")

#: "2.0" alone may be any number: a version says so by a "v", a comparison, the word before it, or a third part.
_SUFFIX = r"(?:(?:a|b|rc|\.dev|\.post)\d+)?(?![\w%]|\.\d)"
_VERSION = re.compile(
    r"(?:(?<![\w.])v|[=<>~!]=?\s?|\b(?:[Vv]ersions?|[Rr]elease|[A-Z][A-Za-z]+)\s(?=\d+\.\d))"
    rf"(\d+(?:\.\d+){{1,3}}{_SUFFIX})"
    rf"|(?<![\w.])(\d+\.\d+\.\d+{_SUFFIX})"
)
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_MONTH = "|".join(f"{month[:3]}(?:{month[3:]})?" if month != "May" else month for month in _MONTHS)
_DATE = re.compile(
    rf"\b(?P<y1>\d{{4}})-(?P<m1>\d\d)-(?P<d1>\d\d)\b"
    rf"|\b(?P<d2>\d{{1,2}})\.? (?P<m2>{_MONTH})\.?,? (?P<y2>\d{{4}})\b"
    rf"|\b(?P<m3>{_MONTH})\.? (?P<d3>\d{{1,2}}),? (?P<y3>\d{{4}})\b"
)
_ACRONYM = re.compile(r"\b[A-Z][A-Z0-9]{1,9}\b")

#: In the middle of a sentence: two to four capitalised words ("David Goodger"), or one with a hump ("PyPI").
_NAME = re.compile(r"(?<=[a-z,;:(] )(?:[A-Z][a-z]+[A-Za-z]*(?: [A-Z][A-Za-z]+){1,3}|[A-Z][a-z]+[A-Z][A-Za-z]*)\b")


def _entities(text: str) -> Iterator[Entity]:
    yield from _ranked("url", (_address(found) for found in _URL.findall(text)))
    rest = _URL.sub(" ", text)
    yield from _ranked("email", (found.rstrip(".").lower() for found in _EMAIL.findall(rest)))
    rest = _EMAIL.sub(" ", rest)
    yield from _ranked("date", filter(None, map(_iso, _DATE.finditer(rest))))
    rest = _DATE.sub(" ", rest)
    yield from _ranked("version", (first or second for first, second in _VERSION.findall(rest)))
    prose = [sentence for sentence in sentences(rest) if is_prose(sentence) and not sentence.isupper()]
    common = stop_words("en")
    yield from _ranked(
        "acronym", (found for line in prose for found in _ACRONYM.findall(line) if found.lower() not in common)
    )
    yield from _ranked("name", (found for line in prose for found in _NAME.findall(line)))


def _ranked(kind: str, found: Iterable[str]) -> list[Entity]:
    # Counter keeps the order of first appearance and most_common is stable: no tie is left to chance.
    return [Entity(kind, text, count) for text, count in Counter(found).most_common(ENTITIES_PER_KIND)]


def _address(url: str) -> str:
    bare = url.rstrip(".,;:!?*_")
    while bare.endswith((")", "]")) and bare.count(")") + bare.count("]") > bare.count("(") + bare.count("["):
        bare = bare[:-1].rstrip(".,;:!?*_")
    return bare


def _iso(match: re.Match[str]) -> str | None:
    year, month, day = (next(filter(None, (match[f"{part}{form}"] for form in "123"))) for part in "ymd")
    number = int(month) if month.isdigit() else 1 + [name[:3] for name in _MONTHS].index(month[:3])
    try:
        return dt.date(int(year), number, int(day)).isoformat()
    except ValueError:  # the 31st of February looks like a date and is none
        return None


# --- summary ----------------------------------------------------------------------------------------------
def summarise(text: str) -> Summary:
    """The few sentences that are nearest to what the whole text is about.

    Extractive, by centroid: sentences are vectors of their words, weighted by tf-idf over the sentences; chosen are
    those nearest to the mean of all, the opening ones favoured, each penalised by its likeness to those before.
    (Radev, Jing, Styś, Tam: Centroid-based summarization of multiple documents, 2004; the penalty is the maximal
    marginal relevance of Carbonell and Goldstein, 1998.)

    Args:
        text: plain text. Where it has no sentences that read like prose, its first sentence is the summary.
    """
    every = sentences(text[:MAX_CHARS])
    candidates = list(dict.fromkeys(filter(is_prose, every)))[:SUMMARY_CANDIDATES]
    if len(candidates) <= SUMMARY_SENTENCES:
        return Summary(tuple(candidates or every[:1]))
    vectors = _tf_idf(candidates, stop_words(language(text)))
    centre: dict[str, float] = {}
    for vector in vectors:
        for word, weight in vector.items():
            centre[word] = centre.get(word, 0.0) + weight
    size = math.sqrt(math.fsum(weight * weight for weight in centre.values())) or 1.0
    # The opening says what a text is for, and a changelog below it may be longer than all the rest: the first
    # sentence counts double, the fifth half as much more, the fiftieth next to nothing more.
    nearness = [
        round(_dot(vector, centre) / size * (1 + 4 / (4 + position)), 9) for position, vector in enumerate(vectors)
    ]
    chosen: list[int] = []
    likeness = [0.0] * len(vectors)
    while len(chosen) < SUMMARY_SENTENCES:
        left = (index for index in range(len(vectors)) if index not in chosen)
        best = max(left, key=lambda index: (nearness[index] * (1 - likeness[index]), -index))
        chosen.append(best)
        likeness = [
            max(known, round(_dot(vector, vectors[best]), 9)) for known, vector in zip(likeness, vectors, strict=True)
        ]
    return Summary(tuple(candidates[index] for index in sorted(chosen)))


def _tf_idf(lines: list[str], common: frozenset[str]) -> list[dict[str, float]]:
    """A vector of length 1 for each line (or an empty one), from the words that are not ``common``."""
    counted = [Counter(word for word in map(str.lower, words(line)) if word not in common) for line in lines]
    within = Counter(word for counts in counted for word in counts)
    vectors = []
    for counts in counted:
        weights = {word: count * math.log(1 + len(lines) / within[word]) for word, count in counts.items()}
        size = math.sqrt(math.fsum(weight * weight for weight in weights.values())) or 1.0
        vectors.append({word: weight / size for word, weight in weights.items()})
    return vectors


def _dot(one: dict[str, float], other: dict[str, float]) -> float:
    return math.fsum(weight * other.get(word, 0.0) for word, weight in one.items())
