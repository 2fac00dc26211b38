"""Answers: single, several images, batches, streams, chats, choices, options. On tiny random checkpoints."""

import asyncio
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import BaseModel, field_validator

from vision_agent import (
    Answer,
    AnswerDone,
    AnswerError,
    ArgumentTypeError,
    GenerationOptions,
    InputError,
    TextDelta,
    VisionAgent,
)
from vision_agent.generation.decoding import PromptInputs, generate
from vision_agent.generation.grammar import choice_constraint
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.generation.vocabulary import vocabulary_of
from vision_agent.inference.streaming import TextStream

SHORT = GenerationOptions(max_new_tokens=12)


def noise(seed: int, width: int = 150, height: int = 80) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    return Image.fromarray(pixels.numpy())


@pytest.fixture
def tiny(checkpoint: Path) -> VisionAgent:
    return VisionAgent.from_pretrained(checkpoint)


def reference(agent: VisionAgent, question: str, images: list[Image.Image], tokens: int = 12) -> list[int]:
    """The greedy answer by transformers' own `generate`."""
    encoded = agent.backbone.encode(question, images)
    return agent.backbone.generate_ids(encoded.input_ids, encoded.pixel_values, max_new_tokens=tokens)


def text_of(agent: VisionAgent, ids: list[int]) -> str:
    kept = [token for token in ids if token not in agent.backbone.end_ids]
    return agent.backbone.decode_text(kept, skip_special_tokens=True).strip()


def test_an_answer_is_that_of_generate(tiny: VisionAgent) -> None:
    image = noise(1)
    expected = reference(tiny, "what is it?", [image])
    answer = tiny.ask("what is it?", image, options=SHORT)
    assert answer.text == text_of(tiny, expected)
    assert answer.completion_tokens == len(expected)
    assert answer.finish_reason == ("stop" if expected[-1] in tiny.backbone.end_ids else "length")
    assert 0 < answer.confidence <= 1
    assert answer.prompt_tokens == len(tiny.backbone.encode("what is it?", image).input_ids)


def test_the_probabilities_of_tokens_are_told(tiny: VisionAgent) -> None:
    image = noise(1)
    options = SHORT.model_copy(update={"top_logprobs": 4})
    answer = tiny.ask("what is it?", image, options=options)
    plain = tiny.ask("what is it?", image, options=SHORT)
    assert (plain.tokens, plain.text) == (None, answer.text)
    assert answer.tokens is not None
    # They are those of one forward pass over the prompt and the answer.
    backbone = tiny.backbone
    encoded = backbone.encode("what is it?", [image])
    ids = reference(tiny, "what is it?", [image])
    with torch.inference_mode():
        read = torch.cat([encoded.input_ids.view(-1), torch.tensor(ids)])[None]
        out = backbone.model(input_ids=read, pixel_values=encoded.pixel_values)
        expected = out.logits[0, -len(ids) - 1 : -1].float().log_softmax(-1)
    pieces = vocabulary_of(backbone.tokenizer).pieces
    written = [(index, token) for index, token in enumerate(ids) if pieces[token]]
    assert [bytes(each.bytes) for each in answer.tokens] == [pieces[token] for _, token in written]
    for each, (index, token) in zip(answer.tokens, written, strict=True):
        assert each.logprob == pytest.approx(float(expected[index, token]), abs=1e-3)
        best = expected[index].topk(4)
        assert [other.logprob for other in each.top] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert each.top[0].bytes == each.bytes, "greedy answers take the likeliest"
    # Streams and batches tell the same, each row as many as it asks for.
    *events, done = tiny.ask("what is it?", image, options=options, stream=True)
    assert isinstance(done, AnswerDone) and done.answer.tokens is not None
    assert [each.bytes for each in done.answer.tokens] == [each.bytes for each in answer.tokens]
    told = [token for event in events if isinstance(event, TextDelta) for token in event.tokens or ()]
    assert tuple(told) == done.answer.tokens[: len(told)] and len(answer.tokens) - len(told) <= 1
    several = tiny.ask(["what is it?", "hello"], [image, image], options=options)
    assert several[0].tokens is not None and len(several[0].tokens) == len(answer.tokens)
    beams = tiny.ask("what is it?", image, options=options.model_copy(update={"num_beams": 2}))
    assert beams.tokens is not None and all(len(each.top) == 4 for each in beams.tokens)
    none = tiny.ask("hello", options=SHORT.model_copy(update={"top_logprobs": 0})).tokens
    assert none and all(each.top == () for each in none)


