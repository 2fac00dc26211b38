"""The commands `vision-agent corners train`, `measure` and `straighten`.

Every run of `vision-agent` imports this module, so what is heavy is imported when a command runs.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from vision_agent_corners.decoder import Sheets

AdapterArgument = Annotated[Path, typer.Argument(help="Folder of the adapter.")]
PhotosOption = Annotated[Path | None, typer.Option("--photos", help="Folder of photos that pages may lie on.")]
ModelOption = Annotated[str, typer.Option("--model", help="'default', a folder or a hub name.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    corners = typer.Typer(help="Find the corners of sheets of paper.", no_args_is_help=True)
    for command in (train, measure, straighten):
        corners.command()(command)
    app.add_typer(corners, name="corners")


def train(
    adapter: AdapterArgument,
    photos: PhotosOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 800,
    batch: Annotated[int, typer.Option("--batch", min=1)] = 8,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that draw pages.")] = 1,
    model: ModelOption = "default",
) -> None:
    """Train the adapter. Run the same command again to resume."""
    from vision_agent import AdapterTraining, VisionAgent, train_adapter
    from vision_agent_corners.decoder import ROUTE
    from vision_agent_corners.samples import training_samples

    agent = VisionAgent.from_pretrained(model)
    settings = AdapterTraining(steps=steps, batch=batch, rate=2e-3, workers=workers)
    print(train_adapter(agent.backbone, ROUTE, training_samples(photos), adapter, settings))


def measure(
    adapter: AdapterArgument,
    photos: PhotosOption = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Scenes of each kind.")] = 200,
    pages: Annotated[int, typer.Option("--pages", min=0, help="Pages whose words are read (extra `ocr`).")] = 10,
    model: ModelOption = "default",
) -> None:
    """Print figures over held-out scenes, a line of JSON each; OpenCV's way beside it where OpenCV is installed."""
    from vision_agent import VisionAgent
    from vision_agent_corners.measure import by_contours, by_model, corner_figures, words_read
    from vision_agent_corners.samples import list_photos

    agent = VisionAgent.from_pretrained(model, adapters=[adapter])
    ways = {"model": by_model(agent)}
    try:
        import cv2  # noqa: F401
    except ImportError:
        print("OpenCV is not installed, so there is nothing to compare with", file=sys.stderr)
    else:
        ways["OpenCV contours"] = by_contours
    for hard in (False, True):
        for name, find in ways.items():
            figures = corner_figures(find, count, hard=hard, photos=list_photos(photos))
            rounded = {key: round(value, 3) for key, value in figures.items()}
            print(json.dumps({"scenes": "hard" if hard else "plain", "by": name, **rounded}), flush=True)
    if pages and (shares := words_read(agent, pages, list_photos(photos))) is not None:
        print(json.dumps({"words read of": f"{pages} hard pages", **{k: round(v, 3) for k, v in shares.items()}}))


def straighten(
    adapter: AdapterArgument,
    image: Annotated[Path, typer.Argument(help="The photo.")],
    out: Annotated[Path, typer.Option("--out", help="Where the straightened page goes.")],
    phrase: Annotated[str, typer.Option("--phrase", help="What to straighten.")] = "sheet of paper",
    both: Annotated[bool, typer.Option("--both", help="Draw the photo with its corners beside the page.")] = False,
    model: ModelOption = "default",
) -> None:
    """Cut a page out of a photo. Prints its score and corners; exit code 1 where no sheet is seen."""
    from vision_agent import VisionAgent, load_image
    from vision_agent_corners.decoder import ROUTE, Sheets
    from vision_agent_corners.perspective import straighten as straightened

    agent = VisionAgent.from_pretrained(model, adapters=[adapter])
    photo = load_image(image)
    found = agent.run_route(ROUTE.name, phrase, photo)
    assert isinstance(found, Sheets)
    if not found.items:
        print(f"no {phrase} is seen", file=sys.stderr)
        raise typer.Exit(1)
    sheet = found.items[0]
    page = straightened(photo, sheet.corners)
    (_side_by_side(photo, page, found) if both else page).save(out)
    print(sheet.model_dump_json())


def _side_by_side(photo: Image.Image, page: Image.Image, found: "Sheets") -> Image.Image:
    """The photo with the corners it was straightened by, and the page at the same height."""
    marked = photo.convert("RGB")
    draw = ImageDraw.Draw(marked)
    reach = max(photo.size) / 80
    for sheet in found.items:
        draw.polygon(list(sheet.corners), outline="red", width=max(1, round(reach / 3)))
        for x, y in sheet.corners:
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline="red", width=max(1, round(reach / 3)))
    fitted = page.resize((max(1, round(page.width * photo.height / page.height)), photo.height))
    both = Image.new("RGB", (photo.width + fitted.width, photo.height))
    both.paste(marked, (0, 0))
    both.paste(fitted, (photo.width, 0))
    return both
