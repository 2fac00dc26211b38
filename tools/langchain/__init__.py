"""LangChain tools, chat model, loaders and messages."""
