"""Keywords: the words that a text keeps coming back to, and the phrases that they make.

TextRank (Mihalcea, Tarau: TextRank: Bringing Order into Texts, 2004): words that stand near each other are linked,
and PageRank over the links says which ones the text turns around.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from docanalysis.words import stop_words

#: A keyword's longest phrase.
LONGEST = 3

#: Words that stand at most so far from each other are linked, those without a subject not counted.
WINDOW = 3

#: PageRank's damping, as in the paper, and its rounds: enough for the few digits that are shown.
DAMPING = 0.85
ROUNDS = 25

#: A word as programmers write them, too: UTF-8, urllib3, C++, README.md, don't.
_TOKEN = re.compile(r"[^\W\d_][\w+#]*(?:['’.-]\w+)*")


def keyphrases(lines: Iterable[str], language: str, limit: int) -> list[tuple[str, float]]:
    """The words and phrases that matter most, best first, with a score up to 1, which the best one has.

    A phrase is said when it occurs more than once, or stands alone between stop words and punctuation. One of which
    half was said by better ones is left out.

    Args:
        lines: sentences.
        language: whose stop words are left out: an ISO 639-1 code.
        limit: how many at most.
    """
    runs = [_runs(line, stop_words(language)) for line in lines]
    rank = _ranks([[word.lower() for run in line for word in run] for line in runs])
    counts, written = _phrases(run for line in runs for run in line)
    scores = {
        phrase: math.fsum(rank[word] for word in phrase) / _share(len(phrase), count) * math.log1p(count)
        for phrase, count in counts.items()
    }
    best = max(scores.values(), default=1.0)
    rounded = {phrase: round(score / best, 4) for phrase, score in scores.items()}
    chosen: list[tuple[str, float]] = []
    said: set[str] = set()
    for phrase in sorted(rounded, key=lambda phrase: (-rounded[phrase], phrase)):
        if len(chosen) == limit:
            break
        parts = {_bare(word) for word in phrase}
        if 2 * len(parts & said) < len(parts):
            chosen.append((written[phrase].most_common(1)[0][0], rounded[phrase]))
            said |= parts
    return chosen


def _share(words: int, count: int) -> float:
    """By what a phrase's sum is divided: one that comes back is worth more than its words are on average."""
    return math.sqrt(words) if count > 1 else words


def _bare(word: str) -> str:
    """A word without an English possessive or plural, so that "tables" says nothing new after "table"."""
    return word.removesuffix("'s").removesuffix("’s").removesuffix("s")


def _runs(line: str, common: frozenset[str]) -> list[list[str]]:
    """The words of a sentence in runs that no stop word, number or punctuation interrupts."""
    found: list[list[str]] = [[]]
    end = 0
    for match in _TOKEN.finditer(line):
        word = match.group()
        if line[end : match.start()] != " ":
            found.append([])
        if word.lower() in common or len(word) == 1:
            found.append([])
        else:
            found[-1].append(word)
        end = match.end()
    return [run for run in found if run]


def _ranks(lines: Sequence[Sequence[str]]) -> dict[str, float]:
    """PageRank of every word, over links as heavy as words are often near each other."""
    links: dict[str, Counter[str]] = {word: Counter() for line in lines for word in line}
    for line in lines:
        for position, word in enumerate(line):
            for other in line[position + 1 : position + WINDOW]:
                if other != word:
                    links[word][other] += 1
                    links[other][word] += 1
    total = {word: sum(near.values()) for word, near in links.items()}
    rank = dict.fromkeys(links, 1.0)
    for _ in range(ROUNDS):
        rank = {
            word: 1 - DAMPING + DAMPING * math.fsum(rank[other] * count / total[other] for other, count in near.items())
            for word, near in links.items()
        }
    return rank


def _phrases(
    runs: Iterable[Sequence[str]],
) -> tuple[dict[tuple[str, ...], int], dict[tuple[str, ...], Counter[str]]]:
    """How often each phrase occurs, and how it is written."""
    written: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    whole = set()
    for run in runs:
        whole.add(tuple(word.lower() for word in run))
        for size in range(1, LONGEST + 1):
            for start in range(len(run) - size + 1):
                phrase = run[start : start + size]
                written[tuple(word.lower() for word in phrase)][" ".join(phrase)] += 1
    counts = {phrase: spelled.total() for phrase, spelled in written.items()}
    said = {phrase: n for phrase, n in counts.items() if n > 1 or phrase in whole or len(phrase) == 1}
    return said, dict(written)
