"""From conversations and phrases to answers and results: generation, routes, evidence, rounds of a chat."""
