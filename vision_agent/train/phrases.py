"""What is said in training: wordings of requests and answers, kinds of things, plurals.

Wordings listed under `HELD_OUT` are never trained; they measure whether free routing understands or only remembers.
"""

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
PRESENCE = (
    "is there a {}?",
    "is there a {} in the picture?",
    "do you see a {}?",
    "can you see any {}?",
    "any {} here?",
)
COUNT = ("how many {} are there?", "how many {} do you see?", "count the {}", "what is the number of {}?")
COLOUR = (
    "what colour is the {}?",
    "what color is the {}?",
    "which colour does the {} have?",
    "tell me the colour of the {}",
)
CAPTION = (
    "describe the picture",
    "what is in the picture?",
    "what do you see?",
    "describe this image",
    "caption this",
    "what is happening here?",
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
