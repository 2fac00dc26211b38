"""What the verbs of an agent have in common: the parts that `VisionAgent` is put together from."""

from vision_agent.documents.reader import DocumentReader
from vision_agent.extract.extractor import Extractor
from vision_agent.images.loading import ImageLimits
from vision_agent.inference.answering import AnswerPipeline
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.image_generation import ImageGenerator
from vision_agent.inference.predictor import Predictor
from vision_agent.model.backbone import Backbone
from vision_agent.planning.runner import RequestRunner
from vision_agent.routing.adapter import Route


class Parts:
    """The parts, by name. `VisionAgent` makes them."""

    _backbone: Backbone
    _limits: ImageLimits
    _engine: InferenceEngine
    _routes: dict[str, Route]
    _predictor: Predictor
    _pipeline: AnswerPipeline
    _image_generator: ImageGenerator
    _runner: RequestRunner
    _document_reader: DocumentReader
    _extractor: Extractor

    @property
    def model(self) -> str:
        """Name of the loaded checkpoint."""
        return self._backbone.name

    @property
    def backbone(self) -> Backbone:
        """The model, its tokenizer and its tiling, for programs that need more than the verbs."""
        return self._backbone

    @property
    def image_limits(self) -> ImageLimits:
        """What images are accepted."""
        return self._limits

    @property
    def answer_pipeline(self) -> AnswerPipeline:
        """What answers whole conversations, for programs that bring their own history."""
        return self._pipeline

    @property
    def routes(self) -> dict[str, Route]:
        """The loaded routes by name, a copy."""
        return dict(self._routes)
