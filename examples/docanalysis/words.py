"""Words, sentences and languages."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from segtok.segmenter import split_multi  # type: ignore[import-untyped]  # ships no types
from stop_words import get_stop_words  # type: ignore[import-untyped]  # ships no marker for its types

#: ISO 639-1 codes of the languages that are recognised by their stop words. Chinese, Japanese and Korean are too,
#: by their characters.
LANGUAGES = (
    "en",
    "de",
    "fr",
    "es",
    "it",
    "pt",
    "nl",
    "sv",
    "da",
    "nb",
    "fi",
    "pl",
    "cs",
    "hu",
    "ro",
    "tr",
    "ru",
    "uk",
    "el",
    "ar",
)

#: What is answered where no language is clear: the code for "undetermined" of ISO 639-2.
UNDETERMINED = "und"

#: Longer sentences are cut: they are tables, logs or minified data, and some algorithms are quadratic in them.
MAX_SENTENCE = 1_000

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")


def words(text: str) -> list[str]:
    """The words of a text, as written. In scripts without spaces a run of letters counts as one word."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order; a paragraph without a full stop is one too.

    Args:
        text: plain text, paragraphs separated by newlines.
    """
    found = (sentence.strip() for paragraph in text.split("\n") for sentence in split_multi(paragraph))
    return [
        sentence[start : start + MAX_SENTENCE] for sentence in found for start in range(0, len(sentence), MAX_SENTENCE)
    ]


def is_prose(sentence: str) -> bool:
    """Whether a sentence looks like one, and not like a heading, a list of names or a line of a table."""
    if not re.search(r"[.!?…\u3002\uff01\uff1f][\"'”’)\]]*$", sentence):
        return False
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return 5 <= len(words(sentence)) <= 60 and letters >= 0.8 * len(sentence) and sentence[0].isalnum()


@cache
def stop_words(language: str) -> frozenset[str]:
    """The words of a language that carry no subject, lower case; English ones where it is not known."""
    listed = [word.lower() for word in get_stop_words(language if language in LANGUAGES else "en")]
    return frozenset([*listed, *(word.replace("'", "’") for word in listed)])  # either way to write an apostrophe


def language(text: str) -> str:
    """The language most likely written in, as an ISO 639-1 code, or "und" where none is clear.

    Counts which language's stop words the text is full of. It takes about a sentence to be sure.
    """
    sample = text[:20_000]
    letters = sum(map(str.isalpha, sample))
    cjk = _CJK.findall(sample)
    if len(cjk) > 0.3 * letters > 0:
        return _east_asian(cjk)
    counts = Counter(word.lower() for word in words(sample))
    total = sum(counts.values())
    if total < 5:
        return UNDETERMINED
    shares = sorted(
        ((sum(counts[word] for word in counts if word in stop_words(code)) / total, code) for code in LANGUAGES),
        key=lambda entry: (-entry[0], entry[1]),
    )
    (best, code), (second, _) = shares[:2]
    return code if best >= 0.15 and best >= 1.2 * second else UNDETERMINED


def _east_asian(characters: list[str]) -> str:
    if any(c >= "\uac00" for c in characters):
        return "ko"
    return "ja" if any(c <= "\u30ff" for c in characters) else "zh"
