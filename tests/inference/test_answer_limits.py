"""What an answer must not hide: numbers that overflow, repetitions, and questions that a model cannot answer."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from vision_agent import (
    AnswerDone,
    AnswerError,
    CheckpointError,
    DocumentAnswer,
    GenerationOptions,
    InputError,
    TextDelta,
    VisionAgent,
)
from vision_agent.inference.abilities import Abilities
from vision_agent.inference.choice_matching import meant_by
from vision_agent.inference.word_reading import asks_to_read

GREY = Image.new("RGB", (64, 48), "grey")
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture
def tiny(checkpoint: Path) -> VisionAgent:
    return VisionAgent.from_pretrained(checkpoint)


def break_scores(agent: VisionAgent, value: float) -> list[int]:
    """One score of every step becomes `value`; the list counts the steps."""
    steps: list[int] = []
    head = agent.backbone.model.lm_head.forward

    def broken(hidden: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        scores = head(hidden).clone()
        scores[..., 7] = value
        return scores

    agent.backbone.model.lm_head.forward = broken
    return steps


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("how", ["text", "drawn", "choices", "schema", "batch", "stream", "detect", "beams"])
def test_scores_that_are_no_numbers_are_an_error_at_the_first_step(tiny: VisionAgent, value: float, how: str) -> None:
    steps = break_scores(tiny, value)
    with pytest.raises(AnswerError, match=r"NaN or infinite in float32; .*dtype"):
        match how:
            case "text":
                tiny.ask("what?", GREY)
            case "drawn":
                tiny.ask("what?", GREY, options=GenerationOptions(do_sample=True, top_k=5, top_p=0.9, seed=1))
            case "choices":
                tiny.ask("what?", GREY, choices=["yes", "no"])
            case "schema":
                pytest.importorskip("llguidance")
                tiny.ask("what?", GREY, schema={"type": "integer"})
            case "batch":
                tiny.ask(["what?", "who?"], GREY)
            case "stream":
                list(tiny.ask("what?", GREY, stream=True))
            case "detect":
                tiny.detect("dog", GREY)
            case "beams":
                tiny.ask("what?", GREY, options=GenerationOptions(num_beams=2, max_new_tokens=3))
    # A batch reads the beginning that its rows share on its own, before the first step.
    assert len(steps) == (2 if how == "batch" else 1) or how == "beams"


def test_an_overflow_in_half_precision_names_the_remedy(tiny: VisionAgent) -> None:
    tiny.backbone.model.half()
    with torch.no_grad():
        tiny.backbone.model.lm_head.weight.fill_(60000.0)
    with pytest.raises(AnswerError, match=r"float16; its numbers overflow: load it with `dtype=\"bfloat16\"`"):
        tiny.ask("what is it?")


def test_states_that_are_no_numbers_give_no_boxes_but_an_error(agent: VisionAgent) -> None:
    route = agent.routes["det"]
    kept = route.queries.weight.detach().clone()
    try:
        with torch.no_grad():
            route.queries.weight.fill_(math.nan)
        with pytest.raises(AnswerError, match="NaN or infinite"):
            agent.detect("dog", GREY)
    finally:
        with torch.no_grad():
            route.queries.weight.copy_(kept)


def test_features_that_are_no_numbers_give_no_empty_mask_but_an_error(agent: VisionAgent) -> None:
    """Masks of points and boxes ask the language model nothing, whose scores would tell."""
    tower = agent.backbone.model.model.vision_tower
    weight = next(each for each in tower.parameters() if each.ndim == 4)
    kept = weight.detach().clone()
    agent.clear_cache()
    try:
        with torch.no_grad():
            weight.view(-1)[3] = math.inf
        for where in ({"points": [(300, 200)]}, {"boxes": [(50, 50, 300, 300)]}):
            with pytest.raises(AnswerError, match="NaN or infinite"):
                agent.segment(image=PHOTOS / "000000139872.jpg", **where)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
        agent.clear_cache()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("route", "call"),
    [
        ("det", lambda agent, photo: agent.detect("dog", photo)),
        ("det", lambda agent, photo: agent.detect("dog", [photo, photo])),
        ("det", lambda agent, photo: agent.count("dog", photo)),
        ("det", lambda agent, photo: agent.ask("is there a dog?", photo, choices=["yes", "no"])),
        ("det", lambda agent, photo: list(agent.ask("is there a dog?", photo, stream=True))),
        ("det", lambda agent, photo: list(agent.run("find the dog", photo, stream=True))),
        ("seg", lambda agent, photo: agent.segment("dog", photo)),
        ("seg", lambda agent, photo: agent.point("dog", photo)),
        ("gen", lambda agent, photo: agent.generate("a red apple", seed=1)),
    ],
)
def test_numbers_of_a_decoder_that_are_none_are_no_result(
    agent: VisionAgent, route: str, call: Callable[[VisionAgent, Path], object], value: float
) -> None:
    weights = [each for each in agent.routes[route].decoder.parameters() if each.is_floating_point()]
    broken = weights[len(weights) // 2]
    kept = broken.detach().clone()
    agent.clear_cache()
    try:
        with torch.no_grad():
            broken.fill_(value)
        with pytest.raises(AnswerError, match="NaN or infinite in float32"):
            call(agent, PHOTOS / "000000139872.jpg")
    finally:
        with torch.no_grad():
            broken.copy_(kept)
        agent.clear_cache()


def test_each_token_costs_the_host_one_transfer(tiny: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers: list[int] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: transfers.append(1) or tolist(self))
    answer = tiny.ask("what is it?", GREY, max_new_tokens=12)
    assert answer.completion_tokens == len(transfers)


def test_a_phrase_that_goes_round_in_circles_ends_the_answer(tiny: VisionAgent) -> None:
    head = tiny.backbone.model.lm_head.forward
    step = 0

    def turning(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal step
        scores = head(hidden).clone()
        scores[..., 40 + step % 3] += 1000.0
        step += 1
        return scores

    tiny.backbone.model.lm_head.forward = turning
    answer = tiny.ask("what is it?", GREY, max_new_tokens=200)
    assert (answer.finish_reason, answer.confidence) == ("repetition", 0.0)
    assert answer.completion_tokens == 24
    step = 0
    streamed = list(tiny.ask("what is it?", GREY, max_new_tokens=200, stream=True))
    assert isinstance(streamed[-1], AnswerDone) and streamed[-1].answer == answer
    step = 0
    free = tiny.ask("what is it?", GREY, options=GenerationOptions(max_new_tokens=100, max_repeats=None))
    assert (free.finish_reason, free.completion_tokens) == ("length", 100)
    step = 0
    longer = tiny.ask("what is it?", GREY, options=GenerationOptions(max_new_tokens=100, max_repeats=20))
    assert (longer.finish_reason, longer.completion_tokens) == ("repetition", 63)


def test_the_confidence_of_a_choice_is_the_models_own(tiny: VisionAgent) -> None:
    """A random model has no opinion on two words among hundreds: not certainty, as after the grammar's mask."""
    answer = tiny.ask("is there a bus?", GREY, choices=["yes", "no"])
    encoded = tiny.backbone.encode("is there a bus?", GREY)
    with torch.inference_mode():
        read = tiny.backbone.model(input_ids=encoded.input_ids[None], pixel_values=encoded.pixel_values)
        scores_V = read.logits[0, -1]
    size = len(tiny.backbone.tokenizer)
    assert answer.confidence < 50 / size
    assert answer.confidence >= float(scores_V.softmax(-1).min())
    assert tiny.ask("is there a bus?", GREY, choices=["yes"]).confidence == 1.0, "nothing was left open"