def test_tokens_after_a_stop_text_are_not_told(tiny: VisionAgent) -> None:
    drawn = GenerationOptions(max_new_tokens=12, do_sample=True, seed=1, temperature=3.0, top_logprobs=0)
    written = tiny.ask("hello", options=drawn).tokens
    assert written is not None
    text = "".join(each.text for each in written)
    starts = [len("".join(each.text for each in written[:place])) for place in range(len(written))]
    # Two whole tokens are the stop text, and neither of them is told.
    stop = next(
        pair
        for first, second in pairwise(written)
        if text.find(pair := first.text + second.text) in starts[2:] and "\ufffd" not in pair
    )
    answer = tiny.ask("hello", options=drawn.model_copy(update={"stop": (stop,)}))
    assert answer.tokens is not None and len(answer.tokens) == starts.index(text.find(stop))
    assert "".join(each.text for each in answer.tokens).strip() == answer.text


def test_words_alone_need_no_image(tiny: VisionAgent) -> None:
    assert tiny.ask("hello", options=SHORT).text == text_of(tiny, reference(tiny, "hello", []))


def test_the_second_question_reads_the_image_from_memory_and_answers_the_same(tiny: VisionAgent) -> None:
    image = noise(2)
    first = tiny.ask("what is it?", image, options=SHORT)
    second = tiny.ask("is there a bus?", image, options=SHORT)
    tiny.clear_cache()
    assert tiny.ask("is there a bus?", image, options=SHORT) == second
    assert tiny.ask("what is it?", image, options=SHORT) == first
    engine = tiny._engine
    prompt = tiny.backbone.encode("where is the dog?", image)
    seen = engine.encode_image(image)

    reading = PromptInputs(tuple(prompt.input_ids.tolist()), seen.encoded.tokens_TC, tuple(seen.token_marks))
    written = generate(tiny.backbone, [reading], SHORT, prefixes=engine.prefixes)
    assert written.reused_tokens >= len(seen.encoded.tokens_TC)
    assert written.answers[0] == reference(tiny, "where is the dog?", [image])


def test_another_image_is_never_taken_from_memory(tiny: VisionAgent) -> None:
    one, other = noise(3), noise(4)
    tiny.ask("what is it?", one, options=SHORT)
    assert tiny.ask("what is it?", other, options=SHORT).text == text_of(tiny, reference(tiny, "what is it?", [other]))


def test_several_images_are_numbered_or_combined(tiny: VisionAgent) -> None:
    images = [noise(5), noise(6, 60, 60)]
    encoded = tiny.backbone.encode("compare", images)
    assert "Image-1: <img>" in encoded.prompt and "Image-2: <img>" in encoded.prompt
    assert tiny.ask("compare", images, options=SHORT).text == text_of(tiny, reference(tiny, "compare", images))
    combined = tiny.backbone.encode("compare", images, combine=True)
    assert combined.prompt.count("<img>") == 1
    assert sum(combined.num_tiles) * tiny.backbone.tokens_per_tile == combined.prompt.count("<IMG_CONTEXT>")
    ids = tiny.backbone.generate_ids(combined.input_ids, combined.pixel_values, max_new_tokens=12)
    assert tiny.ask("compare", images, combine=True, options=SHORT).text == text_of(tiny, ids)


def test_placeholders_say_where_images_go(tiny: VisionAgent) -> None:
    prompt = tiny.backbone.encode("first <image> then <image> end", [noise(1, 50, 50), noise(2, 50, 50)]).prompt
    assert prompt.index("first <img>") < prompt.index("then <img>") < prompt.index(" end")
    with pytest.raises(InputError, match=r"2 images.* 1 <image>"):
        tiny.ask("one <image> only", [noise(1), noise(2)])
    with pytest.raises(InputError, match=r"1 images.* 2 <image>"):
        tiny.ask("<image> and <image>", noise(1))


