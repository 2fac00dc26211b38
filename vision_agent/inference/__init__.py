"""From conversations and phrases to answers and results: routes, looks, rounds."""
