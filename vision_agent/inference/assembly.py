"""Puts the parts of a loaded model together: what answers, what finds, and the engine below both."""

from collections.abc import Mapping
from typing import NamedTuple

from vision_agent.inference.answering import AnswerPipeline
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.evidence_loop import EvidenceLoop
from vision_agent.inference.object_caption import ObjectCaptioner
from vision_agent.inference.predictor import Predictor
from vision_agent.inference.word_reading import WordReader
from vision_agent.model.backbone import Backbone
from vision_agent.routing.adapter import Route


class AgentParts(NamedTuple):
    """What an agent's verbs hand over to."""

    engine: InferenceEngine
    predictor: Predictor
    pipeline: AnswerPipeline


def assemble(backbone: Backbone, routes: Mapping[str, Route], image_cache_bytes: int | None = None) -> AgentParts:
    """Return the parts for a model that runs here.

    Args:
        routes: by name; those that are loaded later count too.
        image_cache_bytes: as for `InferenceEngine`.
    """
    engine = InferenceEngine(backbone, routes, image_cache_bytes)
    predictor = Predictor(engine, routes)
    pipeline = AnswerPipeline(
        engine,
        routes,
        predictor,
        EvidenceLoop(engine, routes, predictor),
        WordReader(routes, predictor, backbone.name),
        ObjectCaptioner(routes, predictor, backbone.name),
    )
    return AgentParts(engine, predictor, pipeline)
