"""Generation of answers, token by token, under grammars and with a cache of prompts."""
