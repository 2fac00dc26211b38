"""The requests of `/v1/vision/...`, made of the agent's own verbs: names, types, defaults and words are written there.

What a verb takes that JSON has no words for, such as a path, a callback or a plug-in, is left out.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from vision_agent.agent import VisionAgent
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.result import OcrResult
from vision_agent.extract.extractor import ExtractSettings
from vision_agent.extract.question_answering import DocumentAnswer
from vision_agent.extract.result import Extraction
from vision_agent.planning.result import AgentResult
from vision_agent.results.answers import Answer
from vision_agent.results.classification import Classification
from vision_agent.results.detections import Detections
from vision_agent.results.generated import GeneratedImage, GeneratedImages
from vision_agent.results.points import Count, Points
from vision_agent.results.segmentation import Segmentation
from vision_agent.results.tracks import Tracks
from vision_agent.serve.result_json import MaskForm

_SOURCE = {"type": "string", "format": "uri", "description": "a `data:` address, or a path under the server's roots"}
Source = Annotated[str | bytes, WithJsonSchema(_SOURCE)]
"""An image, a document or a video: its address, or the bytes of a form's file."""
_LINES = list[list[float]]
_ALIAS = {"schema": "schema_"}  # fields of a model cannot have these names
_ARGUMENT = re.compile(r"^ {4}((?:\w+(?:, )?)+): (.*)$")
_BACK = {own: name for name, own in _ALIAS.items()}


@dataclass(frozen=True)
class VerbForm:
    """How a verb is asked for.

    Attributes:
        name: of the verb, and of its path.
        results: the models of one result.
        sources: arguments that are images, documents or videos, and whether there may be several.
        documents: the sources are documents or videos, which go to the verb as bytes.
        several: the argument of which a list gives a list of results; None for none.
        typed: types of arguments in JSON, where the verb takes more than JSON can say.
        left_out: arguments that requests cannot have.
        settings: what has the verb's other keyword arguments, where its signature does not name them.
        renamed: arguments that requests have under another name.
        masks: there may be masks in the result.
    """

    name: str
    results: tuple[type[BaseModel], ...]
    sources: Mapping[str, bool] = field(default_factory=dict)
    documents: bool = False
    several: str | None = "image"
    typed: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    settings: type | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    masks: bool = False

    @property
    def path(self) -> str:
        """Where the verb is served."""
        return f"/v1/vision/{self.name}"

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (getattr(VisionAgent, self.name).__doc__ or "").strip().splitlines()[0]

    @property
    def files(self) -> dict[str, bool]:
        """Fields of a form that are files, and whether there may be several."""
        return {self.renamed.get(name, name): several for name, several in self.sources.items()}

    def arguments(self, request: BaseModel) -> dict[str, Any]:
        """Return the verb's keyword arguments that a request gives; its sources are still to be opened."""
        own = {theirs: name for name, theirs in self.renamed.items()}
        named = {_BACK.get(name, name): getattr(request, name) for name in request.model_fields_set if name != "masks"}
        return {own.get(name, name): value for name, value in named.items() if value is not None}


