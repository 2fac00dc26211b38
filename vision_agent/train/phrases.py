"""What is said in training: wordings of requests and answers, kinds of things, plurals.

Wordings in lists whose names begin with `HELD_OUT` are never trained; they measure whether free routing understands or
only remembers.
"""

import numpy as np

WHERE = (
    "where is the {}?",
    "where is {}?",
    "find the {}",
    "find {} in the picture",
    "detect {}",
    "detect the {}",
    "locate the {}",
    "show me the {}",
    "can you find the {}?",
    "mark every {}",
    "where can i see a {}?",
    "find all {} in this image",
    "draw a box around the {}",
    "point out the {}",
    "give me the boxes of {}",
    "spot the {}",
    "i am looking for the {}",
    "where are the {}?",
)
HELD_OUT_WHERE = (
    "please locate every {} here",
    "could you box the {} for me?",
    "which part of the photo has the {}?",
    "let me see where the {} is",
    "search for the {}",
    "i want the position of the {}",
)
# Requests for places are also made of parts, so that what is learned is to copy the phrase, whatever stands around it.
_LEADS = (
    "",
    "",
    "",
    "please ",
    "can you ",
    "now ",
    "i would like you to ",
    "try to ",
    "hey, ",
    "next, ",
    "you should ",
)
_VERBS = (
    "find",
    "detect",
    "locate",
    "show",
    "show me",
    "mark",
    "point out",
    "spot",
    "highlight",
    "outline",
    "identify",
    "look for",
    "pick out",
    "point to",
    "get me",
    "draw a box around",
    "put a box on",
    "draw boxes around",
    "give me the boxes of",
    "return boxes for",
    "tell me where to find",
)
_ASKS = (
    "where is",
    "where are",
    "where do you see",
    "where can i find",
    "whereabouts is",
    "i am looking for",
    "i need",
)
_ARTICLES = ("", "", "the ", "the ", "a ", "all ", "all the ", "every ", "each ", "any ", "that ", "this ", "some ")
_TAILS = (
    "",
    "",
    "",
    " in the picture",
    " in this image",
    " in the photo",
    " here",
    " for me",
    " please",
    " in it",
    " now",
)
_ENDS = ("", "", ".", "?", "!")
PRESENCE = (
    "is there a {}?",
    "is there a {} in the picture?",
    "do you see a {}?",
    "can you see any {}?",
    "any {} here?",
    "does the picture show a {}?",
    "are there any {}?",
    "is a {} visible?",
    "can a {} be seen here?",
    "does it have a {}?",
)
COUNT = (
    "how many {} are there?",
    "how many {} do you see?",
    "count the {}",
    "what is the number of {}?",
    "how many {} can you count?",
    "how many {} are in the picture?",
    "the number of {}, please",
)
COLOUR = (
    "what colour is the {}?",
    "what color is the {}?",
    "which colour does the {} have?",
    "tell me the colour of the {}",
    "name the colour of the {}",
    "the {} is of which colour?",
    "what colour does the {} have?",
)
OF_COLOUR = ("is the {1} {0}?", "is the colour of the {1} {0}?", "is that a {0} {1}?", "would you call the {1} {0}?")
CAPTION = (
    "describe the picture",
    "what is in the picture?",
    "what do you see?",
    "describe this image",
    "caption this",
    "what is happening here?",
    "what does the picture show?",
    "tell me about this image",
    "write a caption",
    "summarise the picture",
    "what can be seen?",
    "explain the picture",
)
HELD_OUT_TEXT = (
    "please tell me what this photo shows",
    "give a short description",
    "what is going on?",
    "would you say there is a {} in it?",
    "what is the colour of that {}?",
    "tell me how many {} there are",
)
COUNT_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# Kinds: what all of their members may be called.
KINDS = {
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "animal": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "fruit": ("banana", "apple", "orange"),
    "food": ("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    "furniture": ("chair", "couch", "bed", "dining table"),
    "electronics": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
}
SYNONYMS = {
    "person": ("human", "somebody"),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "aeroplane", "aircraft"),
    "bicycle": ("bike",),
    "couch": ("sofa",),
    "tv": ("television", "screen"),
    "cell phone": ("phone", "mobile phone", "smartphone"),
    "dining table": ("table",),
    "potted plant": ("plant",),
    "donut": ("doughnut",),
    "car": ("automobile",),
    "boat": ("ship",),
    "handbag": ("purse", "bag"),
    "sports ball": ("ball",),
    "wine glass": ("glass",),
    "remote": ("remote control",),
    "refrigerator": ("fridge",),
    "teddy bear": ("stuffed animal",),
    "truck": ("lorry",),
}
_IRREGULAR = {
    "person": "people",
    "sheep": "sheep",
    "mouse": "mice",
    "knife": "knives",
    "scissors": "scissors",
    "skis": "skis",
    "broccoli": "broccoli",
    "bus": "buses",
    "toothbrush": "toothbrushes",
    "wine glass": "wine glasses",
    "sandwich": "sandwiches",
    "bench": "benches",
    "couch": "couches",
    "fruit": "fruit",
    "food": "food",
    "furniture": "furniture",
    "electronics": "electronics",
}


def where_request(phrase: str, rng: np.random.Generator) -> str:
    """A request for the places of `phrase`: one of the listed wordings, or one made of parts; never a held-out one."""

    def one(options: tuple[str, ...]) -> str:
        return options[rng.integers(len(options))]

    if rng.random() < 0.4:
        return one(WHERE).format(phrase)
    start = one(_LEADS) + one(_VERBS) if rng.random() < 0.7 else one(_ASKS)
    request = f"{start} {one(_ARTICLES)}{phrase}{one(_TAILS)}"
    if request in {wording.format(phrase).rstrip("?") for wording in HELD_OUT_WHERE}:
        return one(WHERE).format(phrase)
    return request + one(_ENDS)


def plural(name: str) -> str:
    """English plural of a thing's name, good enough for phrases."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def callable_as(name: str) -> tuple[str, ...]:
    """Other words for one thing: synonyms."""
    return SYNONYMS.get(name, ())
