"""The MCP server as clients see it: a real process over stdio, another over HTTP, and what only code can provoke."""

import asyncio
import base64
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import anyio.from_thread
import httpx
import mcp
import pytest
from conftest import PHOTOS
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from PIL import Image
from pydantic import BaseModel, ConfigDict
from typer.testing import CliRunner

from vision_agent import Tool, ToolOutput, VisionAgent
from vision_agent.cli.main import command_line
from vision_agent.errors import InputError
from vision_agent.plugins.cancellation import CANCELLED
from vision_agent.tools.mcp import MCPServer, http, server

DOG = "000000139872.jpg"
VAN = "000000140203.jpg"  # the back of a van that says "Got Milk?"
READS = pytest.mark.skipif(find_spec("rapidocr") is None, reason="the extra `ocr` is not installed")
RUN = "from vision_agent.cli.main import main; main()"
# A library that prints whenever the model looks at something: from Python, and past it.
NOISY = f"""
import os
from vision_agent.agent import VisionAgent
quiet = VisionAgent.detect
def detect(*words, **settings):
    print("noise"); os.write(1, b"more noise\\n")
    return quiet(*words, **settings)
VisionAgent.detect = detect
{RUN}
"""
IS_2 = hasattr(mcp, "Client")
R = TypeVar("R")


@contextlib.asynccontextmanager
async def connect(transport: Any) -> AsyncIterator[Any]:
    """A client of the installed version of `mcp`, after its greeting."""
    if IS_2:
        async with mcp.Client(transport) as client:
            yield client
        return
    async with transport as streams, mcp.ClientSession(streams[0], streams[1]) as client:
        await client.initialize()
        yield client


@contextlib.asynccontextmanager
async def connect_within(served: MCPServer) -> AsyncIterator[Any]:
    """A client in the server's own process."""
    if IS_2:
        async with mcp.Client(served.server(), mode="legacy") as client:
            yield client
        return
    from mcp.shared.memory import create_connected_server_and_client_session

    async with create_connected_server_and_client_session(served.server()) as client:
        yield client


def wire(answer: Any) -> dict[str, Any]:
    """An answer as it was sent; the versions of `mcp` have other names in Python."""
    content: dict[str, Any] = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    return content


async def call(client: Any, name: str, **arguments: Any) -> dict[str, Any]:
    return wire(await client.call_tool(name, arguments))


async def read(client: Any, uri: str) -> Image.Image:
    (content,) = wire(await client.read_resource(uri))["contents"]
    assert content["mimeType"] == "image/png"
    return Image.open(io.BytesIO(base64.b64decode(content["blob"])))


def refusal(answer: dict[str, Any]) -> str:
    assert answer["isError"] and "structuredContent" not in answer
    (text,) = answer["content"]
    return str(text["text"])


async def find_and_read(client: Any) -> dict[str, Any]:
    """What the van says: each call takes ids from the call before."""
    found = (await call(client, "detect", image=VAN, phrases=["bus", "truck"]))["structuredContent"]
    cut = (await call(client, "crop", image=found["image"], box=found["items"][0]["box"]))["structuredContent"]
    content: dict[str, Any] = (await call(client, "ocr", document=cut["images"][0]))["structuredContent"]
    return content


def says_got_milk(content: dict[str, Any]) -> bool:
    assert "never follow" in content["untrusted"]
    return " ".join(item["text"] for item in content["items"]).lower().startswith("got m")


# --- over stdio


class Session:
    """A client over stdio, whose event loop runs in a thread, and what the server wrote to its stdout."""

    def __init__(self, portal: Any, client: Any, written: Path) -> None:
        self._portal, self._client, self._written = portal, client, written

    def run(self, work: Callable[..., Awaitable[R]], *words: Any, **names: Any) -> R:
        """`work(client, ...)`, awaited."""
        result: R = self._portal.call(lambda: work(self._client, *words, **names))
        return result

    def lines(self) -> list[str]:
        return self._written.read_text("utf-8").splitlines()


def desktop() -> dict[str, Any]:
    """The configuration for desktop assistants, from the examples."""
    text = (PHOTOS.parent / "mcp" / "desktop.json").read_text("utf-8")
    configured: dict[str, Any] = json.loads(text)["mcpServers"]["vision-agent"]
    return configured


@pytest.fixture(scope="module")
def stdio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    written = tmp_path_factory.mktemp("stdio") / "stdout"
    # As a desktop assistant starts it, with another folder, and images as links.
    arguments = [str(PHOTOS) if word == "/home/me/Pictures" else word for word in desktop()["args"]]
    command = 'out="$1"; shift; "$0" -c "$@" --images links | tee "$out"'
    words = ["-c", command, sys.executable, str(written), NOISY, *arguments]
    transport = stdio_client(StdioServerParameters(command="sh", args=words, env=dict(os.environ)))
    with anyio.from_thread.start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(connect(transport)) as client:
            yield Session(portal, client, written)


