"""What the verbs of an agent have in common: the parts that `VisionAgent` is put together from."""

from vision_agent.adapter import Route
from vision_agent.answers.answering import Answerer
from vision_agent.answers.finding import Finder
from vision_agent.answers.responder import Responder
from vision_agent.backbone import Backbone
from vision_agent.documents.reading import Librarian
from vision_agent.drawing import Drawer
from vision_agent.extract.engine import Extractor
from vision_agent.images import ImageLimits
from vision_agent.plans.running import RequestRunner


class Parts:
    """The parts, by name. `VisionAgent` makes them."""

    _backbone: Backbone
    _limits: ImageLimits
    _responder: Responder
    _routes: dict[str, Route]
    _finder: Finder
    _answerer: Answerer
    _drawer: Drawer
    _runner: RequestRunner
    _librarian: Librarian
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
        """What pictures are accepted."""
        return self._limits

    @property
    def answerer(self) -> Answerer:
        """What answers whole conversations, for programs that bring their own history."""
        return self._answerer

    @property
    def routes(self) -> dict[str, Route]:
        """The loaded routes by name, a copy."""
        return dict(self._routes)