def test_a_batch_of_mixed_requests_equals_single_calls(tiny: VisionAgent) -> None:
    questions = ["what is it?", "is there a bus on the grass?", "hello", "compare them"]
    images = [noise(1), noise(2, 60, 60), None, [noise(3, 50, 50), noise(4)]]
    together = tiny.ask(questions, images, options=SHORT)
    tiny.clear_cache()
    alone = [tiny.ask(q, p, options=SHORT) for q, p in zip(questions, images, strict=True)]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.prompt_tokens for answer in together] == [answer.prompt_tokens for answer in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-3)


def test_many_questions_on_one_image_read_it_once(tiny: VisionAgent) -> None:
    questions = ["what is it?", "is there a bus?", "where is the red car?"]
    together = tiny.ask(questions, noise(7), options=SHORT)
    tiny.clear_cache()
    assert [a.text for a in together] == [tiny.ask(q, noise(7), options=SHORT).text for q in questions]


def test_a_stream_yields_the_answer_piece_by_piece(tiny: VisionAgent) -> None:
    whole = tiny.ask("what is it?", noise(1), options=SHORT)
    events = list(tiny.ask("what is it?", noise(1), options=SHORT, stream=True))
    assert isinstance(events[-1], AnswerDone) and events[-1].answer.text == whole.text
    deltas = [event.text for event in events if isinstance(event, TextDelta)]
    assert len(deltas) > 1 and all(deltas)
    assert "".join(deltas) == whole.text


def test_a_closed_stream_stops_the_model_and_frees_it(tiny: VisionAgent) -> None:
    steps = 0
    original = tiny.backbone.model.model.language_model.forward

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal steps
        steps += 1
        return original(*args, **kwargs)

    tiny.backbone.model.model.language_model.forward = counted
    stream = tiny.ask("what is it?", noise(1), max_new_tokens=500, stream=True)
    next(stream)
    stream.close()
    before = steps
    done = threading.Event()
    threading.Thread(target=lambda: (tiny.ask("hello", max_new_tokens=1), done.set())).start()
    assert done.wait(30)
    assert steps == before + 1


def test_an_error_while_streaming_reaches_the_consumer(tiny: VisionAgent) -> None:
    stream = tiny.ask("what is it?", noise(1), options=SHORT, stream=True)
    next(stream)
    tiny.backbone.model.lm_head = None
    with pytest.raises(TypeError):
        list(stream)


def test_wrong_arguments_of_a_stream_raise_before_it_starts(tiny: VisionAgent) -> None:
    with pytest.raises(InputError, match="question"):
        tiny.ask(" ", noise(1), stream=True)


def test_sampling_follows_its_seed(tiny: VisionAgent) -> None:
    def drawn(seed: int) -> str:
        options = GenerationOptions(do_sample=True, temperature=1.5, top_k=50, top_p=0.95, seed=seed, max_new_tokens=12)
        return tiny.ask("what is it?", noise(1), options=options).text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(6)}) > 1


def test_beams_find_an_answer_at_least_as_probable(tiny: VisionAgent) -> None:
    greedy = tiny.ask("what is it?", noise(1), options=GenerationOptions(max_new_tokens=4))
    beams = tiny.ask("what is it?", noise(1), options=GenerationOptions(max_new_tokens=4, num_beams=4))
    total = {name: answer.confidence**answer.completion_tokens for name, answer in (("g", greedy), ("b", beams))}
    assert total["b"] >= total["g"] - 1e-6


def test_the_repetition_penalty_is_that_of_transformers(tiny: VisionAgent) -> None:
    from transformers import GenerationConfig

    prompt = tiny.backbone.encode("what is it?")
    ids = prompt.input_ids[None]
    settings = GenerationConfig(max_new_tokens=12, repetition_penalty=1.8, eos_token_id=tiny.backbone.end_ids)
    expected = tiny.backbone.model.generate(inputs_embeds=tiny.backbone.embed(ids), generation_config=settings)[0]
    answer = tiny.ask("what is it?", options=GenerationOptions(max_new_tokens=12, repetition_penalty=1.8))
    assert answer.text == text_of(tiny, expected.tolist())


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(tiny: VisionAgent) -> None:
    whole = tiny.ask("what is it?", noise(1), options=SHORT)
    stop = whole.text.split()[-1]
    answer = tiny.ask("what is it?", noise(1), options=GenerationOptions(max_new_tokens=12, stop=(stop,)))
    assert answer.text == whole.text[: whole.text.index(stop)].strip()
    assert answer.finish_reason == "stop"
    events = tiny.ask("what is it?", noise(1), options=GenerationOptions(max_new_tokens=12, stop=(stop,)), stream=True)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == answer.text


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.5},
        {"num_beams": 2, "do_sample": True},
        {"stop": ("",)},
        {"max_new_tokens": 0},
        {"top_p": 0.0, "do_sample": True},
        {"tempreature": 1.0},
    ],
)
def test_options_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        GenerationOptions(**settings)


