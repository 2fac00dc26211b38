"""A first look: boxes, masks, a count, an answer and a drawing by the model inside the package, in one image.

    python examples/tour.py [OUT.png]

The model was trained on none of these photos.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from vision_agent import VisionAgent

PHOTOS = Path(__file__).parent / "photos"
STREET, PARK, SKATERS, COACH, BOAT = (PHOTOS / f"000000{n}.jpg" for n in (142472, 139872, 278705, 284725, 190140))
PANEL, STRIP = (480, 360), 46


def panel(image: Image.Image, call: str, answer: str) -> Image.Image:
    """Return an image with the call that gave it, and its answer in words."""
    whole = Image.new("RGB", (PANEL[0], PANEL[1] + STRIP), "white")
    fitted = ImageOps.contain(image.convert("RGB"), PANEL)
    whole.paste(fitted, ((PANEL[0] - fitted.width) // 2, (PANEL[1] - fitted.height) // 2))
    pen = ImageDraw.Draw(whole)
    pen.text((10, PANEL[1] + 5), call, "black", ImageFont.load_default(16))
    pen.text((10, PANEL[1] + 25), answer, "dimgray", ImageFont.load_default(14))
    return whole


def main(out: str = "demo.png") -> None:
    """Make the image, and print each call with its answer."""
    agent = VisionAgent()
    panels = []

    def show(image: Image.Image, call: str, answer: str) -> None:
        print(f"{call}\t{answer}")
        panels.append(panel(image, call, answer))

    cars = agent.detect("red car", STREET, threshold=0.4)
    sure = ", ".join(f"{car.score:.2f}" for car in cars)
    show(cars.draw(STREET), 'agent.detect("red car", street, threshold=0.4)', f"{len(cars)} found, score {sure}")

    objects = agent.segment(["dog", "frisbee"], PARK)
    show(objects.draw(PARK), 'agent.segment(["dog", "frisbee"], park)', ", ".join(each.label for each in objects))

    people = agent.count("person", SKATERS)
    show(people.evidence.draw(SKATERS), 'agent.count("person", skaters)', str(people.count))

    colour = agent.ask("what colour is the bus?", COACH)
    (bus,) = colour.evidence  # the evidence of the answer
    show(bus.draw(COACH), 'agent.ask("what colour is the bus?", coach)', colour.text)

    place = agent.run("where is the dog?", BOAT)
    (route,) = place.routes
    show(route.result.draw(BOAT), 'agent.run("where is the dog?", boat)', "the model chose to answer with a box")

    made = agent.generate("two green apples", seed=1, size=360)
    show(made.image, 'agent.generate("two green apples", seed=1)', "drawn by the model itself")

    whole = Image.new("RGB", (3 * PANEL[0], 2 * panels[0].height), "white")
    for place, each in enumerate(panels):
        whole.paste(each, (place % 3 * PANEL[0], place // 3 * each.height))
    whole.save(out, quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:])
