"""Commands about all images of a folder: `index`, `search` and `duplicates`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vision_agent.cli.exits import FAILED, StoppedByUser, told
from vision_agent.cli.option_sets import ModelOptions, expanded
from vision_agent.cli.options import EmbedderOption, JsonOption, check_output
from vision_agent.cli.saving import ImageOutput
from vision_agent.errors import InputError, bad_argument

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent
    from vision_agent.search.index import Index

SheetOption = Annotated[Path | None, typer.Option("--sheet", help="Write what was found to this image, side by side.")]
IndexArgument = Annotated[Path, typer.Argument(help="The file that `vision-agent index` wrote.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    for command in (index, search, duplicates):
        app.command()(expanded(command))


def index(
    folder: Annotated[Path, typer.Argument(help="Folder of images; those below it count too.")],
    out: Annotated[Path, typer.Option("--out", help="File of the index. Of one that is there, only changes are read.")],
    by: ModelOptions,
    embedder: EmbedderOption = None,
) -> None:
    """Index the images of a folder, to search them. Run it again to resume, or to bring the index up to date."""
    from vision_agent.search.index import Index

    check_output("out", out)
    if not folder.is_dir():
        raise InputError(bad_argument("folder", "a folder that exists", str(folder)))
    try:
        with _bar() as progress:
            made = Index.build(folder, _agent(by, embedder), out=out, progress=progress)
    except KeyboardInterrupt:
        raise StoppedByUser("stopped; run the same command again to resume") from None
    told(f"{len(made)} images in {str(out)!r}; {len(made.errors)} cannot be read")
    for file, problem in made.errors.items():
        told(f"{file}: {problem}")
    if made.errors:
        raise typer.Exit(FAILED)


def search(
    index: IndexArgument,
    query: Annotated[str, typer.Argument(help="Words, or an image: its path.")],
    by: ModelOptions,
    embedder: EmbedderOption = None,
    box: Annotated[
        str | None, typer.Option("--box", help="Part of the image that is looked for: x0,y0,x1,y1 in pixels.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Most images.")] = 10,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where the images lie now, if not where they were indexed.")
    ] = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find images by words, by an image or by a part of one: score and file, best first.

    Without --embedder words are looked for in every image, once for each phrase: what was found is kept in the index.
    """
    part = _numbers(box)
    output = None if sheet is None else ImageOutput(sheet, several=False, name="sheet")
    if folder is not None and not folder.is_dir():
        raise InputError(bad_argument("folder", "a folder that exists", str(folder)))
    loaded = _load(index, by, embedder, folder)
    try:
        with _bar() as progress:
            found = loaded.search(query, box=part, limit=limit, progress=progress)
    except KeyboardInterrupt:
        if loaded.unsaved:
            loaded.save(index)
        raise StoppedByUser("stopped; run the same command again to resume") from None
    if loaded.unsaved:
        loaded.save(index)
    if output is not None:
        told(f"saved {output.write(found.sheet(), query)}")
    if found.missing and not loaded.folder.is_dir():
        told(f"the folder {str(loaded.folder)!r} is not there: --folder says where it is now")
    elif found.missing:
        told(f"{len(found.missing)} of {found.images} images are not there now; `vision-agent index` forgets them")
    if as_json:
        print(found.model_dump_json())
        return
    for hit in found:
        place = "" if hit.box is None else " " + ",".join(f"{side:.1f}" for side in hit.box.xyxy)
        print(f"{hit.score:.3f}{place} {hit.file}")
    if not found:
        told("nothing found")
    if found.unknown_words:
        told(f"never taught: {', '.join(found.unknown_words)}")


def duplicates(
    folder: Annotated[Path, typer.Argument(help="Folder of images; those below it count too.")],
    exact: Annotated[bool, typer.Option("--exact", help="Only files that are equal byte for byte.")] = False,
    bits: Annotated[int, typer.Option("--bits", help="Of 256 bits of a hash, how many may differ: 0 to 64.")] = 24,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find images that are there twice, or look alike: a group a line, equal files first marked "=", others "~".

    No model is needed. Nothing is deleted.
    """
    from vision_agent.search.index import Index

    output = None if sheet is None else ImageOutput(sheet, several=False, name="sheet")
    try:
        with _bar() as progress:
            looked = Index.build(folder, progress=progress)
    except KeyboardInterrupt:
        raise StoppedByUser("stopped") from None
    found = looked.duplicates(bits=None if exact else bits)
    if output is not None:
        told(f"saved {output.write(found.sheet(), str(folder))}")
    if as_json:
        print(found.model_dump_json())
    else:
        for group in found:
            print("\t".join(["=" if group.exact else "~", *group.files]))
    told(f"{len(found)} groups in {found.images} images; {len(found.extra_files)} files could go")
    for file, problem in looked.errors.items():
        told(f"{file}: {problem}")
    if looked.errors:
        raise typer.Exit(FAILED)


def _agent(by: ModelOptions, embedder: Path | None) -> "VisionAgent":
    from vision_agent.batch.load_agent import load_agent

    return load_agent(by.model, by.adapter or (), by.device, by.dtype, embedder=embedder)


def _load(path: Path, by: ModelOptions, embedder: Path | None, folder: Path | None) -> "Index":
    """Read the index, with the agent that searches it."""
    from vision_agent.search.index import Index
    from vision_agent.search.index_file import read_index

    read_index(path)  # a typo in a name should not cost the loading of a model
    return Index.load(path, _agent(by, embedder), folder=folder)


def _numbers(box: str | None) -> list[float] | None:
    if box is None:
        return None
    try:
        sides = [float(side) for side in box.split(",")]
    except ValueError:
        sides = []
    if len(sides) != 4:
        raise InputError(bad_argument("box", "four numbers, x0,y0,x1,y1", box))
    return sides


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=" image") as bar:

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield show
