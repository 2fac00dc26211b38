"""Questions over documents: the right page, the right place, and no answer where there is none."""

from pathlib import Path
from typing import Any

import pytest
from written_pages import AMERICAN, GERMAN, document

from vision_agent import Answer, VisionAgent
from vision_agent.errors import InputError
from vision_agent.extract.extractor import Extractor
from vision_agent.extract.question_answering import (
    DocumentAnswer,
    answer_by_layout,
    ask_document,
    is_document,
    rank_pages,
)
from vision_agent.generation.options import GenerationOptions

INVOICE = Path(__file__).parents[2] / "examples" / "invoice.pdf"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the total amount?", "$154.06"),
        ("When is the invoice due?", "05/11/2024"),
        ("Who is the customer?", "Blue Ocean LLC"),
        ("What is the PO number?", "PO-7781"),
        ("How much is the sales tax?", "9.06"),
        ("What is the price of the brake cables?", "100.00"),
    ],
)
def test_answers_are_pieces_of_the_document(question: str, answer: str) -> None:
    read = document(AMERICAN)
    said = answer_by_layout(question, read, "small")
    assert (said.text, said.page, said.extractive, said.found) == (answer, 1, True, True)
    assert said.box is not None and said.untrusted is True
    words = [word for word in read.words if word.text in answer.split()]
    assert any(abs(word.box.x0 - said.box.x0) < 1 and abs(word.box.y0 - said.box.y0) < 1 for word in words)


def test_german_questions() -> None:
    assert answer_by_layout("Wie hoch ist der Gesamtbetrag?", document(GERMAN), "small").text.startswith("3.333,79")
    assert answer_by_layout("Wann ist die Rechnung fällig?", document(GERMAN), "small").text == "17.04.2024"


def test_no_answer_is_an_empty_one() -> None:
    said = answer_by_layout("What is the blood type of the captain?", document(AMERICAN), "small")
    assert (said.text, said.found, said.page, said.box) == ("", False, None, None)


def long_document() -> Any:
    pages = [
        [(60, 50, f"Chapter {n}"), (60, 90, "General words about oak, elm and other trees.")] for n in range(1, 41)
    ]
    pages[22] = [(60, 50, "Chapter 23"), (60, 90, "Warranty period:"), (300, 90, "36 months")]
    return document(*pages)


def test_long_documents_are_routed_to_the_page() -> None:
    read = long_document()
    assert rank_pages("How long is the warranty period?", read)[0] == 23
    said = answer_by_layout("What is the warranty period?", read, "small")
    assert (said.text, said.page) == ("36 months", 23) and said.pages[0] == 23 and len(said.pages) == 3


def test_a_big_model_reads_the_page_and_its_words() -> None:
    asked: list[str] = []

    def ask(question: str, image: Any = None, **_: Any) -> Answer:
        asked.append(question)
        return Answer(
            text="It is 36 months",
            finish_reason="stop",
            prompt_tokens=9,
            completion_tokens=4,
            confidence=0.7,
            model="big",
        )

    def short(question: str, image: Any = None, **kept: Any) -> Answer:
        return ask(question, image, **kept).model_copy(update={"text": "36 months"})

    read, options = long_document(), GenerationOptions()
    extractor = Extractor(lambda *_, **__: None, ask, parameters=10**9)
    loose = ask_document("How long is the warranty period?", read, extractor, ask, options, "big")
    assert "Warranty" in asked[0] and "Chapter 7" not in asked[0].split("JSON string")[1].split("Chapter 23")[0]
    assert (loose.text, loose.found, loose.extractive, loose.prompt_tokens) == ("It is 36 months", False, False, 9)
    exact = ask_document("How long is the warranty period?", read, extractor, short, options, "big")
    assert (exact.page, exact.excerpt, exact.found) == (23, "36 months", True)


def test_the_agent_answers_about_pdfs_and_words(agent: VisionAgent) -> None:
    pytest.importorskip("pypdfium2")
    assert is_document(INVOICE) and is_document(str(INVOICE)) and is_document(INVOICE.read_bytes())
    assert not is_document("park.jpg") and not is_document(None) and not is_document([INVOICE])
    said = agent.ask("what is the total?", str(INVOICE))
    assert isinstance(said, DocumentAnswer) and said.text == "£265.13" and said.page == 1
    assert said.model_dump()["kind"] == "document_answer"
    for options in ({"choices": ["yes", "no"]}, {"stream": True}):
        with pytest.raises(InputError, match="a document takes one question"):
            agent.ask("is it paid?", str(INVOICE), **options)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="`question`"):
        agent.ask(" ", document(AMERICAN))
