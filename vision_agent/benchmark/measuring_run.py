"""A run over benchmarks: questions in batches, a record of each answer, figures and prediction files at the end.

A run that was stopped, even killed, goes on where it was: answers are records in `NAME.jsonl`, beside which
`NAME.jsonl.settings.json` says what made them. Batches follow from the questions alone, and one that was half done is
asked again as a whole, so that a resumed run answers as one that was never stopped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vision_agent.batch.records import Record, Records, as_line, failed, read_records, replacing
from vision_agent.benchmark.benchmark_set import Benchmark, Item, Said, file_name
from vision_agent.benchmark.scores import BenchmarkReport, Score
from vision_agent.errors import CheckpointError, ConfigError, InputError, MissingExtraError, RouteError, bad_argument
from vision_agent.images.loading import ImageLimits, load_image

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

# An error of the run rather than of a question: every other question would fail in the same way.
_OF_THE_RUN = (CheckpointError, ConfigError, MissingExtraError, RouteError)


def run_benchmarks(
    load: Callable[[], "VisionAgent"],
    benchmarks: Sequence[Benchmark],
    out: Path,
    *,
    settings: Mapping[str, Any],
    retry: bool = False,
    limits: ImageLimits | None = None,
    progress: bool = False,
) -> BenchmarkReport:
    """Measure a model, or go on with it.

    Args:
        load: gives the agent; called only where questions are left.
        benchmarks: what to ask, as `read_benchmarks` gives it.
        out: folder of records, figures (`results.json`, `results.md`) and prediction files.
        settings: what else makes the answers, such as the model's name; a run of others in `out` is refused.
        retry: ask again what failed before.
        limits: what images are accepted.
        progress: show a bar on stderr, where it is a terminal.

    Raises:
        InputError: `out` is a file, or has answers that were made with other settings.
        RouteError: the model lacks what a benchmark needs.
    """
    if out.exists() and not out.is_dir():
        raise InputError(bad_argument("out", "a folder", str(out)))
    out.mkdir(parents=True, exist_ok=True)
    agents: list[VisionAgent] = []

    def agent() -> "VisionAgent":
        if not agents:
            agents.append(load())
        return agents[0]

    scores: list[Score] = []
    files: list[Path] = []
    errors: dict[str, int] = {}
    for benchmark in benchmarks:
        made_by = {**settings, "benchmark": benchmark.name, "prompts": benchmark.prompts, "data": benchmark.digest}
        path = out / f"{file_name(benchmark.name)}.jsonl"
        with Records(path, path, made_by) as records:
            known = records.done()
            left = {i.key for i in benchmark.items if i.key not in known or (retry and not known[i.key])}
            if left:
                benchmark.check_agent(agent())
            for record in _asked(benchmark, agent, left, limits or ImageLimits(), progress):
                records.append(as_line(record))
            records.sort([item.key for item in benchmark.items])
        said = _said(path, benchmark)
        scores += benchmark.scores(said)
        files += benchmark.submission(said, out)
        if count := sum(each is None for each in said.values()):
            errors[benchmark.name] = count
    name = str(settings.get("model", agents[0].model if agents else ""))
    report = BenchmarkReport(model=name, scores=tuple(scores), failed=errors, files=tuple(str(path) for path in files))
    for suffix, text in (("json", report.model_dump_json(indent=1)), ("md", report.to_markdown())):
        with replacing(out / f"results.{suffix}") as part:
            part.write_text(text + "\n", "utf-8")
    return report


def _said(path: Path, benchmark: Benchmark) -> dict[str, Said | None]:
    """The answers of this benchmark's questions; a file may have more, of a run without a limit."""
    keys = {item.key for item in benchmark.items}
    return {record["file"]: record.get("said") for record in read_records(path) if record["file"] in keys}


def _asked(
    benchmark: Benchmark, agent: Callable[[], "VisionAgent"], left: set[str], limits: ImageLimits, progress: bool
) -> Iterator[Record]:
    from tqdm import tqdm

    size = benchmark.batch
    batches = [benchmark.items[begin : begin + size] for begin in range(0, len(benchmark.items), size)]
    wanted = [batch for batch in batches if any(item.key in left for item in batch)]
    total, before = len(benchmark.items), len(benchmark.items) - len(left)
    # `disable=None` is tqdm's word for "only on a terminal".
    hidden = None if progress else True
    with tqdm(total=total, initial=before, desc=benchmark.name, unit=" question", disable=hidden) as bar:
        for batch in wanted:
            for record in _batch(benchmark, agent, batch, limits):
                if record["file"] in left:
                    yield record
                    bar.update(1)


def _batch(
    benchmark: Benchmark, agent: Callable[[], "VisionAgent"], items: Sequence[Item], limits: ImageLimits
) -> Iterator[Record]:
    """Ask some questions together, and each alone where that fails."""
    loaded: list[tuple[Item, Image.Image]] = []
    for item in items:
        try:
            loaded.append((item, load_image(item.image, limits=limits)))
        except (InputError, OSError) as error:
            yield failed(item.key, error)
    if not loaded:
        return
    asked, images = [item for item, _ in loaded], [image for _, image in loaded]
    try:
        together = benchmark.ask(agent(), asked, images)
    except _OF_THE_RUN:
        raise
    except Exception as error:  # a question may break anything; the others are still asked
        if len(loaded) == 1:
            yield failed(asked[0].key, error)
            return
        for item in asked:
            yield from _batch(benchmark, agent, [item], limits)
        return
    for item, said in zip(asked, together, strict=True):
        yield {"file": item.key, "error": None, "said": said}
