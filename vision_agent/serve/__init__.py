"""Serving over HTTP: the OpenAI API, the verbs, MCP, health and metrics, as one plain ASGI application. Extra `serve`.

gate.py guards every request, desk.py lets so many be worked on at once, chat_endpoint.py and verb_endpoint.py answer
them with the agent's own verbs, application.py joins them, process.py runs them behind a port.
"""

from vision_agent.errors import EXTRAS, require_extra

for _package in EXTRAS["serve"]:
    require_extra(_package, "serve", "serving over HTTP is")
