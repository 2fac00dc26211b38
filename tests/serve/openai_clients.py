"""LangChain's client of OpenAI from an environment of its own, against a server of this one: `make test-clients`.

    python tests/serve/openai_clients.py PYTHON

PYTHON is that of an environment with langchain-openai and langchain-tests. The standard suite for chat models runs
there, see chat_openai_suite.py.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).parent
_OPTIONS = (
    *("-c", os.devnull, "--rootdir", str(HERE), "--noconftest", "-p", "no:cacheprovider", "-q", "--tb=short", "-rfEx"),
    *("-o", "asyncio_mode=auto"),
    # The clients of a model are kept, and belong to an event loop.
    *("-o", "asyncio_default_test_loop_scope=session", "-o", "asyncio_default_fixture_loop_scope=session"),
)


def main(python: str) -> int:
    words = [sys.executable, "-m", "vision_agent", "serve", "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert "serving default at http://" in said, said + process.stderr.read()
            threading.Thread(target=process.stderr.read).start()  # a full pipe would stop the server
            environment = {**os.environ, "VISION_AGENT_URL": said.split()[-1]}
            suite = [python, "-m", "pytest", *_OPTIONS, str(HERE / "chat_openai_suite.py")]
            return subprocess.run(suite, env=environment, timeout=900).returncode
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
