"""What the verbs return: frozen Pydantic models, without torch."""
