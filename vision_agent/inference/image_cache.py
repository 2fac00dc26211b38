"""A cache of recent images: their tokens, feature maps and what decoders prepared of them, bounded by bytes."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from PIL import Image

from vision_agent.errors import ConfigError, bad_argument
from vision_agent.model.backbone import Backbone, EncodedImage
from vision_agent.model.devices import device_memory
from vision_agent.model.tile_bounds import TileBound
from vision_agent.plugins.decoder import DenseFeatures

_Encode = Callable[[Sequence[Image.Image], TileBound], Sequence[EncodedImage]]

_LARGEST_IMAGES = 8  # that the cache has room for by default
_LEAST_BYTES = 256 * 2**20
_SHARE = 16  # of the device's memory, the part that the cache may take by default


def check_image_cache_bytes(image_cache_bytes: int | None) -> None:
    """See that the bound of the cache is one. Raises ConfigError where it is not."""
    if image_cache_bytes is not None and (type(image_cache_bytes) is not int or image_cache_bytes < 0):
        expected = "None or a number of bytes, 0 or more"
        raise ConfigError(bad_argument("image_cache_bytes", expected, image_cache_bytes))


def default_cache_bytes(backbone: Backbone) -> int:
    """Return the bound that goes with a model and its device.

    Room for eight images of the most tiles, at least 256 MiB, but no more than a sixteenth of the device's memory.
    """
    vision, tiling = backbone.model.config.vision_config, backbone.tiling
    cells = (int(vision.image_size[0]) // int(vision.patch_size[0])) ** 2
    values = backbone.tokens_per_tile * backbone.hidden_size + cells * max(backbone.feature_widths)
    tile = 2 * values * backbone.dtype.itemsize + 3 * tiling.size**2
    wanted = _LARGEST_IMAGES * tile * (tiling.max_tiles + tiling.thumbnail)
    return min(max(_LEAST_BYTES, wanted), device_memory(backbone.device) // _SHARE)


class CachedImage:
    """An encoded image, its key in the cache, and what decoders prepared of it, by route name: of one look, or of two.

    The image itself is kept for decoders that read its pixels.
    """

    def __init__(self, encoded: EncodedImage, key: str, image: Image.Image, encode: Callable[[], EncodedImage]) -> None:
        self.encoded = encoded
        self.key = key
        self.image = image
        self.prepared: dict[str, Any] = {}
        self.closer: dict[str, Any] = {}
        self._encode = encode

    def features(self) -> DenseFeatures:
        """Return the feature maps. Where they were not kept the image is encoded again, and they are not kept now."""
        return self.encoded.features if self.encoded.features.maps else self._encode().features

    @property
    def token_marks(self) -> range:
        """A number for each image token, negative (token ids are not), the same for the same image."""
        name = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:5], "big")
        return range(-(name << 22) - 2, -(name << 22) - 2 - len(self.encoded.tokens_TC), -1)

    @property
    def nbytes(self) -> int:
        """Bytes of the features and as much again for what decoders prepare, and of the image."""
        width, height = self.image.size
        return 2 * self.encoded.nbytes + width * height * len(self.image.getbands())


class ImageCache:
    """The most recent images, by content. Safe to share between threads.

    Attributes:
        max_bytes: most bytes that are kept; see `CachedImage.nbytes`.
    """

    def __init__(self, max_bytes: int = _LEAST_BYTES) -> None:
        self.max_bytes = max_bytes
        self._items: OrderedDict[str, CachedImage] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(
        self,
        image: Image.Image,
        encode: Callable[[Image.Image, TileBound], EncodedImage],
        max_tiles: TileBound = None,
        *,
        maps: bool = True,
    ) -> CachedImage:
        """Return the image's entry for this bound on its tiles; `encode(image, max_tiles)` runs if there is none."""
        one: _Encode = lambda images, most: [encode(image, most) for image in images]  # noqa: E731
        return self.get_all([image], one, max_tiles, maps=maps)[0]

    def get_all(
        self,
        images: Sequence[Image.Image],
        encode: _Encode,
        max_tiles: TileBound = None,
        *,
        maps: bool = True,
    ) -> list[CachedImage]:
        """Return the entries of several images; `encode` runs once for those that there is none of.

        Args:
            maps: keep the feature maps of those that are encoded.
        """
        keys = [_key(image, max_tiles) for image in images]
        found: dict[str, CachedImage] = {}
        with self._lock:
            for key in keys:
                if key in self._items:
                    self._items.move_to_end(key)
                    found[key] = self._items[key]
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        if missing:
            encoded = encode(list(missing.values()), max_tiles)
            for (key, image), each in zip(missing.items(), encoded, strict=True):
                kept = each if maps else replace(each, features=DenseFeatures(()))
                found[key] = CachedImage(kept, key, image, partial(_encode_again, encode, image, max_tiles))
                self._keep(found[key])
        return [found[key] for key in keys]

    def _keep(self, entry: CachedImage) -> None:
        size = entry.nbytes
        with self._lock:
            if entry.key not in self._items and size <= self.max_bytes:
                self._items[entry.key] = entry
                self._bytes += size
                while self._bytes > self.max_bytes:
                    _, oldest = self._items.popitem(last=False)
                    self._bytes -= oldest.nbytes

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._items.clear()
            self._bytes = 0


def _encode_again(encode: _Encode, image: Image.Image, max_tiles: TileBound) -> EncodedImage:
    return encode([image], max_tiles)[0]


def _key(image: Image.Image, max_tiles: TileBound) -> str:
    return f"{image.size}{max_tiles}{hashlib.sha256(image.tobytes()).hexdigest()}"
