"""Clients of MCP from an environment of their own, against a server of this one: `make test-clients`.

    python tests/tools/mcp_clients.py PYTHON

PYTHON is that of an environment with langchain-mcp-adapters, which wants `mcp` 1.x while this one may have 2.x. Both
programs of `examples/mcp` run there; the ids of images survive their sessions where the server is told so, and only
there.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "mcp"
SERVE = ["mcp", "--http", "0", "--root", str(ROOT / "examples" / "photos"), "--images", "inline"]


@contextmanager
def server(*options: str) -> Iterator[str]:
    """A server in a process of its own, as its address."""
    words = [sys.executable, "-m", "vision_agent", *SERVE, *options]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert "serving MCP at http://" in said, said
            yield said.split()[-1]
        finally:
            process.terminate()


def run(python: str, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of `examples/mcp` in the other environment."""
    return subprocess.run([python, str(EXAMPLES / program), *words], capture_output=True, text=True, timeout=300)


def main(python: str) -> None:
    with server("--share", "token") as url:
        adapters = run(python, "langchain_client.py", url)
        assert adapters.returncode == 0, adapters.stderr
        found, cut, described = map(json.loads, adapters.stdout.splitlines())
        assert found["items"][0]["label"] == "dog"
        assert cut["source"] == found["image"], "the photo's id survives the session that made it"
        assert described["image"] == cut["images"][0], "the cut-out's id survives the session that made it"
        assert described["text"]
        print("langchain-mcp-adapters: three calls in three sessions, ids kept")
        official = run(python, "client.py", "--url", url)
        assert official.returncode == 0, official.stderr
        print("the official client: one session")
    with server() as url:
        alone = run(python, "langchain_client.py", url)
        assert alone.returncode == 1, alone.stdout
        assert "no images yet" in alone.stderr, alone.stderr
        print("langchain-mcp-adapters without --share: refused in words")


if __name__ == "__main__":
    main(sys.argv[1])