def test_a_prompt_that_does_not_fit_is_refused_before_the_image_is_encoded(tiny: VisionAgent) -> None:
    tiny.backbone.model.config.text_config.max_position_embeddings = 40
    tiny.backbone.encode_image = None  # type: ignore[method-assign,assignment]
    with pytest.raises(InputError, match=r"max_new_tokens.*=30.*takes 40 in all"):
        tiny.ask("what is it?", noise(1), max_new_tokens=30)


def test_choices_are_kept_to(tiny: VisionAgent) -> None:
    answer = tiny.ask("is there a bus?", noise(1), choices=["yes", "no", "yes please"])
    assert answer.value == answer.text and answer.text in ("yes", "no", "yes please")
    assert answer.finish_reason == "stop"
    together = tiny.ask(["is there a bus?", "is there a dog?"], noise(1), choices=["yes", "no"])
    assert all(answer.value in ("yes", "no") for answer in together)
    with pytest.raises(InputError, match="exclude"):
        tiny.ask("what?", noise(1), choices=["a"], schema={"type": "string"})
    with pytest.raises(InputError, match="num_beams"):
        tiny.ask("what?", noise(1), choices=["a", "b"], options=GenerationOptions(num_beams=2))


class Item(BaseModel):
    name: str
    count: int
    red: bool


def test_a_schema_gives_an_instance(tiny: VisionAgent) -> None:
    pytest.importorskip("llguidance")
    answer = tiny.ask("what is it?", noise(1), schema=Item, max_new_tokens=120)
    assert isinstance(answer.value, Item)
    assert Item.model_validate_json(answer.text) == answer.value
    again = Answer.model_validate_json(answer.model_dump_json())
    assert again.value == answer.value.model_dump()
    with pytest.raises((InputError, AnswerError)):
        tiny.ask("what is it?", noise(1), schema=Item, max_new_tokens=3)


def test_a_chat_remembers_images_and_rounds(tiny: VisionAgent) -> None:
    chat = tiny.chat(options=SHORT)
    one, other = noise(1), noise(2)
    first = chat.ask("what is it?", one)
    second = chat.ask("and this?", other)
    third = chat.ask("compare them")
    encoded = tiny.backbone.encode("what is it?", one)
    assert first.text == text_of(tiny, tiny.backbone.generate_ids(encoded.input_ids, encoded.pixel_values, 12))
    history = [("<image>\nwhat is it?", first.text)]
    encoded = tiny.backbone.encode("Image-2: <image>\nand this?", [one, other], history=history)
    assert second.text == text_of(tiny, tiny.backbone.generate_ids(encoded.input_ids, encoded.pixel_values, 12))
    history.append(("Image-2: <image>\nand this?", second.text))
    encoded = tiny.backbone.encode("compare them", [one, other], history=history)
    assert third.text == text_of(tiny, tiny.backbone.generate_ids(encoded.input_ids, encoded.pixel_values, 12))
    assert [question for question, _ in chat.history] == [history[0][0], history[1][0], "compare them"]


def test_a_chat_needs_no_image_and_streams(tiny: VisionAgent) -> None:
    chat = tiny.chat(options=SHORT)
    events = list(chat.ask("hello", stream=True))
    assert isinstance(events[-1], AnswerDone)
    assert chat.history == [("hello", events[-1].answer.text)]
    stream = chat.ask("go on", stream=True)
    next(stream)
    stream.close()
    assert len(chat.history) == 1


