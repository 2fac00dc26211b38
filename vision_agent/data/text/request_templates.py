"""How people ask for what has a route: places, outlines, text in images, new images and changes; and for words.

The grammars are in `request_templates.json`. Questions that need looking are in `question_templates`.
"""

from vision_agent.data.text.sentence_templates import read_grammars

_GRAMMARS = read_grammars("request_templates.json")
# Here the phrase is what bears the writing; the answer is the same for all.
READ = _GRAMMARS["read"]
DESCRIBE = _GRAMMARS["describe"]
# Which grammar makes the requests of each route. The phrase of a change is the change itself (see `phrases.Phrases`).
ROUTED = {
    "det": _GRAMMARS["place"],
    "seg": _GRAMMARS["outline"],
    "ocr": READ,
    "gen": _GRAMMARS["draw"],
    "edit": _GRAMMARS["change"],
}
# What stands before `[OCR]`: the whole image is read, whatever the request was about.
READ_PHRASE = "text"
