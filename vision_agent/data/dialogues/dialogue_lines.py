"""One line of a `.jsonl` as a dialogue to learn from, or what is wrong with it."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vision_agent.data.dialogues.box_words import faults_of_answer, faults_of_question
from vision_agent.data.dialogues.dialogue_files import DialogueFile
from vision_agent.data.dialogues.other_forms import in_internvls_form
from vision_agent.model.prompt import PLACEHOLDER

VIDEO_PLACEHOLDER = "<video>"
Tell = Callable[[str, object], None]  # told the kind of a fault, and what was found


@dataclass(frozen=True)
class DialogueLine:
    """A dialogue to learn from.

    Attributes:
        file, line: where it stands, from 1.
        system: its system message; None for the model's own.
        turns: questions with their answers; a question has `<image>` where an image goes, or `<video>`.
        images: paths, in the order of their placeholders.
        sizes: their widths and heights, upright, once they were looked at.
        video: a file, or a folder of frames; None without one. clip: its part, in seconds.
        augment, max_tiles: see `DialogueFile`.
    """

    file: str
    line: int
    system: str | None
    turns: tuple[tuple[str, str], ...]
    images: tuple[Path, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    video: Path | None = None
    clip: tuple[float, float] | None = None
    augment: bool = False
    max_tiles: int | None = None

    def with_frames(self, count: int) -> "DialogueLine":
        """Return the dialogue with `Frame-1: <image>` and so on for its video, as InternVL's training writes it."""
        frames = "\n".join(f"Frame-{number}: {PLACEHOLDER}" for number in range(1, count + 1))
        turns = tuple((question.replace(VIDEO_PLACEHOLDER, frames), answer) for question, answer in self.turns)
        return replace(self, turns=turns)


def read_line(text: str, number: int, source: DialogueFile, tell: Tell) -> tuple[DialogueLine, Any] | None:
    """Return the dialogue of a line, with the sizes that it states for its images; None after telling its faults."""
    told = 0

    def fault(kind: str, found: object) -> None:
        nonlocal told
        told += 1
        tell(kind, found)

    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        tell("no JSON", error)
        return None
    if not isinstance(said, dict):
        tell("no JSON object", f"{text:.80}")
        return None
    said = in_internvls_form(said)
    system, turns = _turns(said.get("conversations"), fault)
    images = _paths(said.get("image"), source.root, fault)
    video = _video(said, source.root, fault)
    clip = _clip(said.get("clip"), fault)
    if images and video is not None:
        fault("an image and a video", "one dialogue has one or the other")
    if told:
        return None
    turns = _placed(turns, len(images), video is not None, fault)
    if told:
        return None
    line = DialogueLine(
        file=str(source.annotation),
        line=number,
        system=system,
        turns=turns,
        images=images,
        video=video,
        clip=clip,
        augment=source.augment,
        max_tiles=source.max_tiles,
    )
    return line, _stated_sizes(said)


def _turns(said: Any, fault: Tell) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    """The system message, and rounds of question and answer."""
    if not isinstance(said, list) or not said:
        fault("no conversations", f"`conversations` must be a list of turns, but is {said!r:.80}")
        return None, ()
    for place, turn in enumerate(said):
        if not isinstance(turn, dict) or turn.get("from") not in ("human", "gpt", "system"):
            fault("bad turn", f"turn {place + 1} must be from human, gpt or system, but is {turn!r:.80}")
            return None, ()
        if not isinstance(turn.get("value"), str):
            fault("bad turn", f"`value` of turn {place + 1} must be a text, but is {turn.get('value')!r:.80}")
            return None, ()
        if halves := [each for each in turn["value"] if "\ud800" <= each <= "\udfff"]:
            fault("no text", f"turn {place + 1} holds half of a character, {halves[0]!r}, which no tokenizer reads")
            return None, ()
    system = said[0]["value"] if said[0]["from"] == "system" else None
    spoken = said if system is None else said[1:]
    speakers = [turn["from"] for turn in spoken]
    if not speakers or speakers != ["human", "gpt"] * (len(speakers) // 2):
        expected = "human and gpt must take turns, human first and gpt last, after at most one system turn"
        fault("turns out of order", f"{expected}; found {', '.join(turn['from'] for turn in said[:8])}")
        return None, ()
    turns = tuple(zip((t["value"] for t in spoken[::2]), (t["value"] for t in spoken[1::2]), strict=True))
    for place, (question, answer) in enumerate(turns, start=1):
        if not answer.strip():
            fault("empty answer", f"answer {place} says nothing")
        if not question.strip():
            fault("empty question", f"question {place} says nothing")
        for each in (*faults_of_question(question), *faults_of_answer(answer)):
            fault("bad boxes", each)
    return system, turns


def _paths(said: Any, root: Path, fault: Tell) -> tuple[Path, ...]:
    if said is None or said in ("", []):
        return ()
    names = said if isinstance(said, list) else [said]
    if not all(isinstance(name, str) and name for name in names):
        fault("bad image", f"`image` must be a path or a list of paths, but is {said!r:.80}")
        return ()
    return tuple(root / name for name in names)


def _video(said: dict[str, Any], root: Path, fault: Tell) -> Path | None:
    video = said.get("video")
    if video is None or video == "":
        return None
    if not isinstance(video, str):
        fault("bad video", f"`video` must be a path, but is {video!r:.80}")
        return None
    return root / video


def _clip(said: Any, fault: Tell) -> tuple[float, float] | None:
    if said is None:
        return None
    numbers = isinstance(said, list) and len(said) == 2
    if not numbers or not all(type(each) in (int, float) and math.isfinite(each) for each in said):
        fault("bad clip", f"`clip` must be two times in seconds, but is {said!r:.80}")
        return None
    if not 0 <= said[0] < said[1]:
        fault("bad clip", f"`clip` must begin before it ends, but is {said!r:.80}")
        return None
    return float(said[0]), float(said[1])


def _placed(turns: Sequence[tuple[str, str]], images: int, video: bool, fault: Tell) -> tuple[tuple[str, str], ...]:
    """The turns with a placeholder for each image; the only image, or the video, stands first where none has."""
    mark = VIDEO_PLACEHOLDER if video else PLACEHOLDER
    wanted = 1 if video else images
    found = sum(question.count(mark) for question, _ in turns)
    if not found and wanted == 1:
        turns = [(f"{mark}\n{turns[0][0]}", turns[0][1]), *turns[1:]]
    elif found != wanted:
        fault("placeholders and images differ", f"{found} {mark} in the questions for {wanted} of them")
    other = sum(question.count(PLACEHOLDER) for question, _ in turns) if video else 0
    if other:
        fault("placeholders and images differ", f"{other} {PLACEHOLDER} beside a video")
    return tuple(turns)


def _stated_sizes(said: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Widths and heights as the line states them; none where it states none."""
    for names in (("width", "height"), ("width_list", "height_list")):
        stated = [said.get(name) for name in names]
        lists = [each if isinstance(each, list) else [each] for each in stated]
        if None not in stated and len(lists[0]) == len(lists[1]):
            return list(zip(*lists, strict=True))
    return []