# --- the default: evidence first ------------------------------------------------------------------------------------

ASKED = ("dog", "car", "person", "bus", "cat", "chair")


@pytest.mark.parametrize("photo", sorted(PHOTOS.glob("*.jpg"))[:5], ids=lambda path: path.stem)
def test_yes_and_no_are_the_same_with_choices_as_without(agent: VisionAgent, photo: Path) -> None:
    for name in ASKED[:4]:
        question = f"is there a {name} in the picture?"
        plain, chosen = agent.ask(question, photo), agent.ask(question, photo, choices=["Yes", "No"])
        assert plain.text.startswith(chosen.text) and chosen.value == chosen.text.capitalize()
        assert chosen.evidence == plain.evidence and len(chosen.evidence) == 1
        assert chosen.confidence == pytest.approx(plain.confidence, abs=0.05)
        best = max((each.score for each in chosen.evidence[0]), default=0.0)
        assert chosen.confidence <= (max(best, 0.01) if chosen.value == "Yes" else 1 - best) + 1e-6


def test_every_form_of_a_short_answer_rests_on_the_evidence(agent: VisionAgent) -> None:
    pytest.importorskip("llguidance")
    photo = PHOTOS / "000000142472.jpg"

    class There(BaseModel):
        there: bool

    class Number(BaseModel):
        number: int

    seen = agent.ask("is there a bus?", photo)
    assert seen.text.startswith("yes")
    assert agent.ask("is there a bus?", photo, schema=There).value == There(there=True)
    assert agent.ask("is there a bus?", photo, schema={"type": "boolean"}).value is True
    assert agent.ask("is there a bus?", photo, schema={"enum": ["no", "yes"]}).value == "yes"
    assert agent.ask("is there a bus?", photo, choices=["true", "false"]).value == "true"
    assert agent.ask("is there an elephant?", photo, schema=There).value == There(there=False)
    words = agent.ask("how many cars are there?", photo)
    (counted,) = words.evidence
    number = len(counted)
    assert number > 2
    asked = agent.ask("how many cars are there?", photo, schema=Number)
    assert asked.value == Number(number=number) and asked.text == words.text
    assert agent.ask("how many cars are there?", photo, choices=["1", "2", str(number)]).value == str(number)
    events = list(agent.ask("is there a bus?", photo, choices=["yes", "no"], stream=True))
    assert isinstance(events[-1], AnswerDone) and events[-1].answer.value == "yes"
    assert [each.value for each in agent.ask(["is there a bus?"] * 2, photo, choices=["yes", "no"])] == ["yes"] * 2


