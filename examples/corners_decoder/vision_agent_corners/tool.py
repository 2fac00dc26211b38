"""The tool `straighten`: a photographed page in, the page alone out, for any language model that calls tools."""

from pydantic import BaseModel, ConfigDict, Field

from vision_agent import ImageStore, Tool, ToolAgent, ToolOutput
from vision_agent_corners.decoder import ROUTE, Sheet, Sheets


class StraightenArguments(BaseModel):
    """What a language model says to the tool."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="The image: an image id such as img_3f9a2c, or a path that was given to you.")
    phrase: str = Field(default="sheet of paper", description='What to straighten, such as "receipt".')


class StraightenAnswer(BaseModel):
    """What it reads back.

    Attributes:
        images: the id of the straightened page; empty where no sheet was seen.
        items: the sheet that was found, with its corners in pixels of the image.
    """

    images: list[str]
    items: list[Sheet]


def _straighten(agent: ToolAgent, store: ImageStore, args: StraightenArguments) -> ToolOutput:
    image = store.open(args.image)
    found = agent.run_route(ROUTE.name, args.phrase, image.image)
    assert isinstance(found, Sheets)
    made = tuple(
        store.add(sheet.straighten(image.image), origin=f"made by `straighten` from {image.id}")
        for sheet in found.items
    )
    return ToolOutput(StraightenAnswer(images=list(made), items=list(found.items)), found, made)


STRAIGHTEN = Tool(
    name="straighten",
    description=(
        "Cut a photographed page, receipt or document out of an image and straighten it, as a scanner would. Use it "
        "before `ocr` where a page is seen at an angle. An empty result means that no sheet of paper was seen."
    ),
    arguments=StraightenArguments,
    result=StraightenAnswer,
    run=_straighten,
    available=lambda agent: ROUTE.name in agent.routes,  # offered once the adapter is loaded
)