def test_async_twins_give_the_same(tiny: VisionAgent) -> None:
    image = noise(1)

    async def main() -> None:
        answer, other = await asyncio.gather(
            tiny.aio.ask("what is it?", image, options=SHORT), tiny.aio.ask("hello", options=SHORT)
        )
        assert answer.text == tiny.ask("what is it?", image, options=SHORT).text
        assert other.text == tiny.ask("hello", options=SHORT).text
        events = [event async for event in await tiny.aio.ask("hello", options=SHORT, stream=True)]
        assert events[-1].answer.text == other.text
        chat = tiny.aio.chat(options=SHORT)
        assert (await chat.ask("hello")).text == other.text
        assert len(chat.history) == 1
        with pytest.raises(InputError):
            await tiny.aio.ask("")

    asyncio.run(main())


def test_captions_have_lengths(tiny: VisionAgent) -> None:
    assert tiny.caption(noise(1), options=SHORT).text
    with pytest.raises(InputError, match="length"):
        tiny.caption(noise(1), length="tiny")  # type: ignore[arg-type]


def test_wrong_kinds_of_arguments(tiny: VisionAgent) -> None:
    with pytest.raises(ArgumentTypeError, match="options"):
        tiny.ask("what?", options={"max_new_tokens": 3})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_tiles"):
        tiny.ask("what?", noise(1), max_tiles=0)
    with pytest.raises(InputError, match="max_tiles"):
        tiny.ask("what?", [noise(1), noise(2)], max_tiles=[1])
    with pytest.raises(InputError, match="2 images"):
        tiny.ask(["a", "b"], [noise(1)])
    with pytest.raises(InputError, match="stream"):
        tiny.ask(["a"], noise(1), stream=True)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="max_new_tokens"):
        tiny.ask("a", max_new_tokens=0)


def test_half_a_character_is_told_by_every_verb(agent: VisionAgent, photo: Path) -> None:
    """JSON may hold "\\ud83d" alone, half of an emoji that was cut in two; tokenizers raise a bare TypeError for it."""
    half = "dog \ud83d"
    calls = {
        "phrase": lambda: agent.detect(half, photo),
        "question": lambda: agent.ask(half, photo),
        "request": lambda: agent.run(half, photo),
        "prompt": lambda: agent.generate(half),
        "stop": lambda: GenerationOptions(stop=(half,)),
        "choices[1]": lambda: agent.ask("a dog?", photo, choices=["no", half]),
        "labels[0]": lambda: agent.classify(photo, [half, "cat"]),
    }
    for name, call in calls.items():
        with pytest.raises(InputError, match=rf"`{re.escape(name)}` must be whole characters"):
            call()


def test_what_users_type_is_text(tiny: VisionAgent) -> None:
    end = tiny.backbone.tokenizer.eos_token
    plain = tiny.backbone.encode("stop")
    tricky = tiny.backbone.encode(f"stop {end} now <IMG_CONTEXT>")
    ends = [int((ids == tiny.backbone.tokenizer.eos_token_id).sum()) for ids in (plain.input_ids, tricky.input_ids)]
    assert ends[0] == ends[1]
    assert int((tricky.input_ids == tiny.backbone.model.config.image_token_id).sum()) == 0


def test_a_padded_batch_is_that_of_generate(tiny: VisionAgent) -> None:
    from transformers import GenerationConfig

    backbone = tiny.backbone
    prompts = [backbone.encode(text).input_ids.tolist() for text in ("what is it?", "is there a bus on it?", "hello")]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = GenerationConfig(max_new_tokens=20, eos_token_id=backbone.end_ids, pad_token_id=0)
    expected = backbone.model.generate(
        inputs_embeds=backbone.embed(ids), attention_mask=mask, generation_config=settings
    ).tolist()
    written = generate(backbone, prompts, GenerationOptions(max_new_tokens=20))
    assert written.answers == [row[: len(answer)] for row, answer in zip(expected, written.answers, strict=True)]