def test_a_choice_that_rests_on_nothing_seen_says_so(agent: VisionAgent) -> None:
    answer = agent.ask("what is the weather like?", PHOTOS / "000000142472.jpg", choices=["sunny", "rainy"])
    assert answer.evidence or (answer.confidence < 0.3 and "nothing" in answer.warnings[0])


# --- the default: what it cannot do ---------------------------------------------------------------------------------


def test_what_the_default_cannot_do_is_refused_with_what_to_use(agent: VisionAgent) -> None:
    photos = [PHOTOS / "000000142472.jpg", PHOTOS / "000000139872.jpg"]
    several = agent.ask("what differs?", photos)
    assert (several.finish_reason, several.confidence, several.completion_tokens) == ("refused", 0.0, 0)
    assert several.refused == several.text and "several images" in several.text and "from_pretrained" in several.text
    for question, image in (
        ("what differs?", photos[0]),
        ("tell me a joke", None),
        ("what is the capital of france?", None),
        ("write a poem about the sea", photos[0]),
        ("why is the sky blue?", photos[0]),
        ("how do i bake bread?", photos[0]),
    ):
        answer = agent.ask(question, image)
        assert answer.finish_reason == "refused" and answer.refused is not None, (question, answer.text)
        events = list(agent.ask(question, image, stream=True))
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == answer.text
    batch = agent.ask(["is there a bus?", "compare them"], [photos[0], photos])
    assert batch[0].refused is None and batch[1].refused is not None
    result = agent.run("compare them", photos, planner="off")
    assert result.routes or (not result.done and result.refused)

    class Free(BaseModel):
        title: str
        tags: list[str]

    pytest.importorskip("llguidance")
    with pytest.raises(AnswerError, match="schemas of one value"):
        agent.ask("what is it?", photos[0], schema=Free)


def test_what_the_default_can_do_is_not_refused(agent: VisionAgent) -> None:
    photo = PHOTOS / "000000142472.jpg"
    for question in ("describe the picture", "what is happening here?", "what do you see?", "is there a car?"):
        assert agent.ask(question, photo).refused is None, question
    assert agent.caption(photo).refused is None and agent.ask("hello").refused is None


def test_abilities_are_data_of_the_checkpoint(tiny: VisionAgent, checkpoint: Path) -> None:
    assert Abilities.of(tiny.backbone.model, "tiny") == Abilities()
    import json

    path = checkpoint / "generation_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**settings, "answers": {"several_images": False}}))
    limited = VisionAgent.from_pretrained(checkpoint)
    assert limited.ask("compare", [GREY, GREY], max_new_tokens=3).refused is not None
    assert limited.ask("compare", GREY, max_new_tokens=3).refused is None
    path.write_text(json.dumps({**settings, "answers": {"several": False}}))
    with pytest.raises(CheckpointError, match=r"answers.several.*generation_config"):
        VisionAgent.from_pretrained(checkpoint)


