"""Benchmarks that ask questions in words: POPE, TextVQA, DocVQA, InfographicVQA, ChartQA, OCRBench, GQA, counting."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from PIL import Image

from vision_agent.benchmark.answer_scoring import (
    anls,
    count_answer,
    gqa_answer,
    ocrbench_match,
    pope_yes,
    relaxed_match,
    vqa_accuracy,
)
from vision_agent.benchmark.benchmark_set import Benchmark, Item, Reading, Said, file_name, write_json, write_json_lines
from vision_agent.benchmark.found_images import FoundImages
from vision_agent.benchmark.published_rows import Row
from vision_agent.benchmark.scores import Score, f1_score, mean, mean_f1_score, quotient, share
from vision_agent.errors import InputError, bad_argument

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

_IDS = ("question_id", "questionId", "sample_id", "id", "index")
_QUESTIONS = ("question", "query", "text")
_IMAGES = ("image", "image_path", "imgname", "image_local_name", "imageId", "image_id", "file_name")
_ANSWERS = ("answers", "answer", "label", "number")


class QuestionSet(Benchmark):
    """Questions that are answered in words; a subclass says how its rows read and what an answer is worth."""

    suffix: ClassVar[str] = " Answer the question using a single word or phrase."
    most_tokens: ClassVar[int] = 100
    patterns: ClassVar[tuple[str, ...]]
    default_split: ClassVar[str | None] = None
    splits: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def read(cls, name: str, reading: Reading) -> Self:
        """Read and check its files."""
        split = reading.options.split or cls.default_split
        if reading.options.split is not None and reading.options.split not in cls.splits:
            known = f"{name}: one of {', '.join(cls.splits)}" if cls.splits else f"none: {name} has one part"
            raise InputError(bad_argument("split", known, reading.options.split))
        files = reading.files(*(pattern.format(split=split) for pattern in cls.patterns))
        items: list[Item] = []
        seen: set[str] = set()
        for file in files:
            found = reading.images(file)
            rows = cls.completed(reading.rows(file), file, reading)
            for number, row in enumerate(cls.limited(rows, reading.options.limit)):
                item = cls._item(row, number, file, found, reading)
                if item is not None and item.key in seen:
                    reading.faults.add("duplicate question id", file, item.key, fatal=True)
                elif item is not None:
                    seen.add(item.key)
                    items.append(item)
        whole = f"{name}:{split}" if cls.splits and split else name
        return cls(whole, items, reading.digest.hexdigest(), reading.options.prompts)

    @classmethod
    def completed(cls, rows: list[Row], file: Path, reading: Reading) -> list[Row]:
        """Return the rows with what a file beside theirs says of them."""
        return rows

    @classmethod
    def limited(cls, rows: list[Row], limit: int | None) -> list[Row]:
        """Return at most so many rows."""
        return rows[:limit]

    @classmethod
    def _item(cls, row: Row, number: int, file: Path, found: FoundImages, reading: Reading) -> Item | None:
        told = next((str(row[name]) for name in _IDS if row.get(name) is not None), str(number))
        place = f"question {told}"
        question = next((row[name] for name in _QUESTIONS if isinstance(row.get(name), str)), "")
        if not question.strip():
            reading.faults.add("no question", file, place, fatal=True)
            return None
        image = found.of(next((row[name] for name in _IMAGES if row.get(name) is not None), None), file, place)
        answers = _answers(row)
        problem = cls.problem(row, answers)
        if problem:
            reading.faults.add(problem, file, place, repr(answers)[:120], fatal=True)
        if image is None or problem:
            return None
        group = cls.group_of(row, file)
        key = f"{group}/{told}" if cls.grouped_keys else told
        text = cls.prompt(row, question, reading.options.prompts == "official")
        return Item(key, image, text, {"id": told, "answers": answers, "row": cls.kept(row, question)}, group)

    grouped_keys: ClassVar[bool] = False

    @classmethod
    def prompt(cls, row: Row, question: str, official: bool) -> str:
        """Return what the model is asked."""
        return question + cls.suffix if official else question

    @classmethod
    def problem(cls, row: Row, answers: list[str]) -> str:
        """Return what is wrong with a row; "" for nothing. Rows without answers are those of a hidden test set."""
        return ""

    @classmethod
    def group_of(cls, row: Row, file: Path) -> str:
        """Return what a question is counted with."""
        return ""

    @classmethod
    def kept(cls, row: Row, question: str) -> dict[str, Any]:
        """Return what of a row its prediction file needs."""
        return {"question": question}

    def ask(self, agent: "VisionAgent", items: Sequence[Item], images: Sequence[Image.Image]) -> list[Said]:
        """Return the model's answers."""
        questions = [item.text for item in items]
        answers = agent.ask(questions, list(images), max_new_tokens=self.most_tokens)
        return [{"answer": answer.text.strip()} for answer in answers]

    def scores(self, said: Mapping[str, Said | None]) -> list[Score]:
        """Return the figures; none of a set whose answers are hidden."""
        known = [item for item in self.items if item.truth["answers"] and item.key in said]
        return self.figures(known, [answer_of(said[item.key]) for item in known]) if known else []

    @abstractmethod
    def figures(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """Return the figures of some answers, "" where asking failed."""

    def _mean(self, metric: str, items: Sequence[Item], values: Sequence[float]) -> Score:
        return mean(self.name, metric, values, [item.image_key for item in items], "questions")

    def _path(self, folder: Path, suffix: str = ".json") -> Path:
        return folder / f"{file_name(self.name)}.predictions{suffix}"


def answer_of(said: Said | None) -> str:
    """Return the words of an answer; "" where asking failed."""
    return "" if said is None else str(said["answer"])


def _answers(row: Row) -> list[str]:
    held: Any = next((row[name] for name in _ANSWERS if row.get(name) is not None), [])
    listed = held if isinstance(held, list) else [held]
    # VQA's annotations have each person's answer with how sure they were.
    return [str(each["answer"] if isinstance(each, dict) and "answer" in each else each) for each in listed]


class Pope(QuestionSet):
    """POPE: is there an object, for objects that are there and such that are not."""

    names: ClassVar[tuple[str, ...]] = ("pope",)
    patterns: ClassVar[tuple[str, ...]] = ("coco_pope_*.json", "*_pope_*.json", "*.jsonl", "*.parquet", "*.tsv")
    grouped_keys = True

    @classmethod
    def problem(cls, row: Row, answers: list[str]) -> str:
        """Labels are yes and no."""
        return "" if [each.lower() for each in answers] in (["yes"], ["no"]) else "label that is neither yes nor no"

    @classmethod
    def group_of(cls, row: Row, file: Path) -> str:
        """How absent objects were drawn: the end of the file's name, or a column."""
        return str(row.get("category") or file.stem.rpartition("_")[2])

    def figures(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """Accuracy and F1 of each way to draw, and the mean of F1, which InternVL reports."""
        said = [pope_yes(answer) for answer in answers]
        true = [item.truth["answers"][0].lower() == "yes" for item in items]
        images = [item.image_key for item in items]
        scores = []
        for group in sorted({item.group for item in items}):
            places = [place for place, item in enumerate(items) if item.group == group]
            s, t = ([some[place] for place in places] for some in (said, true))
            i = [images[place] for place in places]
            scores += [
                share(self.name, f"accuracy, {group}", [a == b for a, b in zip(s, t, strict=True)], "questions"),
                f1_score(self.name, f"F1, {group}", s, t, i, "questions"),
                share(self.name, f"share of yes, {group}", s, "questions"),
            ]
        groups = [item.group for item in items]
        title = "F1, mean over the groups"
        return [*scores, mean_f1_score(self.name, title, said, true, groups, images, "questions")]

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write the answer files of POPE's own script, one a group."""
        paths = []
        for group in sorted({item.group for item in self.items}):
            rows = [
                {"question": item.truth["row"]["question"], "answer": answer_of(said[item.key])}
                for item in self.items
                if item.group == group and item.key in said
            ]
            path = folder / f"{file_name(self.name)}_{group}.predictions.jsonl"
            paths.append(write_json_lines(path, rows))
        return paths


class TextVqa(QuestionSet):
    """TextVQA: questions about text in photos, each answered by ten people."""

    names: ClassVar[tuple[str, ...]] = ("textvqa",)
    patterns: ClassVar[tuple[str, ...]] = (
        *("TextVQA_*_{split}.json", "textvqa_{split}.jsonl", "*{split}*.json", "*{split}*.parquet", "*.tsv"),
    )
    splits = ("val", "test", "train")
    default_split = "val"
    most_tokens = 10

    @classmethod
    def completed(cls, rows: list[Row], file: Path, reading: Reading) -> list[Row]:
        """InternVL's `textvqa_val.jsonl` has one answer a row; those of all ten are in the annotations beside it."""
        beside = file.with_name(f"{file.stem}_annotations.json")
        if file.suffix != ".jsonl" or not beside.is_file():
            return rows
        told = {str(row.get("question_id")): row.get("answers") for row in reading.rows(beside)}
        return [{**row, "answers": told.get(str(row.get("question_id")), row.get("answers"))} for row in rows]

    @classmethod
    def problem(cls, row: Row, answers: list[str]) -> str:
        """The metric leaves out each of ten answers in turn."""
        return "" if len(answers) in (0, 10) else "not ten answers"

    def figures(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """VQA accuracy."""
        values = [vqa_accuracy(said, item.truth["answers"]) for item, said in zip(items, answers, strict=True)]
        return [self._mean("VQA accuracy", items, values)]

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write the file that EvalAI takes."""
        rows = [
            {"question_id": numbered(item.truth["id"]), "answer": answer_of(said[item.key])}
            for item in self.items
            if item.key in said
        ]
        return [write_json(self._path(folder), rows)]


class DocVqa(QuestionSet):
    """DocVQA: questions about scanned pages."""

    names: ClassVar[tuple[str, ...]] = ("docvqa",)
    patterns: ClassVar[tuple[str, ...]] = (
        "{split}_v1.0*.json",
        "{split}.jsonl",
        "*{split}*.json",
        "*{split}*.parquet",
        "*.tsv",
    )
    splits = ("val", "test", "train")
    default_split = "val"

    def figures(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """ANLS."""
        values = [anls(said, item.truth["answers"]) for item, said in zip(items, answers, strict=True)]
        return [self._mean("ANLS", items, values)]

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write the file that the Robust Reading server takes."""
        rows = [
            {"questionId": numbered(item.truth["id"]), "answer": answer_of(said[item.key])}
            for item in self.items
            if item.key in said
        ]
        return [write_json(self._path(folder), rows)]


class InfoVqa(DocVqa):
    """InfographicVQA: questions about infographics."""

    names: ClassVar[tuple[str, ...]] = ("infovqa", "infographicvqa")
    patterns: ClassVar[tuple[str, ...]] = (
        "infographicsVQA_{split}_v1.0*.json",
        "{split}.jsonl",
        "*{split}*.json",
        "*{split}*.parquet",
        "*.tsv",
    )


class ChartQa(QuestionSet):
    """ChartQA: questions about charts, written by people and by a program."""

    names: ClassVar[tuple[str, ...]] = ("chartqa",)
    patterns: ClassVar[tuple[str, ...]] = (
        *("{split}/{split}_*.json", "{split}_*.json", "{split}_*.jsonl", "*{split}*.parquet", "*.tsv"),
    )
    splits = ("test", "val", "train")
    default_split = "test"
    grouped_keys = True

    @classmethod
    def group_of(cls, row: Row, file: Path) -> str:
        """Who wrote the question."""
        names = ("type", "split", "human_or_machine")  # the last is 0 or 1 on the hub
        told = str(next((row[name] for name in names if row.get(name) not in (None, "")), file.stem)).lower()
        return "augmented" if "aug" in told or told == "1" else "human" if "human" in told or told == "0" else told

    def figures(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """Relaxed accuracy of each half, and their mean."""
        right = [
            any(relaxed_match(said, truth) for truth in item.truth["answers"])
            for item, said in zip(items, answers, strict=True)
        ]
        groups = {group: [item.group == group for item in items] for group in sorted({item.group for item in items})}
        scores = [
            share(
                self.name,
                f"relaxed accuracy, {group}",
                [hit for hit, own in zip(right, mine, strict=True) if own],
                "questions",
            )
            for group, mine in groups.items()
        ]
        if len(scores) == 1:
            return scores
        weights = [1 / sum(groups[item.group]) for item in items]
        rows = [(weight * hit, weight) for weight, hit in zip(weights, right, strict=True)]
        value = sum(score.value for score in scores) / len(scores)
        images = [item.image_key for item in items]
        return [*scores, quotient(self.name, "relaxed accuracy, mean of the halves", value, rows, images, "questions")]

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write what InternVL's script writes: question, answer and annotation."""
        rows = [
            {
                "question": item.truth["row"]["question"],
                "answer": answer_of(said[item.key]),
                "annotation": (item.truth["answers"] or [""])[0],
            }
            for item in self.items
            if item.key in said
        ]
        return [write_json(self._path(folder), rows)]


class OcrBench(QuestionSet):
    """OCRBench: a thousand questions about text, formulas and forms."""

    names: ClassVar[tuple[str, ...]] = ("ocrbench",)
    patterns: ClassVar[tuple[str, ...]] = ("OCRBench.json", "*.json", "*.tsv", "*.parquet")
    suffix = ""

    @classmethod
    def problem(cls, row: Row, answers: list[str]) -> str:
        """Each question has an answer and a kind."""
        return "no answer" if not answers else "" if cls.group_of(row, Path()) else "no type"

    @classmethod
    def group_of(cls, row: Row, file: Path) -> str:
        """The kind of the question."""
        return str(row.get("type") or row.get("question_type") or row.get("category") or "")

    @classmethod
    def kept(cls, row: Row, question: str) -> dict[str, Any]:
        """All but the image."""
        return {name: value for name, value in row.items() if name != "image"}

    def figures(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """The share that is right: of all, and of the five groups that are published."""
        hits = [
            ocrbench_match(said, item.truth["answers"], item.group) for item, said in zip(items, answers, strict=True)
        ]
        groups: dict[str, list[bool]] = {}
        for item, hit in zip(items, hits, strict=True):
            name = "Text Recognition" if item.group.endswith("Text Recognition") else item.group
            name = "Text Recognition" if item.group in _RECOGNITION else name
            groups.setdefault(name, []).append(hit)
        whole = share(self.name, "final score (share of the points)", hits, "questions")
        return [whole, *(share(self.name, name, some, "questions") for name, some in sorted(groups.items()))]

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write the questions with `predict`, as OCRBench's script does."""
        rows = [{**item.truth["row"], "predict": answer_of(said[item.key])} for item in self.items if item.key in said]
        return [write_json(self._path(folder), rows)]


_RECOGNITION = ("Handwriting Recognition", "Digit String Recognition")


class Gqa(QuestionSet):
    """GQA: questions about photos, made of their scene graphs."""

    names: ClassVar[tuple[str, ...]] = ("gqa",)
    patterns: ClassVar[tuple[str, ...]] = (
        "{split}_questions.json",
        "*{split}*.json",
        "*{split}*.jsonl",
        "*.parquet",
        "*.tsv",
    )
    splits = ("testdev_balanced", "val_balanced", "test_balanced", "testdev_all", "submission_all")
    default_split = "testdev_balanced"
    most_tokens = 10

    @classmethod
    def group_of(cls, row: Row, file: Path) -> str:
        """ "query" questions are open, all others are yes or no, or one of two."""
        types = row.get("types")
        structure = types.get("structural") if isinstance(types, dict) else None
        return "" if structure is None else "open" if structure == "query" else "binary"

    def figures(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """The share that is right, of all, of binary and of open questions."""
        hits = [gqa_answer(said) == item.truth["answers"][0] for item, said in zip(items, answers, strict=True)]
        scores = [share(self.name, "accuracy", hits, "questions")]
        for group in sorted({item.group for item in items} - {""}):
            some = [hit for hit, item in zip(hits, items, strict=True) if item.group == group]
            scores.append(share(self.name, f"accuracy, {group}", some, "questions"))
        return scores

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write the file that EvalAI and GQA's script take."""
        rows = [
            {"questionId": item.truth["id"], "prediction": gqa_answer(answer_of(said[item.key]))}
            for item in self.items
            if item.key in said
        ]
        return [write_json(self._path(folder), rows)]


class Counting(QuestionSet):
    """Counting: TallyQA's test set and CountBenchQA."""

    names: ClassVar[tuple[str, ...]] = ("tallyqa", "countbenchqa")
    patterns: ClassVar[tuple[str, ...]] = ("{split}.json", "*.json", "*{split}*.parquet", "*.parquet", "*.tsv")
    splits = ("test", "train")
    default_split = "test"
    most_tokens = 16
    suffix = " Answer the question using a single word or phrase."

    @classmethod
    def problem(cls, row: Row, answers: list[str]) -> str:
        """Answers are whole numbers. The hub's copy of CountBenchQA has a few rows without an image."""
        return "" if len(answers) == 1 and count_answer(answers[0]).isdigit() else "answer that is no whole number"

    @classmethod
    def group_of(cls, row: Row, file: Path) -> str:
        """TallyQA's simple and complex questions."""
        simple = row.get("issimple")
        return "" if simple is None else "simple" if str(simple).lower() in ("true", "1") else "complex"

    def figures(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """The share that is exactly right, and how far off numbers are."""
        said = [count_answer(answer) for answer in answers]
        true = [count_answer(item.truth["answers"][0]) for item in items]
        hits = [a == b for a, b in zip(said, true, strict=True)]
        scores = [share(self.name, "accuracy", hits, "questions")]
        for group in sorted({item.group for item in items} - {""}):
            some = [hit for hit, item in zip(hits, items, strict=True) if item.group == group]
            scores.append(share(self.name, f"accuracy, {group}", some, "questions"))
        numbers = [(int(a), int(b), item) for a, b, item in zip(said, true, items, strict=True) if a.isdecimal()]
        if numbers:
            off = [float(abs(a - b)) for a, b, _ in numbers]
            scores.append(self._mean("mean absolute error of answers with a number", [i for *_, i in numbers], off))
        return scores

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write the answers by question."""
        rows = [
            {"question_id": numbered(item.truth["id"]), "answer": count_answer(answer_of(said[item.key]))}
            for item in self.items
            if item.key in said
        ]
        return [write_json(self._path(folder), rows)]


def numbered(told: str) -> int | str:
    """Return an id as a number where it is one, as servers expect it."""
    return int(told) if told.isdecimal() else told
