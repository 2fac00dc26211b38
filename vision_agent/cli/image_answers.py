"""What commands do with images and their results: print lines or JSON, save drawings, or write records."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer
from pydantic import BaseModel

from vision_agent.batch import ImageJob, process_images
from vision_agent.batch.image_batches import AnsweredImage, ask_in_batches
from vision_agent.batch.image_jobs import record_of
from vision_agent.batch.records import as_line, failed
from vision_agent.cli.exits import FAILED, one_line, run_to_end, told, with_bar
from vision_agent.cli.image_arguments import ImageArguments, open_image
from vision_agent.cli.saving import ImageOutput
from vision_agent.errors import AnswerError, InputError
from vision_agent.images.loading import ImageLimits
from vision_agent.planning.result import AgentResult
from vision_agent.results.answers import Answer
from vision_agent.results.classification import Classification
from vision_agent.results.detections import Detections
from vision_agent.results.generated import GeneratedImage
from vision_agent.results.points import Count, Points
from vision_agent.results.segmentation import Segmentation
from vision_agent.validation import check_phrases

T = TypeVar("T")


@dataclass(frozen=True)
class AnswerOutput:
    """Where results go.

    Attributes:
        as_json: JSON instead of lines for people.
        save: where drawings go, if anywhere.
        out: where records go; None prints results.
        retry: files whose record in `out` is an error are asked about again.

    Raises:
        InputError: options that exclude each other.
    """

    as_json: bool
    save: Path | None
    out: Path | None
    retry: bool

    def __post_init__(self) -> None:
        if self.out is None and self.retry:
            raise InputError("`retry` goes with --out: it does failed files of those records again")
        if self.out is not None and self.as_json:
            raise InputError("`json` prints results, and --out writes them to a file: leave one out")
        if self.out is not None and self.save is not None:
            raise InputError("`save` and `out` exclude each other: draw in a second run")


def answer_images(job: ImageJob, given: Sequence[str], output: AnswerOutput, limits: ImageLimits) -> None:
    """Ask about the images that a command was given, and print, draw or record what comes.

    Raises:
        InputError: nothing at a path, a place that cannot be written; of one image also that it cannot be read.
        typer.Exit: with 1 where some of several images failed.
    """
    images = ImageArguments.of(given)
    if (out := output.out) is not None:
        files = images.files_alone()
        run_to_end(lambda: process_images(files, job, out, retry=output.retry, progress=True, limits=limits))
        return
    saved = None if output.save is None else ImageOutput(output.save, several=images.several)

    def draw(answered: AnsweredImage) -> None:
        found: Any = answered.result
        if saved is not None and answered.image is not None:
            drawn = found.evidence if isinstance(found, Count) else found
            told(f"saved {saved.write(drawn.draw(answered.image), answered.file)}")

    answers = ask_in_batches(images.files, images.files, lambda file: open_image(file, limits), job.loaded)
    results = print_answers(answers, images, as_json=output.as_json, then=draw)
    unknown = dict.fromkeys(word for result in results for word in getattr(result, "unknown_words", ()))
    if unknown and not output.as_json:
        told(f"the model does not know {', '.join(map(repr, unknown))}")
    if not output.as_json and results and all(_is_empty(result) for result in results):
        told(f"nothing found for {', '.join(map(repr, check_phrases(job.request, None)))}")


def print_answers(
    answers: Iterable[AnsweredImage],
    images: ImageArguments,
    *,
    as_json: bool,
    then: Callable[[AnsweredImage], None] | None = None,
) -> list[BaseModel]:
    """Print answers as they come, and return the results.

    Args:
        then: called with each image that was answered, after it is printed.

    Raises:
        typer.Exit: with 1 where some of several images failed.
        Exception: the error of the one image that was asked about.
    """
    failures, results = 0, []
    for answered in with_bar(answers, len(images.files), shown=images.several):
        if answered.error is not None and not images.several:
            raise answered.error
        if answered.result is None:
            failures += 1
            error = answered.error or RuntimeError("no result")
            told(f"vision-agent: {one_line(error)}")
            if as_json:
                print(as_line(failed(answered.file, error)).decode(), end="")
            continue
        for line in _lines(answered.file, answered.result, as_json, images.several):
            print(line)
        sys.stdout.flush()  # whoever reads along sees each image when it is done
        if then is not None:
            then(answered)
        results.append(answered.result)
    if failures:
        told(f"vision-agent: {failures} of {len(images.files)} images failed")
        raise typer.Exit(FAILED)
    return results


def one_by_one(
    files: Iterable[str], load: Callable[[str], T], ask: Callable[[T], BaseModel]
) -> Iterator[AnsweredImage]:
    """Yield what `ask` gives for each image, or why it gives nothing."""
    for file in files:
        try:
            result = ask(load(file))
        except (AnswerError, InputError) as error:
            yield AnsweredImage(file, error=error)
        else:
            yield AnsweredImage(file, result=result)


def lines_of(result: BaseModel) -> list[str]:
    """Return a result as lines for people, fields apart by tabs."""
    if isinstance(result, Count):
        return [str(result.count)]
    if isinstance(result, Points):
        return [f"{each.label}\t{each.score:.2f}\t{each.x:.0f},{each.y:.0f}" for each in result]
    if isinstance(result, Segmentation):
        return [f"{_boxed(each)}\t{each.mask.area} px" for each in result]
    if isinstance(result, Classification):
        none = ["none of these"] if result.none_of_these else []
        return none + [f"{each.label}\t{each.score:.2f}" for each in result]
    if isinstance(result, Detections):
        return [_boxed(each) for each in result]
    if isinstance(result, GeneratedImage):
        return []
    if isinstance(result, AgentResult):
        return [result.summary]
    if isinstance(result, Answer):
        return [result.text, *(f"{route.token} {route.phrase}: {route.result!r}" for route in result.routes)]
    raise TypeError(type(result).__name__)


def _lines(file: str, result: BaseModel, as_json: bool, several: bool) -> list[str]:
    if as_json:
        return [as_line(record_of(file, result)).decode().rstrip() if several else result.model_dump_json()]
    if not several:
        return lines_of(result)
    # One line a result, so that lines of several images can be told apart.
    return [f"{file}\t{' '.join(line.splitlines())}" for line in lines_of(result)]


def _boxed(found: Any) -> str:
    x0, y0, x1, y1 = found.box.xyxy
    return f"{found.label}\t{found.score:.2f}\t{x0:.0f},{y0:.0f},{x1:.0f},{y1:.0f}"


def _is_empty(result: BaseModel) -> bool:
    return isinstance(result, Detections | Segmentation | Points) and not len(result)
