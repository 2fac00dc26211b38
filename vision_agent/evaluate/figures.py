"""What an evaluation gives: named figures, each with what it was measured over."""

from pydantic import BaseModel, ConfigDict


class Figure(BaseModel):
    """One measured number: what, over how many of what."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    count: int
    of: str


class Figures(BaseModel):
    """All figures of one evaluation."""

    model_config = ConfigDict(frozen=True)

    model: str
    split: str
    figures: tuple[Figure, ...]

    def to_markdown(self) -> str:
        """Return the figures as a Markdown table."""
        lines = ["| figure | value | measured over |", "|---|---|---|"]
        lines += [f"| {figure.name} | {figure.value:.3f} | {figure.count} {figure.of} |" for figure in self.figures]
        return "\n".join(lines)
