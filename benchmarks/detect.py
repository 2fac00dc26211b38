"""Speed and memory of detection, each as a ratio within one run.

    python benchmarks/detect.py [--threads 2] [--photo PATH] [--out FILE.json]

Measures warm latency, with two looks and one, and peak memory of the default; 50 objects by routed decoding against
the same backbone writing the boxes as text; ten phrases at once against ten calls. Prints a Markdown table that names
the machine.
"""

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from vision_agent import VisionAgent
from vision_agent.generation.decoding import PromptInputs, generate
from vision_agent.generation.options import GenerationOptions
from vision_agent.images.loading import load_image
from vision_agent.inference.detail import Detail

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "000000423617.jpg"
PHRASES = ["bus", "car", "taxi", "person", "traffic light", "truck", "road sign", "umbrella", "bicycle", "dog"]
# What InternVL writes for one box: <ref>bus</ref><box>[[x1, y1, x2, y2]]</box>, digits as single tokens or words.
OBJECTS = 50


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Measure the median wall time of a call after one warm-up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def written_boxes_seconds(agent: VisionAgent, image: Image.Image) -> tuple[float, int]:
    """Measure how long the same backbone takes to write 50 boxes as text, one greedy token after another.

    The default was not trained to write boxes; what is timed is the decoding of as many tokens as 50 boxes in
    InternVL's format take in its tokenizer. End tokens are forbidden so that all of them are decoded.
    """
    backbone = agent.backbone
    line = "<ref>car</ref><box>[[{0}, {1}, {2}, {3}]]</box>"
    text = "".join(line.format(*(100 + 7 * n + 13 * k for k in range(4))) for n in range(OBJECTS))
    count = len(backbone.text_ids(text))
    encoded = backbone.encode_image(image)
    prompt = backbone.prompt_ids("where is the car?", [len(encoded.tokens_TC)])
    reading = PromptInputs(tuple(prompt), encoded.tokens_TC)
    forbidden = [*backbone.end_ids, *(route.token_id for route in agent.routes.values())]
    options = GenerationOptions(max_new_tokens=count, max_repeats=None)
    written = len(generate(backbone, [reading], options, forbidden=forbidden).answers[0])
    assert written == count, f"only {written} of {count} tokens were written"
    return median_seconds(lambda: generate(backbone, [reading], options, forbidden=forbidden), 1), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    agent = VisionAgent()
    loading = time.perf_counter() - start
    image = load_image(options.photo)

    def fresh(phrases: str | list[str], threshold: float | None = None, detail: Detail | None = None) -> None:
        agent.clear_cache()
        agent.detect(phrases, image, threshold=threshold, detail=detail)

    cold = median_seconds(lambda: fresh("car"), 9)
    low = median_seconds(lambda: fresh("car", detail="low"), 9)
    warm = median_seconds(lambda: agent.detect("car", image), 9)
    together = median_seconds(lambda: fresh(PHRASES), 5)
    one_by_one = median_seconds(lambda: [fresh(phrase) for phrase in PHRASES], 3)
    # Exactly 50 boxes, whatever is in the image: the limit at 50, and no suppression of overlaps.
    settings = agent.routes["det"].decoder.settings
    kept = dict(settings)
    settings |= {"limit": OBJECTS, "nms_iou": 1.0}
    routed = median_seconds(lambda: fresh("car", threshold=0.0), 5)
    found = len(agent.detect("car", image, threshold=0.0))
    settings |= kept
    written, tokens = written_boxes_seconds(agent, image)
    figures = {
        "machine": f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}",
        "photo": f"{options.photo.name}, {image.width}x{image.height}",
        "loading_s": loading,
        "detect_new_image_ms": cold * 1e3,
        'detect_new_image_ms (detail="low")': low * 1e3,
        "detect_same_image_ms": warm * 1e3,
        "ten_phrases_at_once_ms": together * 1e3,
        "ten_calls_ms": one_by_one * 1e3,
        "ten_calls_over_at_once": one_by_one / together,
        f"routed_{found}_boxes_ms": routed * 1e3,
        f"written_{OBJECTS}_boxes_ms ({tokens} tokens)": written * 1e3,
        "written_over_routed": written / routed,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name.replace('_', ' ')} | {value if isinstance(value, str) else f'{value:.1f}'} |")
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