def test_writing_is_read_by_the_reader_and_untrusted(agent: VisionAgent) -> None:
    pytest.importorskip("rapidocr")
    from PIL import ImageDraw, ImageFont

    image = Image.new("RGB", (640, 240), "white")
    drawn = ImageDraw.Draw(image)
    drawn.text((40, 30), "MARKET HALL", fill="black", font=ImageFont.load_default(60))
    drawn.text((40, 140), "PLATE KX 4821", fill="black", font=ImageFont.load_default(60))
    said = agent.ask("what does the sign say?", image)
    assert isinstance(said, DocumentAnswer) and said.untrusted and said.found
    assert "MARKET HALL" in said.text.upper()
    number = agent.ask("what number is on the plate?", image)
    assert "4821" in number.text and "MARKET" not in number.text.upper()
    assert number.confidence < said.confidence + 1e-9 or number.evidence
    blank = agent.ask("read the licence plate", GREY)
    assert isinstance(blank, DocumentAnswer) and not blank.found and blank.confidence == 0.0


# --- options --------------------------------------------------------------------------------------------------------


def test_one_stop_text_is_a_stop_text() -> None:
    assert GenerationOptions(stop="abc").stop == ("abc",)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stop": 3}, r"`stop`.*3"),
        ({"stop": ("a", 3)}, r"`stop\.1`.*string.*3"),
        ({"max_new_tokens": 0}, r"`max_new_tokens`.*greater than or equal to 1, but got 0"),
        ({"tempreature": 1.0}, r"`tempreature` must be left out.*temperature"),
        ({"temperature": 0.5}, "do_sample"),
    ],
)
def test_wrong_options_are_this_packages_error(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        GenerationOptions(**settings)  # type: ignore[arg-type]


# --- other words for the same --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "choices", "expected"),
    [
        ("is there a dog?", ["ja", "nein"], "ja"),
        ("is there a dog?", ["いいえ", "はい"], "はい"),
        ("is there a dog?", ["absent", "present"], "present"),
        ("is there a dog?", ["there is no dog", "there is a dog"], "there is a dog"),
        ("is there a train?", ["oui", "non"], "non"),
        ("is there a train?", ["present", "absent"], "absent"),
        ("is there a train?", ["there is a train", "there isn't a train"], "there isn't a train"),
        ("dog or train?", ["train", "dog"], "dog"),
        ("what animal is it?", ["a cow", "a dog", "a sheep"], "a dog"),
        ("which is bigger?", ["frisbee", "dog"], "dog"),
        ("which is smaller?", ["frisbee", "dog"], "frisbee"),
        ("how many frisbees are there?", ["less than 2", "2 or more"], "less than 2"),
        ("how many dogs are there?", ["none", "at least 1"], "at least 1"),
        ("how many frisbees are there?", ["1-2", "3-5"], "1-2"),
        ("where is the frisbee?", ["left", "right"], "right"),
        ("where is the frisbee?", ["at the top", "at the bottom"], "at the bottom"),
    ],
)
def test_choices_in_any_words_follow_the_evidence(
    agent: VisionAgent, question: str, choices: list[str], expected: str
) -> None:
    answer = agent.ask(question, PHOTOS / "000000139872.jpg", choices=choices)
    assert answer.value == expected and answer.confidence > 0.3 and not answer.warnings
    assert agent.ask(question, PHOTOS / "000000139872.jpg", choices=choices[::-1]).value == expected


def test_a_choice_that_nothing_speaks_for_says_so(agent: VisionAgent) -> None:
    answer = agent.ask("what colour is the frisbee?", PHOTOS / "000000139872.jpg", choices=["lourd", "vite"])
    assert answer.confidence < 0.1 and any("none of the choices is likely" in each for each in answer.warnings)


