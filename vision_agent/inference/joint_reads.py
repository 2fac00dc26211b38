"""Routes of several requests, read in one forward pass: it takes little more for many than for one.

Shape suffixes: K routing tokens, N states of each, C hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from torch import Tensor

from vision_agent.generation.decoding import GenerationOutput
from vision_agent.generation.joint_cache import alike, joint_cache, real_columns
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.cancellation import raise_if_cancelled
from vision_agent.routing.adapter import Route
from vision_agent.routing.states import Emitted, Forced, read_emitted, read_forced_each

MOST_READ = 16  # requests
_FEW = 4  # phrases; more of them are a forward pass of their own, to whose length the others would be padded


class JointReads:
    """Reads routes of any number of requests to one model. For the thread that owns it.

    Args:
        routes: by name; those that are loaded later count too.
        prefixes: where the keys and values of prompts are kept.
    """

    def __init__(self, backbone: Backbone, routes: Mapping[str, Route], prefixes: PrefixCache) -> None:
        self._backbone, self._routes, self._prefixes = backbone, routes, prefixes

    def forced(self, asked: Sequence[Forced]) -> list[Tensor]:
        """Return the states (K, N, C), fp32, of forced routes."""
        raise_if_cancelled()
        found: dict[int, Tensor] = {}
        for some in alike([sum(each.image_tokens) for each in asked]):
            short = [row for row in some if len(asked[row].phrases) <= _FEW]
            for rows in [*([row] for row in some if row not in short), *([short] if short else [])]:
                states = read_forced_each(self._backbone, [asked[row] for row in rows], self._prefixes)
                found |= {row: each.float() for row, each in zip(rows, states, strict=True)}
        return [found[row] for row in range(len(asked))]

    def emitted(self, asked: Sequence[tuple[GenerationOutput, Sequence[Emitted]]]) -> list[list[Tensor]]:
        """Return the states (N, C) of routing tokens in answers; batches of several answers are read by themselves."""
        raise_if_cancelled()
        found: dict[int, list[Tensor]] = {}
        single = [row for row, (output, _) in enumerate(asked) if len(output.answers) == 1]
        groups = alike([asked[row][0].prompt_tokens[0] for row in single])
        for some in groups:
            found |= self._emitted(asked, [single[place] for place in some])
        for row in sorted(set(range(len(asked))) - set(single)):
            found |= self._emitted(asked, [row])
        return [found[row] for row in range(len(asked))]

    def _emitted(
        self, asked: Sequence[tuple[GenerationOutput, Sequence[Emitted]]], rows: Sequence[int]
    ) -> dict[int, list[Tensor]]:
        outputs = [asked[row][0] for row in rows]
        sizes = [output.cache.get_seq_length() for output in outputs]
        cache, mask_BP = outputs[0].cache, outputs[0].mask_BP[:, : sizes[0]]
        if len(rows) > 1:
            cache, mask_BP = joint_cache([output.cache for output in outputs], sizes), real_columns(sizes, "cpu")
        emitted = [replace(item, row=item.row + place) for place, row in enumerate(rows) for item in asked[row][1]]
        answers = [answer for output in outputs for answer in output.answers]
        prompts = [size for output in outputs for size in output.prompt_tokens]
        states = iter(read_emitted(self._backbone, self._routes, cache, mask_BP, answers, emitted, prompts))
        return {row: list(islice(states, len(asked[row][1]))) for row in rows}