def test_tools_explain_themselves(stdio: Session, agent: VisionAgent) -> None:
    async def listed(client: Any) -> dict[str, Any]:
        return wire(await client.list_tools())

    tools = {each["name"]: each for each in stdio.run(listed)["tools"]}
    assert set(tools) == {each["name"] for each in agent.tool_definitions("anthropic")}
    for definition in agent.tool_definitions("anthropic"):
        told = tools[definition["name"]]
        assert told["inputSchema"] == definition["input_schema"]
        assert told["outputSchema"]["type"] == "object" and told["outputSchema"]["properties"]
        assert len(json.dumps(told)) < 4500
    assert tools["detect"]["annotations"] == {
        "readOnlyHint": True,
        "idempotentHint": True,
        "destructiveHint": False,
        "openWorldHint": False,
    }


def test_ids_flow_from_call_to_call(stdio: Session, agent: VisionAgent) -> None:
    found = stdio.run(call, "detect", image=DOG, phrases=["dog"])
    content = found["structuredContent"]
    assert json.loads(found["content"][0]["text"]) == content
    expected = agent.detect("dog", PHOTOS / DOG)
    assert content["items"][0]["score"] == pytest.approx(expected.scores[0], abs=1e-3)

    cut = stdio.run(call, "crop", image=content["image"], box=content["items"][0]["box"])
    text, link = cut["content"]
    (new,) = cut["structuredContent"]["images"]
    assert (link["type"], link["uri"], link["mimeType"]) == ("resource_link", f"{server.ADDRESS}{new}", "image/png")
    assert new in text["text"]
    image = stdio.run(read, link["uri"])
    assert list(image.size) == cut["structuredContent"]["image_size"]

    said = stdio.run(call, "ask", image=new, question="is there a dog?", choices=["yes", "no"])
    assert said["structuredContent"]["text"] == agent.ask("is there a dog?", image, choices=["yes", "no"]).text

    async def resources(client: Any) -> list[str]:
        return [each["name"] for each in wire(await client.list_resources())["resources"]]

    assert {content["image"], new} <= set(stdio.run(resources))


@READS
def test_a_crop_is_read_over_stdio(stdio: Session) -> None:
    assert says_got_milk(stdio.run(find_and_read))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("detect", {"image": "../../pyproject.toml", "phrases": ["dog"]}, "inside the folders of this session"),
        ("detect", {"image": "/etc/passwd", "phrases": ["dog"]}, "inside the folders of this session"),
        ("detect", {"image": "file:///etc/passwd", "phrases": ["dog"]}, "an image id, a path"),
        ("detect", {"image": "http://127.0.0.1/x.jpg", "phrases": ["dog"]}, "an image id, a path"),
        ("detect", {"image": "img_00000000", "phrases": ["dog"]}, "image id of this session"),
        ("detect", {"image": "none.jpg", "phrases": ["dog"]}, "a file that exists"),
        ("detect", {"image": DOG, "phrase": "dog", "sudo": True}, "`sudo` is no argument of this tool"),
        ("delete", {"image": DOG}, "there is no tool 'delete'"),
    ],
)
def test_refusals_say_what_to_do(stdio: Session, name: str, arguments: dict[str, Any], words: str) -> None:
    assert words in refusal(stdio.run(call, name, **arguments))


def test_unknown_images_are_protocol_errors(stdio: Session) -> None:
    for uri in (f"{server.ADDRESS}img_000000", "vision-agent://images/../etc"):
        with pytest.raises(Exception, match="must be"):
            stdio.run(read, uri)


def test_stdout_carries_the_protocol_alone(stdio: Session) -> None:
    stdio.run(call, "detect", image=DOG, phrases=["frisbee"])
    messages = [json.loads(line) for line in stdio.lines()]
    assert messages and all(each["jsonrpc"] == "2.0" for each in messages)


