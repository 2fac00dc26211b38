"""Agents that are asked about many images: an accelerator or an engine about several together, on the CPU one a core.

A batch keeps an accelerator busy. On the CPU it gains nothing, for the tower's maps of eight images no longer fit into
the caches; cores that each take an image of their own do. Either way a result depends on the images of its batch
alone, whatever was asked before.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

from PIL import Image
from pydantic import BaseModel

from vision_agent.model.threads import available_cpus

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

Asked = Callable[[Sequence[Image.Image]], Sequence[BaseModel]]
"""Images -> their results, in their order."""
Ask = Callable[["VisionAgent", list[Image.Image]], Sequence[BaseModel]]

_WORTH_IT = 8  # images from which further agents are loaded
_MOST_AGENTS = 8
_SMALL = 256 * 2**20  # bytes of weights; larger models are not loaded twice, and their layers keep all cores busy


@contextmanager
def image_workers(load: Callable[[], "VisionAgent"], ask: Ask, total: int) -> Iterator[Asked]:
    """Load the agents for a run over `total` images, and give what asks them.

    While further agents work, torch computes with one thread in each; what was set before is put back.
    """
    import torch

    first = load()
    if first.engine is not None or first.backbone.device.type != "cpu":  # an engine works on several at a time

        def together(images: Sequence[Image.Image]) -> Sequence[BaseModel]:
            first.clear_cache()
            return ask(first, list(images))

        yield together
        return

    agents: SimpleQueue[VisionAgent] = SimpleQueue()
    agents.put(first)

    def alone(image: Image.Image) -> BaseModel:
        agent = agents.get()
        try:
            agent.clear_cache()
            (result,) = ask(agent, [image])
            return result
        finally:
            agents.put(agent)

    count = min(_MOST_AGENTS, available_cpus()) if total >= _WORTH_IT and _weighs(first) <= _SMALL else 1
    if count == 1:
        yield lambda images: [alone(image) for image in images]
        return
    for _ in range(count - 1):
        agents.put(load())
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "vision-agent", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield lambda images: list(pool.map(alone, images))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _weighs(agent: "VisionAgent") -> int:
    return sum(each.numel() * each.element_size() for each in agent.backbone.model.parameters())
