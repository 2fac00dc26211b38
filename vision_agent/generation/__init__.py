"""Reading prompts and writing answers, token by token and under a grammar."""