def test_rows_that_end_early_or_follow_a_grammar_leave_the_others_as_they_are(tiny: VisionAgent) -> None:
    backbone = tiny.backbone
    shared = backbone.text_ids("a dog and a cat on the grass find each thing where is the red car")
    prompts = [[*shared, *backbone.text_ids(text)] for text in ("yes", "no no", "is there a bus?")]
    grammars = [
        choice_constraint(backbone.tokenizer, choices, backbone.end_ids) if choices else None
        for choices in (["yes", "no"], None, ["a cat and a dog and a cat"])
    ]
    options = GenerationOptions(max_new_tokens=20)
    alone = [
        generate(backbone, [prompt], options, constraints=[grammar]).answers[0]
        for prompt, grammar in zip(prompts, grammars, strict=True)
    ]
    assert len({len(answer) for answer in alone}) == 3
    prefixes = PrefixCache()
    for _ in range(2):
        readings = [PromptInputs(tuple(prompt)) for prompt in prompts]
        written = generate(backbone, readings, options, constraints=grammars, prefixes=prefixes)
        assert written.answers == alone
        assert written.reused_tokens >= len(shared)


def test_a_row_that_begins_like_a_remembered_one_still_has_a_token_to_feed(tiny: VisionAgent) -> None:
    long = tiny.backbone.text_ids("a dog and a cat on the grass find each thing where is the red car")
    prefixes = PrefixCache()
    generate(tiny.backbone, [PromptInputs(tuple(long))], SHORT, prefixes=prefixes)
    readings = [PromptInputs(tuple(long)), PromptInputs(tuple(long[:-1]))]
    alone = [generate(tiny.backbone, [reading.ids], SHORT).answers[0] for reading in readings]
    assert generate(tiny.backbone, readings, SHORT, prefixes=prefixes).answers == alone


def test_an_answer_costs_one_forward_pass_a_token(tiny: VisionAgent) -> None:
    passes = 0
    language_model = tiny.backbone.model.model.language_model
    original = language_model.forward

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal passes
        passes += 1
        return original(*args, **kwargs)

    language_model.forward = counted
    for question in ("what is it?", "is there a bus?"):
        passes = 0
        assert tiny.ask(question, noise(1), options=SHORT).completion_tokens == passes


def test_a_batch_draws_what_single_calls_draw(tiny: VisionAgent) -> None:
    options = GenerationOptions(do_sample=True, temperature=1.5, top_k=50, seed=3, max_new_tokens=12)
    questions = ["what is it?", "is there a bus on the grass?", "hello"]
    together = tiny.ask(questions, noise(1), options=options)
    assert [a.text for a in together] == [tiny.ask(q, noise(1), options=options).text for q in questions]


def test_beams_stop_at_a_stop_text_without_counting_padding(agent: VisionAgent, photo: Path) -> None:
    options = GenerationOptions(max_new_tokens=12, num_beams=3, stop=("yes", "no"))
    questions = ["is there a dog?", "describe the picture"]
    together = agent.ask(questions, photo, options=options)
    alone = [agent.ask(question, photo, options=options) for question in questions]
    assert [answer.completion_tokens for answer in together] == [answer.completion_tokens for answer in alone]
    assert (together[0].text, together[0].finish_reason) == ("", "stop")
    assert together[0].completion_tokens < together[1].completion_tokens


def test_choices_are_written_as_the_model_writes_and_given_as_the_caller_wrote(tiny: VisionAgent) -> None:
    lower = tiny.ask("is there a bus?", noise(1), choices=["yes", "no"])
    upper = tiny.ask("is there a bus?", noise(1), choices=["YES", " No "])
    assert upper.value in ("YES", " No ") and upper.value.strip().lower() == lower.value
    assert upper.confidence == pytest.approx(lower.confidence)
    # Choices that the tokenizer alone would not tell apart are still told apart.
    assert tiny.ask("is there a bus?", noise(1), choices=["Yes", "yes"]).value in ("Yes", "yes")
    assert tiny.ask("is there a bus?", noise(1), choices=["only"]).value == "only"
    with pytest.raises(InputError, match="different"):
        tiny.ask("is there a bus?", noise(1), choices=["yes", "yes"])


