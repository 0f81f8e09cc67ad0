"""Analyse documents: extract their text, then sentiment, keywords and a summary side by side, then a report.

The agents are ordinary functions on offline libraries (``docanalysis``); an agent that calls a language model looks
the same. Two forms of the same job:

* ``analyse_documents``: a durable function over any number of documents, eight at a time. This is what
  ``make demo`` runs, on the descriptions of all installed packages.
* ``one_document``: the same for one document as declared steps.

    rayflow run examples/document_analysis.py:analyse_documents --input '["README.md"]'
"""

from __future__ import annotations

import asyncio
from typing import Any

import rayflow as rf
from docanalysis import agents, documents, report

#: Documents that are under way at once.
AT_ONCE = 8


@rf.step
def collect(paths: list[str]) -> documents.Collection:
    """Read the documents: the given files and folders, or with none the installed packages' descriptions."""
    found = documents.read_paths(paths) if paths else documents.installed_packages()
    print(f"{len(found.documents)} documents, {len(found.skipped)} skipped")
    return found


@rf.step(timeout=60)
def extract(document: documents.Document) -> agents.Extracted:
    """The document's plain text."""
    return agents.extract_text(document)


@rf.step(timeout=60)
def sentiment(text: str) -> agents.Sentiment:
    """How the text sounds."""
    return agents.sentiment(text)


@rf.step(timeout=60)
def entities(text: str) -> agents.Entities:
    """What the text is about and what it names."""
    return agents.keywords_and_entities(text)


@rf.step(timeout=60)
def summary(text: str) -> agents.Summary:
    """The text's most telling sentences."""
    return agents.summarise(text)


async def analyse(document: documents.Document) -> report.Analysis:
    """One document: extract, then the three agents side by side."""
    extracted = await extract(document)
    mood, found, short = await asyncio.gather(
        sentiment(extracted.text), entities(extracted.text), summary(extracted.text)
    )
    return report.combine(document, extracted, mood, found, short)


@rf.workflow(id="document-analysis", version="1")
async def analyse_documents(paths: list[str] | None = None) -> dict[str, Any]:
    """Analyse all documents, a few at a time, and report. A document that fails is reported as skipped."""
    found = await collect(paths or [])
    room = asyncio.Semaphore(AT_ONCE)
    done: list[report.Analysis] = []
    skipped = list(found.skipped)

    async def one(document: documents.Document) -> None:
        async with room:
            try:
                done.append(await analyse(document))
            except rf.StepFailed as error:
                skipped.append(documents.Skipped(document.source, str(error.failure)))

    await asyncio.gather(*(one(document) for document in found.documents))
    return report.build_report(done, skipped)


@rf.agent(id="extractor")
def extractor(document: documents.Document) -> agents.Extracted:
    """An agent for the document's plain text."""
    return agents.extract_text(document)


@rf.agent(id="sentiment")
def sentiment_agent(text: str) -> agents.Sentiment:
    """An agent for how the text sounds."""
    return agents.sentiment(text)


@rf.agent(id="entities")
def entities_agent(text: str) -> agents.Entities:
    """An agent for what the text is about."""
    return agents.keywords_and_entities(text)


@rf.agent(id="summary")
def summary_agent(text: str) -> agents.Summary:
    """An agent for a summary."""
    return agents.summarise(text)


one_document = (
    rf.Workflow("one-document", name="Document analysis", description="Analyse one document, by declared steps.")
    .add_step(
        rf.SequentialStep("extract", agent=extractor, input=lambda state: state["document"], output_key="extracted")
    )
    .add_step(
        rf.DistributedParallelStep(
            "analysis",
            agents=[sentiment_agent, entities_agent, summary_agent],
            input=lambda state: [state["extracted"].text] * 3,
            output_keys=["sentiment", "entities", "summary"],
            max_workers=3,
        )
    )
)
