"""How questions are worded that need looking; the grammars are in `question_templates.json`.

`{}` is the object. `#` stands for each object where there are two, else for what is asked of it; `@` for a comparison.
"""

from vision_agent.data.text.sentence_templates import Words, read_grammars, read_texts

QUESTIONS = read_grammars("question_templates.json")
_RELATIONS = read_texts("relation_words.json")
# Words of `Comparison` and how they are asked for.
RELATION_WORDS: dict[str, Words] = {relation: tuple(words) for relation, words in _RELATIONS["words"].items()}
# What is asked, and the relation of the first object to the second that it asks for.
WHICH_WORDS: dict[str, str] = _RELATIONS["which"]
