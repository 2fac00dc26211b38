"""A cache of recent images: their tokens, feature maps and what decoders prepared of them, bounded by bytes."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from vision_agent.model.backbone import EncodedImage


class CachedImage:
    """An encoded image, its key in the cache, and what decoders prepared of it, by route name.

    The image itself is kept for decoders that read its pixels.
    """

    def __init__(self, encoded: EncodedImage, key: str, image: Image.Image) -> None:
        self.encoded = encoded
        self.key = key
        self.image = image
        self.prepared: dict[str, Any] = {}

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

    Args:
        max_bytes: most bytes that are kept; see `CachedImage.nbytes`.
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._items: OrderedDict[str, CachedImage] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(
        self,
        image: Image.Image,
        encode: Callable[[Image.Image, int | None], EncodedImage],
        max_tiles: int | None = None,
    ) -> CachedImage:
        """Return the image's entry for this bound on its tiles; `encode(image, max_tiles)` runs if there is none."""
        return self.get_all([image], lambda images, most: [encode(image, most) for image in images], max_tiles)[0]

    def get_all(
        self,
        images: Sequence[Image.Image],
        encode: Callable[[Sequence[Image.Image], int | None], Sequence[EncodedImage]],
        max_tiles: int | None = None,
    ) -> list[CachedImage]:
        """Return the entries of several images; `encode` runs once for those that there is none of."""
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
                found[key] = CachedImage(each, key, image)
                self._keep(found[key])
        return [found[key] for key in keys]

    def _keep(self, entry: CachedImage) -> None:
        size = entry.nbytes
        with self._lock:
            if entry.key not in self._items and size <= self._max_bytes:
                self._items[entry.key] = entry
                self._bytes += size
                while self._bytes > self._max_bytes:
                    _, oldest = self._items.popitem(last=False)
                    self._bytes -= oldest.nbytes

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._items.clear()
            self._bytes = 0


def _key(image: Image.Image, max_tiles: int | None) -> str:
    return f"{image.size}{max_tiles}{hashlib.sha256(image.tobytes()).hexdigest()}"
