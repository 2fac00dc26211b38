"""Invoices through a LangGraph workflow in which a person checks what the reader is not sure of.

    python examples/document_review.py [FILE] [--sure 0.8]

read -> review (stops for a person where a field was not found or is below `--sure`) -> finish. The graph sleeps while
it waits: with a checkpointer on disk the answer may come days later, from another process. Needs
`pip install ".[ocr]" langgraph` in a clone.
"""

import argparse
import datetime
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel, ValidationError

from vision_agent import VisionAgent

INVOICE = Path(__file__).with_name("invoice.pdf")


class Invoice(BaseModel):
    seller: str | None = None
    invoice_number: str | None = None
    date: datetime.date | None = None
    total: Decimal | None = None


class State(TypedDict, total=False):
    """What travels through the graph: plain values, so that any checkpointer can keep it."""

    file: str
    values: dict[str, Any]
    doubts: list[dict[str, Any]]
    checked: list[str]


def workflow(agent: VisionAgent, sure: float) -> CompiledStateGraph[State, None, State, State]:
    """Make the graph. A field with a confidence below `sure`, 0 to 1, goes to a person."""

    def read(state: State) -> State:
        found = agent.extract(state["file"], Invoice)
        doubts = [
            {
                "field": name,
                "value": found.value.model_dump(mode="json")[name],
                "confidence": round(field.confidence, 2),
            }
            | {"read": field.text, "page": field.page, "box": field.box and list(field.box.xyxy)}
            for name, field in found.fields.items()
            if not field.found or field.confidence < sure
        ]
        return {"values": found.value.model_dump(mode="json"), "doubts": doubts}

    def review(state: State) -> State:
        problem = None
        while True:  # LangGraph runs this node again from its start with each answer
            answer: Mapping[str, Any] = interrupt({"file": state["file"], "check": state["doubts"], "problem": problem})
            try:
                invoice = Invoice.model_validate({**state["values"], **answer["changes"]})
            except ValidationError as error:
                problem = "; ".join(f"{detail['loc'][0]}: {detail['msg']}" for detail in error.errors())
                continue
            return {"values": invoice.model_dump(mode="json"), "checked": [each["field"] for each in state["doubts"]]}

    graph = StateGraph(State)
    graph.add_node("read", read)
    graph.add_node("review", review)
    graph.add_edge(START, "read")
    graph.add_conditional_edges("read", lambda state: "review" if state["doubts"] else END, ["review", END])
    graph.add_edge("review", END)
    return graph.compile(checkpointer=InMemorySaver())


def checked(
    graph: CompiledStateGraph[State, None, State, State],
    file: str | Path,
    person: Callable[[dict[str, Any]], dict[str, Any]],
) -> State:
    """Run one document through; `person` is shown what is in doubt and gives the fields to change."""
    thread: Any = {"configurable": {"thread_id": str(file)}}
    state = graph.invoke({"file": str(file)}, thread)
    while stops := state.get("__interrupt__"):
        # LangGraph takes an empty answer for none at all, so it is wrapped.
        state = graph.invoke(Command(resume={"changes": person(stops[0].value)}), thread)
    return state  # type: ignore[return-value]


def ask_at_the_terminal(request: dict[str, Any]) -> dict[str, Any]:
    """Ask for each field in doubt; an empty line keeps what was read."""
    print(request["file"], request["problem"] or "", sep="\n")
    changes = {}
    for doubt in request["check"]:
        place = f"page {doubt['page']}, {doubt['read']!r}" if doubt["page"] else "not found"
        said = input(f"{doubt['field']} [{doubt['value']}] ({place}, {doubt['confidence']}): ").strip()
        if said:
            changes[doubt["field"]] = said
    return changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", default=INVOICE, type=Path)
    parser.add_argument("--sure", type=float, default=0.8, help="confidence below which a person looks, 0 to 1")
    options = parser.parse_args()
    state = checked(workflow(VisionAgent(), options.sure), options.file, ask_at_the_terminal)
    print(state["values"], f"checked by a person: {', '.join(state.get('checked', [])) or 'nothing'}", sep="\n")


if __name__ == "__main__":
    main()