_PHRASES = {"phrase": str | list[str]}
_IMAGES = {"image": True}
_ANSWERED = {"choices": list[str] | None, "max_tiles": int | list[int] | None, "schema": dict[str, Any] | None}
_DOCUMENT_SETTINGS = ("workers", "recogniser", "progress")
VERBS = (
    VerbForm("detect", (Detections,), _IMAGES, typed=_PHRASES),
    VerbForm(
        "segment",
        (Segmentation,),
        _IMAGES,
        typed={
            "phrase": str | list[str] | None,
            "boxes": _LINES | None,
            "points": _LINES | list[_LINES] | None,
            "point_labels": list[int] | list[list[int]] | None,
        },
        left_out=("segmenter",),
        masks=True,
    ),
    VerbForm("point", (Points,), _IMAGES, typed=_PHRASES),
    VerbForm("count", (Count,), _IMAGES),
    VerbForm("track", (Tracks,), {"video": False}, documents=True, several=None, typed=_PHRASES),
    VerbForm(
        "classify",
        (Classification,),
        _IMAGES,
        typed={"labels": list[str], "templates": str | list[str] | None},
    ),
    VerbForm(
        "ocr",
        (OcrResult,),
        {"source": True},
        documents=True,
        several="document",
        left_out=_DOCUMENT_SETTINGS,
        settings=OcrOptions,
        renamed={"source": "document"},
        typed={"engine": str},
    ),
    VerbForm(
        "extract",
        (Extraction,),
        {"document": False},
        documents=True,
        several=None,
        settings=ExtractSettings,
        typed={"schema": dict[str, Any] | None},
    ),
    VerbForm("caption", (Answer,), _IMAGES),
    VerbForm(
        "ask",
        (Answer, DocumentAnswer),
        _IMAGES,
        several="question",
        typed=_ANSWERED,
        left_out=("stream",),
    ),
    VerbForm(
        "run",
        (AgentResult,),
        _IMAGES,
        several="request",
        typed={"routes": list[str] | None},
        left_out=("stream", "store"),
        masks=True,
    ),
    VerbForm("generate", (GeneratedImage,), several="prompt", left_out=("progress",)),
    VerbForm("edit", (GeneratedImage,), {"image": False, "mask": False}, several=None, left_out=("progress",)),
)
"""The verbs that are served."""
LISTS: Mapping[type, type] = {GeneratedImage: GeneratedImages}
"""What several results are where they are no list."""


def request_model(form: VerbForm) -> type[BaseModel]:
    """Return the model of a verb's requests."""
    verb = getattr(VisionAgent, form.name)
    told = _told(verb)
    given: dict[str, Any] = {}
    for name, (kind, default) in _arguments(form, verb).items():
        if name in form.left_out:
            continue
        several = form.sources.get(name)
        if several is not None:
            kind = list[Source] | Source if several else Source
            kind = kind if default is ... else kind | None
        kind = form.typed.get(name, kind)
        shown = form.renamed.get(name, name)
        alias = shown if shown in _ALIAS else None
        given[_ALIAS.get(shown, shown)] = (kind, Field(default, description=told.get(name), alias=alias))
    if form.masks:
        said = "how masks are sent: COCO's run lengths, outlines in pixels, or PNG images"
        given["masks"] = (MaskForm, Field("rle", description=said))
    config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    made: type[BaseModel] = create_model(f"{form.name.capitalize()}Request", __config__=config, **given)
    return made


def _arguments(form: VerbForm, verb: Any) -> dict[str, tuple[Any, Any]]:
    """The types and defaults of a verb's arguments; those without a default must be given."""
    hints = get_type_hints(verb)
    found = {
        name: (hints[name], ... if argument.default is inspect.Parameter.empty else argument.default)
        for name, argument in inspect.signature(verb).parameters.items()
        if name != "self" and argument.kind is not inspect.Parameter.VAR_KEYWORD
    }
    if form.settings is OcrOptions:
        hints = get_type_hints(OcrOptions)
        found |= {each.name: (hints[each.name], each.default) for each in fields(OcrOptions)}
    elif form.settings is not None:
        found |= {name: (kind | None, None) for name, kind in get_type_hints(form.settings).items()}
    return found


def _told(verb: Any) -> dict[str, str]:
    """What a verb's docstring says of its arguments."""
    lines = inspect.cleandoc(verb.__doc__ or "").splitlines()
    told: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Args:") + 1 :] if "Args:" in lines else ():
        if not line.startswith("    "):
            break
        if start := _ARGUMENT.match(line):
            names = start[1].split(", ")
            told |= dict.fromkeys(names, start[2])
        else:
            told |= {name: f"{told[name]} {line.strip()}" for name in names}
    return told
