"""What a remote engine is and can do, as found out when it is connected."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

EngineKind = Literal["vllm", "sglang", "lmdeploy", "vision-agent", "openai"]


class AdapterVerdict(BaseModel):
    """Whether the route of an adapter can be read through an engine.

    Attributes:
        adapter: its folder.
        token: its routing token.
        causal: an engine, which lets no token see a later one, computes the states that the route was trained on.
        usable: it can be used with this agent.
        reason: why not, with the remedy where there is one; "" where it can.
    """

    model_config = ConfigDict(frozen=True)

    adapter: str
    token: str
    causal: bool
    usable: bool
    reason: str


class EngineInfo(BaseModel):
    """A remote engine, as its answers to the first requests show it.

    Attributes:
        kind: "vllm", "sglang", "lmdeploy", "vision-agent" (`vision-agent serve`), or "openai" for any other that has
            OpenAI's chat completions.
        url: its address.
        version: where it says one.
        model: the model that is asked; `models` are all that it has.
        context: most tokens of a prompt and its answer together; None where it does not say.
        tokenizer: "same ids" or "same counts" as the given tokenizer's for a known text; "not checked" where the engine
            tells neither.
        images: an image takes as many tokens as it does here; None where it could not be found out.
        logprobs: probabilities of tokens are told: without them answers have no confidence, and boxes no scores.
        patterns: answers can be held to a regular expression, which choices and boxes are written under.
        schemas: answers can be held to a JSON schema.
        continues: an answer that was begun can be continued, which boxes need.
        hidden_states: states are handed out on request, which routes need. vLLM is asked only where there are adapters.
        routes: routes of a model that `vision-agent serve` runs.
        adapters: of each adapter that was named, whether it is used.
        warnings: what is to be known, in sentences.
    """

    model_config = ConfigDict(frozen=True)

    kind: EngineKind
    url: str
    version: str | None = None
    model: str
    models: tuple[str, ...]
    context: int | None = None
    tokenizer: Literal["same ids", "same counts", "not checked"] = "not checked"
    images: bool | None = None
    logprobs: bool = False
    patterns: bool = False
    schemas: bool = True
    continues: bool = False
    hidden_states: bool = False
    routes: tuple[str, ...] = ()
    adapters: tuple[AdapterVerdict, ...] = ()
    warnings: tuple[str, ...] = ()
