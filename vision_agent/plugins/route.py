"""Routes: what ties a routing token such as `[DET]` to the decoder that reads its hidden states."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class RouteSpec(BaseModel):
    """What ties a routing token to its decoder.

    Attributes:
        token: the token's text, in square brackets, such as `"[DET]"`.
        decoder: entry-point name of the decoder in the group `vision_agent.decoders`.
        num_queries: queries per emitted token; 0 unless `read` is `"queries"`.
        read: which states the decoder gets: of the query block, of the token itself, or of the one before it (see
            `routing.layout`).
        block: what a query sees of its block: all queries (`"full"`), or itself and those before it (`"causal"`), as
            any engine for language models reads it. A route is read as it was trained; adapters of before 0.2, which
            do not say it, are `"full"`.
        loss_weight: weight of the decoder's loss in training.
        looks: the language model was taught to take this route before it answers in words, and to continue with what
            was found (see `inference.evidence`). For routes whose decoder gives boxes.
        ends: the language model was taught to end its answer with this token; text after it has no meaning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(pattern=r"^\[[A-Z][A-Z0-9_]*\]$")
    decoder: str = Field(min_length=1)
    num_queries: int = Field(default=4, ge=0, le=1024)
    read: Literal["queries", "self", "prev"] = "queries"
    block: Literal["full", "causal"] = "full"
    loss_weight: float = Field(default=1.0, ge=0)
    looks: bool = False
    ends: bool = False

    @model_validator(mode="after")
    def _queries_fit_read(self) -> "RouteSpec":
        if (self.num_queries > 0) != (self.read == "queries"):
            raise ValueError(f"`num_queries` must be positive for read='queries' and 0 otherwise, got {self!r}")
        return self

    @property
    def name(self) -> str:
        """The token without its brackets, in lower case: `"det"`. Names the adapter's folder."""
        return self.token.strip("[]").lower()

    @property
    def states_per_token(self) -> int:
        """Hidden states a decoder receives for one emitted token."""
        return self.num_queries or 1