@pytest.mark.parametrize(
    ("words", "choices", "question", "meant"),
    [
        ("yes", ["indoors", "outdoors"], "is it outdoors?", None),
        ("no, i can't see a cat", ["cat", "no cat"], "is there a cat?", "no cat"),
        ("two", ["more than two", "at most 2"], "how many?", "at most 2"),
        ("many", ["under 5", "over 5"], "how many?", "over 5"),
        ("three", ["a few", "one"], "how many?", "a few"),
        ("one", ["several", "a single one"], "how many?", "a single one"),
        ("none", ["0", "1+"], "how many?", "0"),
        ("one", ["at least 1", "1"], "how many?", "1"),
        ("no, i can't see a cat", ["cat", "the cat is missing"], "is there a cat?", "the cat is missing"),
        ("it is red, at the top left", ["left", "top"], "where?", None),
        ("two", ["less than two", "two or more"], "how many?", "two or more"),
        ("in the middle", ["left", "right"], "where?", None),
        ("it is red, at the top left", ["top right", "top left"], "where?", "top left"),
    ],
)
def test_what_the_models_words_mean(words: str, choices: list[str], question: str, meant: str | None) -> None:
    assert meant_by(words, {choice: choice for choice in choices}, question) == meant


@pytest.mark.parametrize(
    "question",
    [
        "what is the text?",
        "give me the words on the wall",
        "type out the words you see",
        "which city is printed?",
        "what message is displayed?",
        "licence plate?",
        "plate number please",
        "quote the sign",
        "what's the slogan?",
        "I need the wording of this poster",
        "how much does it cost?",
        "what is the title of the book?",
    ],
)
def test_writing_is_asked_for_in_many_words(question: str) -> None:
    assert asks_to_read(question)


@pytest.mark.parametrize(
    "question",
    [
        "how many words are there?",
        "what is the number of dogs?",
        "what number of cats are there?",
        "what colour is the text?",
        "tell me in a few words what you see",
        "describe the picture in one word",
        "is the man reading?",
        "does the man read a book?",
        "what do you see?",
        "what colour is the label?",
        "is there a sign?",
        "what would you say it is?",
    ],
)
def test_other_questions_ask_for_no_reading(question: str) -> None:
    assert not asks_to_read(question)


def test_what_is_written_answers_yes_and_no_and_choices(agent: VisionAgent) -> None:
    pytest.importorskip("rapidocr")
    from PIL import ImageDraw, ImageFont

    image = Image.new("RGB", (640, 240), "white")
    ImageDraw.Draw(image).text((40, 70), "OPEN 24 HOURS", fill="black", font=ImageFont.load_default(60))
    assert agent.ask("is there any text?", image).text == "yes" and agent.ask("is there any text?", GREY).text == "no"
    assert agent.ask("does the sign say closed?", image).text == "no"
    assert agent.ask("is the word OPEN written?", image, choices=["nein", "ja"]).value == "ja"
    answer = agent.ask("what does the sign say?", image, choices=["CLOSED", "OPEN"])
    assert agent.ask("what number is on the sign?", image, choices=["7", "24"]).value == "24"
    assert isinstance(answer, DocumentAnswer) and (answer.value, answer.excerpt) == ("OPEN", "OPEN 24 HOURS")
    assert agent.ask("what is the licence plate?", image).confidence <= 0.5  # what was read is hardly one
    with pytest.raises(AnswerError, match=r"'OPEN 24 HOURS'.*none of the choices"):
        agent.ask("what does the sign say?", image, choices=["EXIT", "CLOSED"])


@pytest.mark.parametrize(
    "question",
    [
        "what breed is the dog?",
        "what is behind the dog?",
        "what is the dog holding?",
        "how big is the dog?",
        "what kind of animal is it?",
        "what is unusual here?",
        "is it dangerous?",
        "这是什么?",
        "?",
    ],
)
@pytest.mark.parametrize("verb", ["ask", "run"])
def test_open_questions_are_refused_in_other_words_too(agent: VisionAgent, verb: str, question: str) -> None:
    answer = getattr(agent, verb)(question, PHOTOS / "000000139872.jpg")
    assert answer.refused is not None and answer.text == answer.refused and answer.confidence == 0.0


def test_a_run_refuses_what_ask_refuses_and_draws_what_it_is_told(agent: VisionAgent) -> None:
    assert agent.run("tell me a joke", PHOTOS / "000000139872.jpg").refused is not None
    assert agent.run("draw a song bird").refused is None
    assert agent.run("list all objects", PHOTOS / "000000139872.jpg").refused is None
    forced = agent.run("tell me about the dog", PHOTOS / "000000139872.jpg", first_route="det")
    assert [routed.token for routed in forced.routes] == ["[DET]"]
    with pytest.raises(AnswerError, match="was not taught"):
        agent.ask("how tall is the dog?", PHOTOS / "000000139872.jpg", schema={"type": "number"})