def test_a_choice_is_whole_or_an_error(tiny: VisionAgent) -> None:
    tokens = tiny.ask("is there a bus?", noise(1), choices=["yes"]).completion_tokens
    assert tiny.ask("is there a bus?", noise(1), choices=["yes"], max_new_tokens=tokens - 1).value == "yes"
    with pytest.raises(AnswerError, match="max_new_tokens") as error:
        tiny.ask("is there a bus?", noise(1), choices=["yes", "yes please, it is there"], max_new_tokens=tokens - 1)
    assert "yes please".startswith(error.value.text)
    with pytest.raises(AnswerError, match="none of the choices"):
        tiny.ask("is there a bus?", noise(1), choices=["yes"], options=GenerationOptions(stop=("s",)))


class Never(BaseModel):
    red: bool

    @field_validator("red")
    @classmethod
    def _refused(cls, value: bool) -> bool:
        raise ValueError("always wrong")


def test_a_rule_that_no_grammar_knows_gives_an_error_with_the_text(tiny: VisionAgent) -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(AnswerError, match=r"`red`.*always wrong") as error:
        tiny.ask("what is it?", noise(1), schema=Never)
    assert error.value.text in ('{"red": true}', '{"red": false}')
    with pytest.raises(AnswerError):
        list(tiny.ask("what is it?", noise(1), schema=Never, stream=True))


def test_a_stream_decodes_a_few_tokens_at_a_time(tiny: VisionAgent) -> None:
    engine = tiny._engine
    sizes = []
    decode_text = engine.decode_text
    engine.decode_text = lambda ids: sizes.append(len(ids)) or decode_text(ids)  # type: ignore[method-assign]
    ids = tiny.backbone.text_ids("a dog and a cat on the grass. " * 30)
    stream = TextStream(engine, ("never said",))
    pieces = [stream.push(ids[:size]) for size in range(1, len(ids) + 1)]
    assert max(sizes) <= 4 < len(ids)
    whole = engine.visible_text(ids, ())
    assert "".join(pieces) + stream.finish(whole) == whole


def test_swapped_lists_say_so(tiny: VisionAgent) -> None:
    with pytest.raises(ArgumentTypeError, match="swapped"):
        tiny.ask([noise(1), noise(2)], "what differs?")  # type: ignore[call-overload]
    with pytest.raises(ArgumentTypeError, match="swapped"):
        tiny.detect(noise(1), ["dog", "cat"])  # type: ignore[call-overload]
    with pytest.raises(ArgumentTypeError, match="swapped"):
        tiny.count(noise(1), "dog")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="swapped"):
        tiny.chat().ask(noise(1), "what is it?")  # type: ignore[call-overload]
    with pytest.raises(ArgumentTypeError, match="routes"):
        tiny.run("where?", noise(1), routes="det")
    with pytest.raises(InputError, match=r"threshold.*True"):
        tiny.detect("dog", noise(1), threshold=True)
    with pytest.raises(InputError, match="max_tiles"):
        tiny.backbone.encode("what?", noise(1), max_tiles=0)


def test_a_placeholder_that_the_model_or_an_earlier_round_wrote_is_text(tiny: VisionAgent) -> None:
    chat = tiny.chat(options=SHORT)
    chat.ask("what does the tag <image> mean?")
    chat.history[0] = (chat.history[0][0], "an <image> is a picture")
    chat.ask("and in this one?", noise(1))
    chat.ask("compare with <image> now", noise(2))
    assert chat._last.turns[-1][0] == "Image-2: <image>\ncompare with <image> now"
    chat.ask("and <image>?")
    prompt = tiny.backbone.prompt(chat._last.turns, [1, 1], chat._last.places).text
    assert prompt.count("<img>") == 2 and prompt.count("<image>") == 4
    assert "compare with <image> now" in prompt and "and <image>?" in prompt
    chat.ask("this <image> one", noise(3), placed=True)
    assert "this <img>" in tiny.backbone.prompt(chat._last.turns, [1, 1, 1], chat._last.places).text
    assert len(chat.history) == 5
    for images in (None, [noise(1), noise(2)]):
        with pytest.raises(InputError, match="`question` must be text with one <image> for each"):
            chat.ask("and <image>?", images, placed=True)


def test_a_stream_cannot_end_a_round_after_a_later_one(tiny: VisionAgent) -> None:
    chat = tiny.chat(options=SHORT)
    stream = chat.ask("hello", stream=True)
    next(stream)
    chat.ask("again")
    with pytest.raises(InputError, match="went on"):
        list(stream)
    assert [question for question, _ in chat.history] == ["again"]


