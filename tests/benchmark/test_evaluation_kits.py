"""VLMEvalKit and lmms-eval through the server: their requests, as their own code writes them.

Neither shares an environment with this package. VLMEvalKit: api/lmdeploy.py, openai_sdk.py and the adapter `internvl2`;
lmms-eval: models/chat/async_openai.py and protocol.py.
"""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from vision_agent import VisionAgent


@pytest.fixture(scope="module")
def pictures(photo: Path) -> dict[str, str]:
    """The photo as either kit sends it: JPEG, and PNG without a loss."""
    image = Image.open(photo).convert("RGB")
    made = {}
    for kind in ("JPEG", "PNG"):
        held = io.BytesIO()
        image.save(held, format=kind)
        made[kind] = f"data:image/{kind.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"
    return made


def test_vlmevalkit(url: str, pictures: dict[str, str]) -> None:
    """`LMDEPLOY_API_BASE` is the whole address; a key that looks like one; more tokens than the context has."""
    question = "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    shown = {"type": "image_url", "image_url": {"url": pictures["JPEG"], "max_dynamic_patch": 6}}
    payload: dict[str, Any] = {
        "model": "default",
        "messages": [{"role": "user", "content": [{"type": "text", "text": question}, shown]}],
        "n": 1,
        "max_tokens": 16384,
        "temperature": 0.0,
    }
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-123456"}
    reply = httpx.post(f"{url}/v1/chat/completions", headers=headers, content=json.dumps(payload), timeout=120)
    assert reply.status_code == 200, reply.text
    answer = json.loads(reply.text)["choices"][0]["message"]["content"].strip()
    assert answer
    # The same as a stream, as its `stream=True` reads it: `data:` lines up to [DONE].
    streamed = httpx.post(
        f"{url}/v1/chat/completions", headers=headers, content=json.dumps({**payload, "stream": True}), timeout=120
    )
    parts = []
    for line in streamed.text.splitlines():
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            choices = json.loads(line[5:])["choices"]
            parts.append((choices[0]["delta"].get("content") or "") if choices else "")
    assert "".join(parts).strip() == answer


def test_lmms_eval(url: str, agent: VisionAgent, pictures: dict[str, str], photo: Path) -> None:
    """Several requests at once by OpenAI's asynchronous client: media and text of `doc_to_messages`, in its order."""
    questions = ["Is there a dog in the image?", "what colour is the dog?"]

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="EMPTY", timeout=120) as client:

            async def ask(question: str) -> str:
                shown = {"type": "image_url", "image_url": {"url": pictures["PNG"]}}
                messages: Any = [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]
                reply = await client.chat.completions.create(
                    messages=messages, model="default", max_tokens=16, temperature=0
                )
                assert reply.usage is not None and reply.usage.prompt_tokens and reply.usage.completion_tokens
                return str(reply.choices[0].message.content)

            return list(await asyncio.gather(*map(ask, questions)))

    said = asyncio.run(ask_all())
    assert said[0].lower().startswith("yes")
    assert said == [agent.run(question, photo, planner="off").text for question in questions]