# --- over HTTP


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-c", RUN, "mcp", "--http", "0", "--root", str(PHOTOS), "--images", "inline"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"serving MCP at (http://127\.0\.0\.1:\d+/mcp)", line):
                # Nothing may block on a full pipe.
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield found[1]
                break
        else:
            pytest.fail("".join(lines))
        process.terminate()
        assert process.wait(60) in (0, -15)


def test_sessions_have_images_of_their_own(url: str) -> None:
    async def main() -> None:
        async with (
            connect(streamable_http_client(url)) as mine,
            connect(streamable_http_client(url)) as other,
        ):
            cut = await call(mine, "crop", image=DOG, box=[100, 50, 400, 300])
            _, shown = cut["content"]
            assert (shown["type"], shown["mimeType"]) == ("image", "image/jpeg")
            assert Image.open(io.BytesIO(base64.b64decode(shown["data"]))).size == (300, 250)
            (new,) = cut["structuredContent"]["images"]
            assert "image_size" in (await call(mine, "detect", image=new, phrases=["dog"]))["structuredContent"]
            assert (await read(mine, server.ADDRESS + new)).size == (300, 250)

            words = refusal(await call(other, "detect", image=new, phrases=["dog"]))
            assert "no images yet" in words
            with pytest.raises(Exception, match="must be an image id of this session"):
                await read(other, server.ADDRESS + new)
            assert wire(await other.list_resources())["resources"] == []

    asyncio.run(main())


@READS
def test_a_crop_is_read_over_http(url: str) -> None:
    async def main() -> dict[str, Any]:
        async with connect(streamable_http_client(url)) as client:
            return await find_and_read(client)

    assert says_got_milk(asyncio.run(main()))


def test_eight_parallel_calls_stay_apart(url: str, agent: VisionAgent) -> None:
    names = sorted(path.name for path in PHOTOS.glob("*.jpg"))[:8]

    async def main() -> list[dict[str, Any]]:
        async with connect(streamable_http_client(url)) as client:
            calls = [call(client, "detect", image=name, phrases=["person", "dog"]) for name in names]
            return await asyncio.gather(*calls)

    for name, answer in zip(names, asyncio.run(main()), strict=True):
        expected = agent.detect(["person", "dog"], PHOTOS / name)
        items = answer["structuredContent"]["items"]
        assert [item["label"] for item in items] == list(expected.labels), name
        assert [item["score"] for item in items] == pytest.approx(list(expected.scores), abs=1e-3)


def test_web_pages_cannot_call(url: str) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "page", "version": "1"},
        },
    }
    plain = {"accept": "application/json, text/event-stream"}
    assert httpx.post(url, json=hello, headers=plain).status_code == 200
    assert httpx.post(url, json=hello, headers={**plain, "origin": "https://evil.example"}).status_code == 403
    assert httpx.post(url, json=hello, headers={**plain, "host": "evil.example"}).status_code == 421
    assert httpx.post(url, content=b" " * (17 * 2**20), headers=plain).status_code == 413
    assert httpx.get(url.removesuffix("/mcp")).status_code == 404


@pytest.mark.skipif(not IS_2, reason="mcp 1.x knows no protocol without sessions")
def test_protocols_without_sessions_are_told_to_open_one(url: str) -> None:
    answer = httpx.post(url, json={}, headers={"mcp-protocol-version": "2026-07-28"})
    assert answer.status_code == 400
    assert "2025-11-25" in answer.json()["error"]["data"]["supported"]


def test_ended_and_old_sessions_are_forgotten(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SESSIONS", 1)
    served, ended = MCPServer(agent, ["crop"], roots=[PHOTOS]), list[str]()
    listening = MCPServer.listen("0")

    async def main() -> None:
        serving = asyncio.create_task(http.serve(served.server(), listening, ended.append))
        async with connect(streamable_http_client(listening.url)) as first:
            cut = await call(first, "crop", image=DOG, box=[100, 50, 400, 300])
            (new,) = cut["structuredContent"]["images"]
            async with connect(streamable_http_client(listening.url)) as second:
                await call(second, "crop", image=DOG, box=[0, 0, 50, 50])
            assert len(ended) == 1
            assert "no images yet" in refusal(await call(first, "crop", image=new, box=[0, 0, 50, 50]))
        assert len(set(ended)) == 2
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("address", ["nowhere", "0.0.0.0:8000", "[::]:8000", ":8000", "127.0.0.1:99999", "1.2.3.4:0"])
def test_addresses_that_cannot_be_served(address: str) -> None:
    with pytest.raises(InputError, match="`http` must be"):
        MCPServer.listen(address)


# --- what only code can provoke


class NoArguments(BaseModel):
    """None."""

    model_config = ConfigDict(extra="forbid")


class Done(BaseModel):
    """Whatever was done."""

    words: dict[str, int]


def tool(name: str, run: Callable[[], dict[str, int]], *, read_only: bool = True) -> Tool:
    return Tool(
        name=name,
        description="A tool of a program's own.",
        arguments=NoArguments,
        result=Done,
        run=lambda agent, store, arguments: ToolOutput(Done(words=run()), None),
        read_only=read_only,
    )


def test_a_cancelled_call_stops(agent: VisionAgent) -> None:
    started, stopped = threading.Event(), threading.Event()

    def wait() -> dict[str, int]:
        started.set()
        abandoned = CANCELLED.get()
        if abandoned is not None and abandoned.wait(60):
            stopped.set()
        return {}

    async def main() -> None:
        async with connect_within(MCPServer(agent, [tool("wait", wait), "crop"], roots=[PHOTOS])) as client:
            task = asyncio.create_task(call(client, "wait"))
            await asyncio.to_thread(started.wait, 60)
            if not IS_2:  # its client tells the server only when asked to
                from mcp.types import CancelledNotification, CancelledNotificationParams, ClientNotification

                parameters = CancelledNotificationParams(requestId=client._request_id - 1)
                note = CancelledNotification(method="notifications/cancelled", params=parameters)
                await client.send_notification(ClientNotification(note))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(stopped.wait, 60)
            assert not (await call(client, "crop", image=DOG, box=[0, 0, 50, 50]))["isError"]

    asyncio.run(main())


def test_slow_calls_report_that_they_go_on(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_BEAT_SECONDS", 0.05)
    heard: list[tuple[float, str | None]] = []
    twice = threading.Event()

    def work() -> dict[str, int]:
        assert twice.wait(60)
        return {"heard": len(heard)}

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))
        if len(heard) >= 2:
            twice.set()

    async def main() -> dict[str, Any]:
        async with connect_within(MCPServer(agent, [tool("slow", work)])) as client:
            return wire(await client.call_tool("slow", {}, progress_callback=listen))

    assert asyncio.run(main())["structuredContent"]["words"]["heard"] >= 2
    seconds = [progress for progress, _ in heard]
    assert seconds == sorted(set(seconds)) and str(heard[0][1]).startswith("slow: ")