def test_settings_of_a_round_that_would_be_ignored_are_refused(tiny: VisionAgent) -> None:
    chat = tiny.chat(options=SHORT)
    with pytest.raises(InputError, match="max_tiles"):
        chat.ask("what happens?", video=[noise(1), noise(2)], max_tiles=2)
    with pytest.raises(InputError, match="bounds"):
        chat.ask("what happens?", noise(1), bounds=(0, 1))
    with pytest.raises(InputError, match="combine"):
        tiny.ask("a <image>, then <image>?", [noise(1), noise(2)], combine=True)


def test_chats_on_one_image_do_not_mix(tiny: VisionAgent) -> None:
    def histories(order: tuple[int, ...]) -> list[list[tuple[str, str]]]:
        tiny.clear_cache()
        chats = [tiny.chat(options=SHORT), tiny.chat(options=SHORT)]
        rounds = [iter([("what is it?", noise(1)), ("and a dog?", None)]), iter([("a bus?", noise(1)), ("why?", None)])]
        for number in order:
            chats[number].ask(*next(rounds[number]))
        return [chat.history for chat in chats]

    assert histories((0, 1, 0, 1)) == histories((0, 0, 1, 1))


def test_threads_share_an_agent_and_abandoned_streams_block_nobody(tiny: VisionAgent) -> None:
    abandoned = []

    def job(number: int) -> object:
        image = noise(number % 3)
        match number % 5:
            case 0:
                return tiny.ask("what is it?", image, options=SHORT).text
            case 1:
                events = tiny.ask("is there a bus?", image, options=SHORT, stream=True)
                return "".join(event.text for event in events if isinstance(event, TextDelta))
            case 2:
                return tiny.point("dog", image).xy.tolist()
            case 3:
                chat = tiny.chat(options=SHORT)
                return [chat.ask("what?", image).text, chat.ask("and?").text]
        abandoned.append(tiny.ask("tell me more", image, max_new_tokens=200, stream=True))
        return next(abandoned[-1])

    expected = [job(number) for number in range(15)]
    tiny.clear_cache()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(job, [*range(15)] * 2)) == expected * 2


def test_cancelling_stops_the_model(tiny: VisionAgent) -> None:
    forward = tiny.backbone.model.model.language_model.forward
    passes = 0

    def slow(*args: object, **kwargs: object) -> object:
        nonlocal passes
        passes += 1
        time.sleep(0.01)
        return forward(*args, **kwargs)

    tiny.backbone.model.model.language_model.forward = slow

    async def consumed() -> None:
        async for _ in await tiny.aio.ask("what is it?", max_new_tokens=5000, stream=True):
            pass

    async def main() -> None:
        chat = tiny.aio.chat(options=GenerationOptions(max_new_tokens=5000))
        for work in (tiny.aio.ask("what is it?", max_new_tokens=5000), consumed(), chat.ask("what is it?")):
            started = passes
            task = asyncio.ensure_future(work)
            while passes < started + 3:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Freed at once, and usable.
            assert (await tiny.aio.ask("hello", max_new_tokens=2)).completion_tokens <= 2
        assert chat.history == []
        stopped = passes
        await asyncio.sleep(0.1)
        assert passes == stopped < 500

    asyncio.run(main())


def test_a_stop_text_cuts_routed_answers_too(agent: VisionAgent, photo: Path) -> None:
    whole = agent.run("describe the picture", photo, routes=(), max_new_tokens=12).text
    stop = whole.split()[2]
    options = GenerationOptions(max_new_tokens=12, stop=(stop,))
    assert agent.run("describe the picture", photo, routes=(), options=options).text == whole.split(stop)[0].strip()


def test_a_new_adapter_clears_what_was_remembered(agent: VisionAgent, photo: Path) -> None:
    from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT

    before = agent.run("where is the dog?", photo)
    assert agent._engine.prefixes.nbytes > 0
    assert agent.load_adapter(DEFAULT_CHECKPOINT / "adapters" / "det") == "det"
    assert agent._engine.prefixes.nbytes == 0
    again = agent.run("where is the dog?", photo)
    assert (again.text, len(again.routes)) == (before.text, len(before.routes))
