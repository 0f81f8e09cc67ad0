"""Counter of vague phrases in the English of the package and its pages.

Prose is docstrings, comments, the messages of ``raise`` and of log calls in rayflow/, and the Markdown pages without
their code. `PHRASES` lists the phrases that are counted, with what to write instead. Phrases in questions and in code
spans do not count.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.architecture.tree import ROOT

#: The Markdown pages that are counted.
PAGES = ("*.md", "docs/**/*.md", "rayflow/**/*.md", "tests/**/*.md", "notebooks/**/*.md")

#: What is counted: a pattern, and what to write instead.
PHRASES = {
    r"whoever|somebody|nobody|who (?:is|was|has)": "name the subject: user code, caller, worker, …",
    r"what (?:is|was|has)": 'the noun: "finished executions", "the recorded result"',
    r"(?:is|was) no(?! longer| more)|is none|nothing any more|any more": '"is not a", "must be", "no longer"',
    r"(?:is|are|was|were) told": "receives, is notified, logs",
    r"go(?:es|ing)? on|went on|gone on": "continues, resumes",
    r"tak(?:es?|en|ing) (?:it |them )?up|took (?:it |them )?up": "claims, resumes",
    r"anew": "restarted, again",
    r"set(?:s|ting)? (?:\w+ )?aside": "quarantined",
    r"giv(?:es?|en|ing) up|gave up": "releases, stops, abandons",
    r"sees? to|look(?:s|ed|ing)? (?:at|after)": "ensures, checks, maintains",
    r"so many|so long(?! as)|so often": '"at most n", "timeout in seconds"',
    r"for good": "permanently",
    r"by itself|by themselves|of its own|of their own": "automatically, separate, its",
    r"meanwhile|at hand|beside": "during this time, available, next to, in addition to",
    r"(?:is|was|are|were) over(?! \d| the | an? | all )": "has finished",
}
#: The verb "answers" for what a function returns, not for a question.
ANSWERS = r"answers(?! (?:an? |the |its |this |each |every )?questions?\b)"
#: The noun does not count; it stands after one of these words.
NOUN_AFTER = (
    *("the", "its", "their", "his", "our", "your", "no", "all", "any", "some", "these", "those", "both", "more"),
    *("of", "for", "with", "to", "from", "late", "kept", "open", "read", "send", "sends"),
)

_COUNTED = re.compile(rf"\b(?:{'|'.join([*PHRASES, ANSWERS])})\b".replace(" ", r"\s+"), re.IGNORECASE)
_NOUN = re.compile(rf"(?:\b(?:{'|'.join(NOUN_AFTER)})|\bquestions and)\s+answers\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_SENTENCE = re.compile(r"(?<=[.!?:;])[\"')\]*]*\s+|\n\s*\n|\|")
_FENCE = re.compile(r"^ *(?P<fence>```+|~~~+).*?^ *(?P=fence)`*\s*?$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(`+).*?\1", re.DOTALL)
_LINK = re.compile(r"\]\([^)]*\)")
_DOCTEST = re.compile(r"^ *>>> .*?(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
_DIRECTIVE = re.compile(r"^(?:!|noqa|type:|ruff:|pragma:|mypy:|fmt:)")
_LOG_CALLS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


@dataclass(frozen=True)
class Found:
    """One phrase in a file."""

    line: int
    phrase: str


@dataclass(frozen=True)
class Prose:
    """The English of one file: its words, and the phrases found in it."""

    path: Path
    words: int
    found: tuple[Found, ...]

    @property
    def rate(self) -> float:
        """Phrases per 10,000 words."""
        return 10_000 * len(self.found) / self.words if self.words else 0.0


def phrases(text: str) -> list[tuple[int, str]]:
    """Return (line in the text, phrase) of each phrase that counts; the first line is 0."""
    plain = _blank(_SPAN, text)
    found = []
    for start, sentence in _sentences(plain):
        if not sentence.rstrip("\"')]* ").endswith("?"):
            nouns = {match.end() for match in _NOUN.finditer(sentence)}
            found += [
                (plain.count("\n", 0, start + match.start()), " ".join(match[0].split()))
                for match in _COUNTED.finditer(sentence)
                if match.end() not in nouns
            ]
    return found


def words(text: str) -> int:
    """Return the number of words; code spans count with theirs."""
    return len(_WORD.findall(text))


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for match in _SENTENCE.finditer(text):
        yield start, text[start : match.start()]
        start = match.end()
    yield start, text[start:]


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """Replace each match by a placeholder of the same size, with the same line breaks."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", "·", match[0]), text)