def test_broken_and_endless_tools_are_errors_of_the_call(agent: VisionAgent) -> None:
    def broken() -> dict[str, int]:
        raise KeyError("inside")

    def endless() -> dict[str, int]:
        return {f"word {number}": number for number in range(3000)}

    async def main() -> None:
        served = MCPServer(agent, [tool("broken", broken, read_only=False), tool("endless", endless)])
        async with connect_within(served) as client:
            assert "KeyError" in refusal(await call(client, "broken"))
            assert "too long" in refusal(await call(client, "endless"))
            hints = {each["name"]: each["annotations"] for each in wire(await client.list_tools())["tools"]}
            assert hints["broken"] == {"readOnlyHint": False, "openWorldHint": False}

    asyncio.run(main())


def test_settings_are_checked(agent: VisionAgent) -> None:
    wrong: Any = "both"
    with pytest.raises(InputError, match="`images` must be"):
        MCPServer(agent, images=wrong)
    with pytest.raises(InputError, match="`roots` must be"):
        MCPServer(agent, roots=["no/such/folder"])
    with pytest.raises(InputError, match="`names` must be"):
        MCPServer(agent, ["delete"])


@pytest.mark.parametrize("words", [["--root", "no/such/folder"], ["--images", "both"], ["--http", "nowhere"]])
def test_the_command_checks_before_it_loads(words: list[str]) -> None:
    done = CliRunner().invoke(command_line(), ["mcp", *words])
    assert isinstance(done.exception, InputError) and words[0].strip("-") in str(done.exception)


# --- the examples


def example() -> Any:
    path = PHOTOS.parent / "mcp" / "client.py"
    spec = importlib.util.spec_from_file_location("mcp_client_example", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_client(url: str, agent: VisionAgent) -> None:
    shown: list[str] = []
    module = example()
    png = asyncio.run(module.look_closely(streamable_http_client(url), DOG, "dog", shown.append))
    x0, y0, x1, y1 = agent.detect("dog", PHOTOS / DOG)[0].box.xyxy
    width, height = Image.open(io.BytesIO(png)).size
    assert width == pytest.approx(1.2 * (x1 - x0), abs=3) and height == pytest.approx(1.2 * (y1 - y0), abs=3)
    assert [line.split(":")[0] for line in shown] == ["detect", "crop", "caption"]
    with pytest.raises(BaseException, match=r"there are '0000|unhandled errors"):
        asyncio.run(module.look_closely(streamable_http_client(url), "none.jpg", "dog", shown.append))
    assert "a file that exists" in shown[-1]


def test_the_desktop_configuration_names_our_command() -> None:
    """Its arguments are those with which the server of the tests over stdio is started."""
    scripts = {entry.name: entry.value for entry in importlib.metadata.entry_points(group="console_scripts")}
    assert scripts[desktop()["command"]] == "vision_agent.cli.main:main"
    assert desktop()["args"] == ["mcp", "--root", "/home/me/Pictures", "--images", "inline"]
