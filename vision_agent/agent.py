"""`VisionAgent`: what users call."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, overload

import torch
from PIL import Image

from vision_agent.adapter import Route, load_adapter
from vision_agent.arguments import check_phrases, check_request, check_threshold
from vision_agent.backbone import Backbone
from vision_agent.cache import ImageCache, SeenImage
from vision_agent.decoder import DecodeRequest
from vision_agent.errors import InputError, RouteError, bad_argument
from vision_agent.generation import Written, write
from vision_agent.images import ImageLimits, ImageSource, load_image
from vision_agent.results import Answer, Detections, RoutedText
from vision_agent.router import Emitted, read_emitted, read_forced
from vision_agent.routing import emitted_routes

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "default"


class VisionAgent:
    """Sees: finds things by phrase, answers questions, and routes between the two by itself.

    `VisionAgent()` runs the small model that ships with the package; `VisionAgent.from_pretrained(...)` any native
    InternVL checkpoint. One agent may be shared by threads; calls take turns on the model.

    Example:
        >>> agent = VisionAgent()
        >>> agent.detect("red car", "examples/photos/000000142472.jpg", threshold=0.4).labels
        ['red car']
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        attn_implementation: str = "sdpa",
        image_limits: ImageLimits | None = None,
    ) -> None:
        """Load the default model.

        Args:
            device: `"auto"` or a torch device.
            dtype: `"auto"`, `"float32"`, `"bfloat16"` or `"float16"`.
            attn_implementation: `"sdpa"` or `"eager"`.
            image_limits: what pictures are accepted; also whether `https` addresses are fetched.
        """
        backbone = Backbone.from_pretrained(
            DEFAULT_CHECKPOINT,
            device=device,
            dtype=dtype,
            attn_implementation=attn_implementation,
            local_files_only=True,
        )
        self._setup(backbone, _adapter_folders(DEFAULT_CHECKPOINT), image_limits)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        adapters: Sequence[str | Path] = (),
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        attn_implementation: str = "sdpa",
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        image_limits: ImageLimits | None = None,
    ) -> Self:
        """Load a native InternVL checkpoint from a folder or by hub name. No checkpoint code is ever run.

        Args:
            adapters: adapter folders, one a route; those in the checkpoint's own `adapters/` load by themselves.
            cache_dir: folder for downloads.
            local_files_only: never touch the network.

        Raises:
            CheckpointError: the checkpoint or an adapter cannot be loaded.
            AdapterMismatchError: an adapter was trained on another base model.
        """
        backbone = Backbone.from_pretrained(
            name_or_path,
            device=device,
            dtype=dtype,
            attn_implementation=attn_implementation,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        agent = cls.__new__(cls)
        agent._setup(backbone, [*_adapter_folders(Path(name_or_path)), *map(Path, adapters)], image_limits)
        return agent

    def _setup(self, backbone: Backbone, adapters: Sequence[Path], limits: ImageLimits | None) -> None:
        self._backbone = backbone
        self._limits = limits or ImageLimits()
        self._images = ImageCache()
        self._lock = threading.RLock()
        self._routes: dict[str, Route] = {}
        for folder in adapters:
            self.load_adapter(folder)

    @property
    def model(self) -> str:
        """Name of the loaded checkpoint."""
        return self._backbone.name

    @property
    def backbone(self) -> Backbone:
        """The model, its tokenizer and its tiling, for programs that need more than the verbs."""
        return self._backbone

    @property
    def routes(self) -> dict[str, Route]:
        """The loaded routes by name, a copy."""
        return dict(self._routes)

    def load_adapter(self, folder: str | Path) -> str:
        """Add a route from an adapter folder; a route of the same name is replaced. Returns its name."""
        with self._lock:
            route = load_adapter(folder, self._backbone)
            self._routes[route.spec.name] = route
            self._images.clear()
        return route.spec.name

    def clear_cache(self) -> None:
        """Forget all encoded pictures."""
        self._images.clear()

    # Verbs -------------------------------------------------------------------------------------------------------

    @overload
    def detect(
        self, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None
    ) -> Detections: ...

    @overload
    def detect(
        self, phrase: str | Sequence[str], image: list[ImageSource], *, threshold: float | None = None
    ) -> list[Detections]: ...

    def detect(
        self,
        phrase: str | Sequence[str],
        image: ImageSource | Sequence[ImageSource],
        *,
        threshold: float | None = None,
    ) -> Detections | list[Detections]:
        """Find things by phrase.

        Args:
            phrase: what to find, such as `"red car"`; or several phrases, which are asked in one forward pass and do
                not influence each other.
            image: a picture (see `load_image` for the kinds), or a list of pictures.
            threshold: least score, 0-1; None for the value that was best on validation pictures.

        Returns:
            boxes in pixels of the upright original, best first within each phrase; empty if nothing is there. A list
            of pictures gives a list of results.

        Raises:
            InputError: an empty or overlong phrase, a threshold outside 0-1, a picture that cannot be read.
            ArgumentTypeError: swapped arguments, or values of other types.
            RouteError: the loaded checkpoint has no `[DET]` route.
        """
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        route = self._route("det")
        if isinstance(image, list | tuple):
            pictures = [load_image(item, limits=self._limits, name=f"image[{i}]") for i, item in enumerate(image)]
            return [self._detect(route, phrases, picture, threshold) for picture in pictures]
        return self._detect(route, phrases, load_image(image, limits=self._limits), threshold)  # type: ignore[arg-type]

    def force(
        self, route: str, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None
    ) -> Any:
        """Force any loaded route by its name (`"det"` for `[DET]`) and return what its decoder gives.

        The way to a third-party decoder's results; `detect` is this for `"det"`, with a typed result.

        Raises:
            RouteError: no such route is loaded.
            InputError, ArgumentTypeError: as for `detect`.
        """
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        return self._forced(self._route(route), phrases, load_image(image, limits=self._limits), threshold)

    def ask(self, question: str, image: ImageSource, *, max_new_tokens: int = 64) -> Answer:
        """Answer a question about a picture in words. Routing tokens are forbidden: the text is the base model's own.

        Raises:
            InputError: an empty or overlong question, a picture that cannot be read.
            ArgumentTypeError: swapped arguments, or values of other types.
        """
        return self._answer("question", question, image, max_new_tokens, allowed=())

    def run(
        self,
        request: str,
        image: ImageSource,
        *,
        routes: Sequence[str] | None = None,
        max_new_tokens: int = 64,
    ) -> Answer:
        """Let the model decide: it answers in words, or emits routing tokens whose results are in `.routes`.

        Args:
            routes: names of the routes it may take; None for all that are loaded. The others are forbidden.

        Raises:
            RouteError: a name in `routes` is not loaded.
            InputError, ArgumentTypeError: as for `ask`.
        """
        allowed = tuple(self._routes) if routes is None else tuple(routes)
        for name in allowed:
            self._route(name)
        return self._answer("request", request, image, max_new_tokens, allowed=allowed)

    # Inside ------------------------------------------------------------------------------------------------------

    def _route(self, name: str) -> Route:
        if name not in self._routes:
            raise RouteError(
                f"{self.model!r} has no {name!r} route; it has {sorted(self._routes)}. "
                "Load an adapter trained on this checkpoint with `load_adapter(folder)`"
            )
        return self._routes[name]

    def _see(self, picture: Image.Image) -> SeenImage:
        return self._images.get(picture, self._backbone.encode)

    def _prepared(self, seen: SeenImage, route: Route) -> Any:
        if route.spec.name not in seen.prepared:
            with torch.inference_mode():
                maps = seen.encoded.features
                seen.prepared[route.spec.name] = route.decoder.prepare(maps.float())
        return seen.prepared[route.spec.name]

    def _forced(self, route: Route, phrases: tuple[str, ...], picture: Image.Image, threshold: float | None) -> Any:
        with self._lock, torch.inference_mode():
            seen = self._see(picture)
            encoded = seen.encoded
            states_KNC = read_forced(self._backbone, route, encoded.tokens_TC, [len(encoded.tokens_TC)], phrases)
            request = DecodeRequest(phrases, encoded.grid, self.model, threshold)
            return route.decoder.decode(states_KNC.float(), self._prepared(seen, route), request)

    def _detect(
        self, route: Route, phrases: tuple[str, ...], picture: Image.Image, threshold: float | None
    ) -> Detections:
        found = self._forced(route, phrases, picture, threshold)
        if not isinstance(found, Detections):
            raise RouteError(f"the decoder of {route.spec.token!r} gives {type(found).__name__}, not Detections")
        return found

    def _answer(
        self, name: str, text: str, image: ImageSource, max_new_tokens: int, *, allowed: Sequence[str]
    ) -> Answer:
        check_request(name, text, image)
        if not isinstance(max_new_tokens, int) or not 1 <= max_new_tokens <= 8192:
            raise InputError(bad_argument("max_new_tokens", "a whole number from 1 to 8192", max_new_tokens))
        picture = load_image(image, limits=self._limits)
        forbidden = [route.token_id for name, route in self._routes.items() if name not in allowed]
        with self._lock, torch.inference_mode():
            seen = self._see(picture)
            tokens_TC = seen.encoded.tokens_TC
            prompt = self._backbone.prompt_ids(text.strip(), [len(tokens_TC)])
            written = write(self._backbone, [prompt], tokens_TC, max_new_tokens=max_new_tokens, forbidden=forbidden)
            shown, routes = self._read_routes(written, seen)
        answer = written.answers[0]
        return Answer(
            text=shown,
            finish_reason="stop" if answer and answer[-1] in self._backbone.end_ids else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(answer),
            model=self.model,
            routes=tuple(routes),
        )

    def _read_routes(self, written: Written, seen: SeenImage) -> tuple[str, list[RoutedText]]:
        """The answer's text without its tokens, and the result of each routing token, tied to its phrase in it."""
        by_token = {route.token_id: route for route in self._routes.values()}
        answer = [token for token in written.answers[0] if token not in self._backbone.end_ids]
        found = emitted_routes(answer, {token: route.spec for token, route in by_token.items()})
        emitted = [Emitted(0, index, spec.name) for index, spec in found]
        states = read_emitted(
            self._backbone, self._routes, written.cache, written.mask_BP, [written.answers[0]], emitted
        )
        text, routes, begin = "", [], 0
        for item, states_NC in zip(emitted, states, strict=True):
            phrase = self._backbone.decode_text(answer[begin : item.index]).strip()
            begin = item.index + 1
            start = len(text) + 1 if text else 0
            text = f"{text} {phrase}" if text else phrase
            route = self._routes[item.route]
            request = DecodeRequest((phrase or item.route,), seen.encoded.grid, self.model)
            result = route.decoder.decode(states_NC[None].float(), self._prepared(seen, route), request)
            routes.append(
                RoutedText(
                    token=route.spec.token,
                    phrase=phrase,
                    start=start,
                    end=len(text),
                    detections=result if isinstance(result, Detections) else None,
                )
            )
        rest = self._backbone.decode_text(answer[begin:]).strip()
        return (f"{text} {rest}".strip() if rest else text), routes


def _adapter_folders(checkpoint: Path) -> list[Path]:
    folder = checkpoint / "adapters"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
