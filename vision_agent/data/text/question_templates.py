"""How questions are worded that need looking.

`{}` is the thing. `#` stands for each thing where there are two, else for what is asked of it; `@` for a comparison.
"""

from vision_agent.data.text.sentence_templates import Wordings, Words

_SLOTS = {
    "place": (
        *[""] * 6,
        " in the picture",
        " in this picture",
        " in the image",
        " in this image",
        " in the photo",
        " in this photo",
        " here",
        " in it",
        " in this scene",
        " in the scene",
        " on the picture",
        " to be seen",
    ),
    "lead": (
        *[""] * 8,
        "please tell me,",
        "tell me,",
        "tell me:",
        "yes or no:",
        "so,",
        "now,",
        "hey,",
        "a question:",
        "look closely:",
        "quick question,",
        "i wonder,",
        "and",
        "in this picture,",
        "in the photo,",
    ),
    "say": (
        *("tell me", "please tell me", "say", "can you tell me", "could you tell me", "do you know", "i want to know"),
        *(
            "i would like to know",
            "i'd like to know",
            "let me know",
            "can you say",
            "please say",
            "i wonder",
            "find out",
        ),
    ),
    "end": ("?", "?", "?", "", "."),
    "a": ("a", "a", "any", "some", "one", "an", "the", "such a thing as a"),
    "any": ("any", "any", "", "some", "a"),
    "the": ("the", "the", "the", "this", "that", "my"),
    "colour": ("colour", "color"),
    "picture": ("the picture", "this picture", "the image", "this image", "the photo", "this photo", "it", "the scene"),
}