def python_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of each docstring, comment, and message of a raise or a log call."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str(text)) as docstring), *_]:
                    yield docstring.lineno, _blank(_DOCTEST, _blank(_FENCE, text))
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield from _messages(node.exc)
        elif isinstance(node, ast.Call) and _speaks(node.func):
            yield from _messages(node)
    yield from _comments(source)


def _speaks(function: ast.expr) -> bool:
    """Tell whether a call writes to a log, or makes the message of an error."""
    if not isinstance(function, ast.Attribute):
        return False
    receiver = ast.unparse(function.value)
    return (function.attr in _LOG_CALLS and "log" in receiver.lower()) or (
        function.attr == "__init__" and receiver == "super()"
    )


def _messages(node: ast.expr) -> Iterator[tuple[int, str]]:
    inner: set[ast.AST] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.JoinedStr):
            inner.update(child.values)
            parts = [part.value if isinstance(part, ast.Constant) else "·" for part in child.values]
            yield child.lineno, "".join(str(part) for part in parts)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str) and child not in inner:
            yield child.lineno, child.value


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments; those on lines of their own that follow each other are one text."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        text = token.string.lstrip("#:").strip()
        if block and token.start[0] == last + 1 and not token.line[: token.start[1]].strip():
            block.append(text)
        else:
            if block:
                yield first, "\n".join(block)
            block, first = [text], token.start[0]
        last = token.start[0]
        if _DIRECTIVE.match(text):
            block[-1] = ""
    if block:
        yield first, "\n".join(block)


def page_text(text: str) -> str:
    """Return a Markdown page without its code blocks and the targets of its links."""
    return _blank(_LINK, _blank(_FENCE, text))


def prose_of(path: Path, root: Path) -> Prose:
    """Return the prose of one Python file or Markdown page."""
    text = path.read_text(encoding="utf-8")
    texts = list(python_texts(text)) if path.suffix == ".py" else [(1, page_text(text))]
    found = sorted({(line + offset, phrase) for line, part in texts for offset, phrase in phrases(part)})
    return Prose(
        path.relative_to(root), sum(words(part) for _, part in texts), tuple(Found(line, name) for line, name in found)
    )


def measure(root: Path) -> list[Prose]:
    """Return the prose of each file, those with the most phrases first."""
    files = [*(root / "rayflow").rglob("*.py"), *(page for pattern in PAGES for page in root.glob(pattern))]
    return sorted((prose_of(file, root) for file in sorted(set(files))), key=lambda prose: -len(prose.found))


def rate(proses: list[Prose]) -> float:
    """Return the phrases per 10,000 words over all files."""
    total = sum(prose.words for prose in proses)
    return 10_000 * sum(len(prose.found) for prose in proses) / total if total else 0.0


def worst(proses: list[Prose], count: int = 20) -> str:
    """Return a table of the files with the most phrases."""
    rows = [f"{len(prose.found):6} {prose.rate:8.0f} {prose.words:7}  {prose.path}" for prose in proses[:count]]
    return "\n".join(["phrases per 10,000  words  file", *rows])


def main(names: list[str]) -> None:
    """Print each phrase of the named files, or the worst files and the rate of all."""
    if names:
        for name in names:
            for found in prose_of(Path(name).resolve(), ROOT).found:
                print(f"{name}:{found.line}: {found.phrase}")
    else:
        proses = measure(ROOT)
        print(worst(proses))
        print(f"in all: {rate(proses):.1f} phrases per 10,000 words of {sum(prose.words for prose in proses)}")


if __name__ == "__main__":
    main(sys.argv[1:])
