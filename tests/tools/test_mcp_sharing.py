"""Images that outlive a session where the server is told so, and links to them that hosted models can fetch.

Clients such as langchain-mcp-adapters open a session for every call: that is what is done here.
"""

import asyncio
import base64
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import mcp
import pytest
from conftest import PHOTOS
from mcp.client.streamable_http import streamable_http_client
from mcp.types import Implementation
from PIL import Image
from typer.testing import CliRunner

from vision_agent import VisionAgent
from vision_agent.cli.main import command_line
from vision_agent.errors import InputError
from vision_agent.tools.mcp import MCPServer, http, server

DOG = "000000139872.jpg"
IS_2 = hasattr(mcp, "Client")
TOKEN = "k3Jx8mQ2vT9bR5nW"


def run(served: MCPServer, work: Callable[[str], Awaitable[None]]) -> None:
    """`work`, given the address at which the server serves meanwhile; sessions that end are forgotten."""
    listening = MCPServer.listen("0")

    async def main() -> None:
        serving = asyncio.create_task(
            http.serve(served.server(), listening, served._forget, served._linked, served._public)
        )
        try:
            await work(listening.url)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def session(url: str, token: str | None = None, name: str = "one") -> AsyncIterator[Any]:
    """A session of its own, opened with a greeting and closed at the end."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    info = Implementation(name=name, version="1")
    if IS_2:
        import httpx2

        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as sender,
            mcp.Client(streamable_http_client(url, http_client=sender), client_info=info) as client,
        ):
            yield client
        return
    async with (
        httpx.AsyncClient(headers=headers, timeout=60) as sender,
        streamable_http_client(url, http_client=sender) as streams,
        mcp.ClientSession(streams[0], streams[1], client_info=info) as client,
    ):
        await client.initialize()
        yield client


async def call(url: str, tool: str, arguments: dict[str, Any], **who: Any) -> dict[str, Any]:
    """One call, in a session that is opened for it alone."""
    async with session(url, **who) as client:
        answer = await client.call_tool(tool, arguments)
    content: dict[str, Any] = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    return content


async def cut(url: str, image: str, **who: Any) -> str:
    """The id of a crop, or the refusal."""
    answer = await call(url, "crop", {"image": image, "box": [0, 0, 64, 48]}, **who)
    content = answer.get("structuredContent")
    return str(answer["content"][0]["text"] if content is None else content["images"][0])


def test_a_token_shares_images_between_sessions(agent: VisionAgent) -> None:
    async def work(url: str) -> None:
        new = await cut(url, DOG, token=TOKEN)
        assert new.startswith("img_") and (await cut(url, new, token=TOKEN)).startswith("img_")
        assert (await cut(url, new, token=TOKEN, name="another client")).startswith("img_")
        for who in ({"token": TOKEN[:-1]}, {"token": None}):
            assert "no images yet" in await cut(url, new, **who)

    run(MCPServer(agent, ["crop"], roots=[PHOTOS], share="token"), work)


def test_a_client_shares_images_between_its_sessions(agent: VisionAgent) -> None:
    async def work(url: str) -> None:
        new = await cut(url, DOG, name="one")
        assert (await cut(url, new, name="one", token=TOKEN)).startswith("img_")
        assert "no images yet" in await cut(url, new, name="other")

    run(MCPServer(agent, ["crop"], roots=[PHOTOS], share="client"), work)


def test_by_default_a_session_is_alone(agent: VisionAgent) -> None:
    async def work(url: str) -> None:
        new = await cut(url, DOG, token=TOKEN)
        assert "no images yet" in await cut(url, new, token=TOKEN)

    run(MCPServer(agent, ["crop"], roots=[PHOTOS]), work)


def test_shared_images_are_bounded_in_number_and_time(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(url: str) -> None:
        monkeypatch.setattr(server, "_SESSIONS", 2)
        new = await cut(url, DOG, token="a")
        assert (await cut(url, new, token="a")).startswith("img_")
        await cut(url, DOG, token="b")
        await cut(url, DOG, token="c")
        assert "no images yet" in await cut(url, new, token="a")
        await cut(url, DOG, token="a")
        monkeypatch.setattr(http, "IDLE_SECONDS", -1.0)
        assert "no images yet" in await cut(url, new, token="a")

    run(MCPServer(agent, ["crop"], roots=[PHOTOS], share="token"), work)


def test_links_that_hosted_models_can_fetch(agent: VisionAgent) -> None:
    public = "https://vision.example.org/agent"
    made = MCPServer(agent, ["crop", "draw"], roots=[PHOTOS], share="token", public_url=public + "/")

    async def work(url: str) -> None:
        drawn = await call(url, "draw", {"image": DOG, "boxes": "[9, 9, 99, 99]"}, token=TOKEN)
        _, link = drawn["content"]
        assert (link["type"], link["mimeType"]) == ("resource_link", "image/jpeg")
        assert link["uri"].startswith(f"{public}{http.IMAGES}") and link["uri"].endswith(f"/{link['name']}.jpg")
        here = url.removesuffix(http.PATH) + link["uri"].removeprefix(public)
        async with httpx.AsyncClient() as client:
            fetched = await client.get(here)
            assert fetched.status_code == 200 and fetched.headers["content-type"] == "image/jpeg"
            assert Image.open(io.BytesIO(fetched.content)).size == (640, 480)
            assert fetched.headers["x-content-type-options"] == "nosniff"
            assert (await client.head(here)).content == b""
            key = here.split("/")[-2]
            for wrong in (here[:-4], here + "x", here.replace(key, key[:-1]), here.replace("img_", "img_0")):
                assert (await client.get(wrong)).status_code == 404
            assert (await client.get(url.removesuffix(http.PATH) + http.IMAGES)).status_code == 404
            assert (await client.post(here)).status_code == 405
        other = await call(url, "draw", {"image": DOG, "boxes": "[9, 9, 99, 99]"}, token="other")
        assert other["content"][1]["uri"] != link["uri"]  # each has a secret of its own
        async with session(url, token=TOKEN) as client:  # the image is still a resource
            address: Any = f"vision-agent://images/{link['name']}"
            (content,) = (await client.read_resource(address)).model_dump(mode="json", by_alias=True)["contents"]
            assert content["mimeType"] == "image/jpeg" and len(content["blob"]) < 2**20  # more than clients take
            assert Image.open(io.BytesIO(base64.b64decode(content["blob"]))).size == (640, 480)
        # A model that passes the link of a result on, in place of the id, means the image.
        assert (await cut(url, f"vision-agent://images/{link['name']}", token=TOKEN)).startswith("img_")

    run(made, work)


def test_a_fetched_image_is_small_enough_for_any_provider(agent: VisionAgent) -> None:
    made = MCPServer(agent, ["crop"], share="token", public_url="http://localhost:8000")
    held = made._session(server.Request(None, None, ("", ""), "t", None))  # type: ignore[arg-type]
    image_id = held.toolkit.store.add(Image.effect_noise((5000, 2500), 80))
    data = made._linked(held.key, image_id)
    assert data is not None and len(data) < 5 * 10**6
    assert Image.open(io.BytesIO(data)).size == (2048, 1024)


def test_ids_alone(agent: VisionAgent) -> None:
    async def work(url: str) -> None:
        answer = await call(url, "crop", {"image": DOG, "box": [0, 0, 64, 48]})
        assert [each["type"] for each in answer["content"]] == ["text"]
        assert answer["structuredContent"]["images"][0].startswith("img_")

    run(MCPServer(agent, ["crop"], roots=[PHOTOS], images="ids"), work)


@pytest.mark.parametrize(
    "address", ["", "vision.example.org", "ftp://a.b", "https://", "https://a.b/?q", "https://a:b", 5]
)
def test_no_public_address(agent: VisionAgent, address: Any) -> None:
    with pytest.raises(InputError, match="`public_url` must be an address such as"):
        MCPServer(agent, ["crop"], public_url=address)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--share", "all"], "`share` must be session or client or token"),
        (["--public-url", "https://a.b"], "`public_url` must be given beside --http"),
        (["--public-url", "a.b", "--http", "0"], "`public_url` must be an address"),
        (["--images", "none"], "`images` must be links or inline or ids"),
    ],
)
def test_the_command_checks_before_it_loads(words: list[str], said: str) -> None:
    done = CliRunner().invoke(command_line(), ["mcp", *words])
    assert isinstance(done.exception, InputError) and said in str(done.exception)
