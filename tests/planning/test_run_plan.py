"""Plans: requests of several steps, read by a grammar of clauses. Needs no model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_agent import Plan, PlannedStep
from vision_agent.planning.clauses import same_object, split_clauses
from vision_agent.planning.coordination import single_requests
from vision_agent.planning.objects import phrases_of
from vision_agent.planning.parser import read_plan


def steps(request: str, images: int = 1) -> list[str]:
    plan = read_plan(request, images)
    assert plan is not None and plan.refused is None, plan
    return [str(step) for step in plan.steps]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("find every red car and read its plate", ["find each red car", "read each plate of step 1"]),
        ("crop the dog and describe it", ["crop best dog", "describe of step 1"]),
        ("count the cups, then outline the largest", ["count each cups", "outline largest of step 1"]),
        ("Please count the apples and crop the smallest one.", ["count each apples", "crop smallest of step 1"]),
        (
            "find all red apples, crop each and describe it",
            ["find each red apples", "crop of step 1", "describe of step 2"],
        ),
        ("find the bus; what colour is it?", ["find best bus", "ask best 'what colour is the bus' of step 1"]),
        (
            "outline the dog and tell me its colour",
            ["outline best dog", "ask 'what is the colour of the dog' of step 1"],
        ),
        ("is there a dog and what is it doing?", ["find best dog", "ask best 'what is the dog doing' of step 1"]),
        ("how many dogs are there and where are they?", ["count each dogs", "find of step 1"]),
        ("draw a red car, then outline it", ["draw 'a red car'", "outline of step 1"]),
        ("zoom in on the sign and read it", ["crop best sign", "read of step 1"]),
        ("what does the sign say, and where is the dog?", ["read best sign", "find best dog"]),
        (
            "find the dogs, outline the largest and the smallest",
            ["find each dogs", "outline largest of step 1", "outline smallest of step 1"],
        ),
        ("find the largest dog and the smallest cat", ["find largest dog", "find smallest cat"]),
        ("show me the dog and read its collar", ["route best dog", "read each collar of step 1"]),
        ("read the sign, then describe the picture", ["read best sign", "describe"]),
        ("crop the leftmost person", ["crop leftmost person"]),
        ("find the two dogs and crop the left one", ["find each dogs", "crop leftmost of step 1"]),
        ("locate the plate, zoom in and read it", ["find best plate", "crop best of step 1", "read of step 2"]),
        ("detect all cups and tell me which one is the largest", ["find each cups", "find largest of step 1"]),
        ("crop the largest dog, then read what its collar says", ["crop largest dog", "read each collar of step 1"]),
        ("read the name on the boat and find the sail", ["read best boat", "find best sail"]),
        ("count the cars and the dogs, then crop it", ["count each cars and the dogs", "crop of step 1"]),
        ("outline the largest cup", ["outline largest cup"]),
        (
            "Where are the cups? Crop the largest of them and read it.",
            ["find each cups", "crop largest of step 1", "read of step 2"],
        ),
        ("is there a cat? if so, outline it", ["find best cat", "outline best of step 1 if step 1 found any"]),
        ("if there is a dog, crop it", ["find best dog", "crop best of step 1 if step 1 found any"]),
        ("find the person on the left", ["find leftmost person"]),
        ("crop the cup at the bottom and read it", ["crop lowest cup", "read of step 1"]),
        ("find the car and paint it blue", ["find best car", "change 'paint it blue'"]),
        ("draw two red apples and count them", ["draw 'two red apples'", "count of step 1"]),
    ],
)
def test_clauses_become_steps(request_: str, expected: list[str]) -> None:
    assert steps(request_) == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("is the left picture brighter?", ["compare by brightness in image 1"]),
        ("is the second picture darker than the first one?", ["compare by brightness in image 2, 1"]),
        ("which picture has more dogs?", ["compare each dogs by count"]),
        ("which image is sharper?", ["compare by sharpness"]),
        (
            "count the dogs in the first picture and read the second picture",
            ["count each dogs in image 1", "read in image 2"],
        ),
        (
            "find the dog in the first picture and the cat in the second picture",
            ["find best dog in image 1", "find best cat in image 2"],
        ),
        ("describe both pictures", ["describe"]),
        ("how many dogs are in each picture?", ["count each dogs"]),
    ],
)
def test_images_are_compared_and_named(request_: str, expected: list[str]) -> None:
    assert steps(request_, 2) == expected


@pytest.mark.parametrize(
    "request_",
    [
        "where is the dog?",
        "find the dog and the cat",
        "outline the cat",
        "what does it say?",
        "draw a red car",
        "draw two apples and a banana on a table",
        "what colour is the bus?",
        "describe the picture",
        "describe the dog",
        "is there a dog or a cat?",
        "make the car blue",
        "count the dogs",
        "how many dogs are there?",
        "a dog and a cat on the grass",
        "find the people on the left",
        "read the text on the sign",
        "what differs?",
        "compare the two pictures",
        "could you please give me a detailed description of the image? Please respond with interleaved segmentation "
        "masks for the corresponding parts of the answer.",
    ],
)
@pytest.mark.parametrize("images", [0, 1, 2])
def test_one_step_is_left_to_the_model(request_: str, images: int) -> None:
    assert read_plan(request_, images) is None


@pytest.mark.parametrize(
    ("request_", "images", "reason"),
    [
        ("is the left picture brighter?", 1, "there is 1"),
        ("which picture is brighter?", 0, "there are none"),
        ("outline the largest", 1, "refers to nothing"),
        ("juggle the balls and then read the sign", 1, "no step for 'juggle the balls'"),
        ("write a poem and then read the sign", 1, "no step for 'write a poem'"),
        ("find every person and outline the tallest", 1, "'the tallest' cannot be told"),
        ("find the dog and show it", 1, "what to do with 'it'"),
        ("is there a dog? if not, draw one", 1, "only what is there can be a condition"),
        ("what does the sign say? if so, crop it", 1, "not looked for before"),
        ("find the bus and the taxi, then compare their sizes", 1, "only whole images can"),
        ("find the dog and read the left side", 1, "a side of the image"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(request_: str, images: int, reason: str) -> None:
    plan = read_plan(request_, images)
    assert plan is not None and plan.steps == () and plan.refused is not None
    assert reason in plan.refused and reason in str(plan)


def test_clauses_are_cut_only_before_clauses() -> None:
    assert split_clauses("find the salt and pepper, and then read the label") == [
        "find the salt and pepper",
        "read the label",
    ]
    assert split_clauses("  ") == []
    assert split_clauses("find it. read it. describe it.") == ["find it", "read it", "describe it"]


def test_objects_are_the_same_in_singular_and_plural() -> None:
    assert (
        same_object("the red cars", "a red car")
        and same_object("buses", "every bus")
        and same_object("people", "person")
    )
    assert not same_object("bus", "car")


def test_a_plan_survives_json() -> None:
    plan = read_plan("count the cups, then outline the largest", 1)
    assert plan is not None
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert str(plan) == "1. count each cups\n2. outline largest of step 1"
    assert isinstance(plan.steps[0], PlannedStep)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("find the dog and the frisbee", ["find the dog", "find the frisbee"]),
        ("Please find the dog, the frisbee and the person.", ["find the dog", "find the frisbee", "find the person"]),
        ("locate all dogs & frisbees", ["locate all dogs", "locate frisbees"]),
        ("show me every dog as well as every person", ["show me every dog", "show me every person"]),
        ("point at the dog and at the ball", ["point at the dog", "point at the ball"]),
        ("segment both the cup and the plate", ["segment the cup", "segment the plate"]),
        ("find the dog or the cat in the photo", ["find the dog in the photo", "find the cat in the photo"]),
        ("where are the dog and the man with the hat?", ["where are the dog", "where are the man with the hat"]),
        ("mark the red ball and the brown dog", ["mark the red ball", "mark the brown dog"]),
    ],
)
def test_several_objects_are_asked_for_one_by_one(request_: str, expected: list[str]) -> None:
    assert single_requests(request_) == expected


@pytest.mark.parametrize(
    "request_",
    [
        "find the black and white dog",
        "find the big, brown dog",
        "find the man between the dog and the car",
        "find the woman with a hat and a bag",
        "is there a dog and a cat?",
        "draw a dog and a cat",
        "what colour are the dog and the cat?",
        "describe the dog and the cat",
        "find the dog but not the cat",
        "find the dog, which is brown",
        "find the dog, and count the cats",
        "find the sandwich",
        "find",
        "and",
        "find , and",
        "",
    ],
)
def test_what_names_one_object_or_asks_for_words_stays_one_request(request_: str) -> None:
    assert single_requests(request_) == [request_]


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_words_break_the_reading_of_several_objects(first: str, second: str) -> None:
    for request in (f"find the {first} and {second}", f"{first}, {second}"):
        parts = single_requests(request)
        assert parts == [request] or (len(parts) > 1 and all(part.strip() for part in parts))


def test_how_many_of_several_objects_is_a_count_of_each() -> None:
    assert steps("how many dogs and cats are there?") == ["count each dogs and cats"]
    assert phrases_of("dogs and cats") == ["dog", "cat"] and phrases_of("black and white dog") == [
        "black and white dog"
    ]