PRESENCE = Wordings(
    (
        *["<lead> is there <a> {}<place><end>"] * 4,
        *["<lead> are there <any> {}<place><end>"] * 2,
        *["<lead> <see> <a> {}<place><end>"] * 3,
        "<lead> does <picture> <show> <a> {}<end>",
        "<lead> is <a> {} <visible><place><end>",
        "<lead> are <any> {} <visible><place><end>",
        "<any> {}<place><end>",
        "<say> if there is <a> {}<place><end>",
        "<say> whether <picture> <shows> <a> {}<end>",
        "<say> whether there are <any> {}<place><end>",
        "<lead> can <a> {} be <found><place><end>",
        "there is <a> {}<place>, <right><end>",
        "<lead> has <picture> got <a> {}<end>",
    ),
    {
        **_SLOTS,
        "see": ("do you see", "can you see", "did you see", "do you notice", "can i see", "do we see", "can one see"),
        "show": ("show", "contain", "have", "include", "depict", "hold", "feature"),
        "shows": ("shows", "contains", "has", "includes", "depicts", "holds"),
        "visible": ("visible", "present", "there", "shown", "to be found", "to be seen", "around", "in view"),
        "found": ("found", "seen", "spotted", "made out", "noticed"),
        "right": ("right", "isn't there", "correct", "is that true", "yes or no", "true or false"),
    },
)
COUNT = Wordings(
    (
        *["<lead> how many {} <are><place><end>"] * 4,
        "how many {}<place><end>",
        "count <the> {}<place><please>",
        "<please_> count <the> {}<place><end>",
        "<lead> what is the <number> of {}<place><end>",
        "<say> how many {} <are2><place><end>",
        "the <number> of {}<place>, please",
        "<say> the <number> of {}<place><end>",
        "give me <the> <number> of {}<place><end>",
    ),
    {
        **_SLOTS,
        "the": ("the", "all", "all the", "every one of the", "these"),
        "are": (
            "are there",
            "do you see",
            "can you see",
            "can you count",
            "are",
            "are visible",
            "can be seen",
            "do you find",
        ),
        "are2": ("there are", "you see", "you can see", "are", "are visible", "you count", "can be seen"),
        "number": ("number", "count", "total number", "exact number", "amount"),
        "please": ("", "", ", please", " for me", " please"),
        "please_": ("please", "can you", "could you", "now", "would you", "try to", "i want you to"),
    },
)
NUMBER = Wordings(
    (
        "<lead> are there <exact> # {}<place><end>",
        "<lead> do you see <exact> # {}<place><end>",
        "is the number of {}<place> #<end>",
        "<say> if there are <exact> # {}<place><end>",
        "<lead> does <picture> show <exact> # {}<end>",
    ),
    {**_SLOTS, "exact": ("", "", "exactly", "just", "precisely")},
)
COLOUR = Wordings(
    (
        *["<lead> <what> <colour> <is> <the> {}<place><end>"] * 4,
        "<lead> <what> <colour> <does> <the> {}<place> have<end>",
        "<say> the <colour> of <the> {}<place><end>",
        "<say> <what> <colour> <the> {}<place> <is><end>",
        "name the <colour> of <the> {}<place><end>",
        "<the> {}<place> is of which <colour><end>",
        "<lead> what is the <colour> of <the> {}<place><end>",
        "how is <the> {} <painted><end>",
    ),
    {
        **_SLOTS,
        "what": ("what", "what", "which", "of what", "of which"),
        "is": ("is", "is", "are", "has", "was"),
        "does": ("does", "does", "do", "did"),
        "painted": ("coloured", "painted", "colored"),
    },
)
OF_COLOUR = Wordings(
    (
        *["<lead> is <the> {}<place> #<end>"] * 3,
        "<lead> is the <colour> of <the> {}<place> #<end>",
        "is that a # {}<place><end>",
        "would you call <the> {}<place> #<end>",
        "<say> if <the> {}<place> is #<end>",
        "<lead> does <the> {} look #<end>",
        "<the> {} is #, <right><end>",
    ),
    {**_SLOTS, "right": ("right", "isn't it", "correct", "is that true", "yes or no")},
)
OF_TWO_COLOURS = Wordings(
    (
        *["<lead> is <the> {}<place> # or #<end>"] * 2,
        "which <colour> is <the> {}<place>, # or #<end>",
        "<say> if <the> {}<place> is # or #<end>",
        "# or #: which <colour> is <the> {}<end>",
    ),
    _SLOTS,
)
SIDE = Wordings(
    (
        *["<lead> <which> side is <the> {} on<end>", "<lead> on <which> side is <the> {}<end>"] * 2,
        "<lead> <which> side of <picture> is <the> {} on<end>",
        "<lead> on <which> side of <picture> <is> <the> {}<end>",
        "<lead> is <the> {} on the left or <on> right<end>",
        "<lead> is <the> {} left or right<end>",
        "<say> on <which> side <the> {} is<end>",
        "<say> if <the> {} is on the left or <on> right<end>",
        "<the> {}: left or right<end>",
    ),
    {
        **_SLOTS,
        "which": ("which", "which", "what"),
        "is": ("is", "do you see", "do i find", "stands", "can i see"),
        "on": ("on the", "the", "on the", "in the middle or on the"),
    },
)
ON_SIDE = Wordings(
    (
        *["<lead> is <the> {} <at> the #<of><end>"] * 3,
        "<lead> do you see <the> {} <at> the #<of><end>",
        "<say> if <the> {} is <at> the #<of><end>",
        "<lead> does <the> {} stand <at> the #<of><end>",
        "is <the> {} in the # <part><of><end>",
    ),
    {
        **_SLOTS,
        "at": ("on", "on", "at", "to"),
        "of": ("", "", " of the picture", " of this image", " of the photo", " side", " of it"),
        "part": ("part", "half", "third", "area"),
    },
)
LIKE = Wordings(
    (
        *["<lead> what is <the> {}<place> like<end>", "<lead> what is <the> {}<place><end>"] * 2,
        "<say> <something> about <the> {}<place><end>",
        "<describe> <the> {}<place><end>",
        "<lead> what does <the> {}<place> look like<end>",
        "what can you say about <the> {}<place><end>",
        "<lead> what do you know about <the> {}<place><end>",
    ),
    {
        **_SLOTS,
        "something": ("", "something", "more", "anything", "all"),
        "describe": ("describe", "please describe", "can you describe", "tell me about", "talk about", "tell us about"),
    },
)
PRESENCE_OF_TWO = Wordings(
    (
        *["<lead> is there <a> # and <a> #<place><end>"] * 2,
        "<lead> <see> <a> # and <a> #<place><end>",
        "<lead> does <picture> show <a> # and <a> #<end>",
        "<lead> are there both <a> # and <a> #<place><end>",
        "<say> if there is <a> # and <a> #<place><end>",
    ),
    {**_SLOTS, "a": ("a", "a", "any", "an", "the"), "see": ("do you see", "can you see", "can i see")},
)
# Words of `Comparison` and how they are asked for.
RELATION_WORDS: dict[str, Words] = {
    "left": ("left of", "to the left of", "on the left of", "on the left side of", "further left than"),
    "right": ("right of", "to the right of", "on the right of", "on the right side of", "further right than"),
    "above": ("above", "over", "higher than", "further up than", "on top of"),
    "below": ("below", "under", "lower than", "beneath", "further down than", "underneath"),
    "bigger": ("bigger than", "larger than"),
    "smaller": ("smaller than", "tinier than"),
}
RELATION = Wordings(
    (
        *["<lead> is <the> # @ <the> #<place><end>"] * 4,
        "<say> if <the> # is @ <the> #<end>",
        "<the> # is @ <the> #<place>, <right><end>",
        "<lead> would you say <the> # is @ <the> #<end>",
        "<lead> is it true that <the> # is @ <the> #<end>",
    ),
    {**_SLOTS, "right": ("right", "isn't it", "correct", "is that true", "yes or no", "true or false")},
)
SIDE_OF = Wordings(
    (
        *["<lead> is <the> # <left> <the> #<end>"] * 2,
        "<lead> is <the> # on the left or <on> right of <the> #<end>",
        "<say> if <the> # is <left> <the> #<end>",
        "<lead> seen from the middle, is <the> # <left> <the> #<end>",
    ),
    {
        **_SLOTS,
        "left": ("left or right of", "to the left or to the right of", "on the left or on the right side of"),
        "on": ("on the", "the"),
    },
)
# What is asked, and the relation of the first thing to the second that it asks for.
WHICH_WORDS: dict[str, str] = {
    "bigger": "bigger",
    "larger": "bigger",
    "smaller": "smaller",
    "further left": "left",
    "further right": "right",
    "more to the left": "left",
    "more to the right": "right",
    "higher": "above",
    "higher up": "above",
    "lower": "below",
    "further down": "below",
}
WHICH = Wordings(
    (
        *["<lead> <which> is @, <the> # or <the> #<end>"] * 2,
        "<lead> <which> is @<place>: <the> # or <the> #<end>",
        "<say> which is @, <the> # or <the> #<end>",
        "<the> # or <the> #, which is @<end>",
    ),
    {**_SLOTS, "which": ("which", "what", "which one", "which of them", "which thing")},
)
MORE = Wordings(
    (
        *["<lead> are there @ # than #<place><end>"] * 2,
        "<lead> do you see @ # than #<place><end>",
        "<say> if there are @ # than #<place><end>",
        "<lead> does <picture> show @ # than #<end>",
    ),
    _SLOTS,
)
QUESTIONS = (
    *(PRESENCE, COUNT, NUMBER, COLOUR, OF_COLOUR, OF_TWO_COLOURS, SIDE, ON_SIDE, LIKE, PRESENCE_OF_TWO, RELATION),
    *(SIDE_OF, WHICH, MORE),
)
