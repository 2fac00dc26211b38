"""Images and documents of requests: the bytes of a form's file, a `data:` address, or a path under the roots."""

import base64
import binascii
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from PIL import Image

from vision_agent.errors import InputError, UrlRefusedError, bad_argument
from vision_agent.images.loading import ImageLimits, load_image
from vision_agent.images.store import ImageStore
from vision_agent.images.video import sample_frames
from vision_agent.serve.options import ServeOptions

Given = str | bytes
"""What a request has for an image or a document."""
_DATA = "data:"


class Sources:
    """Opens what requests refer to. Nothing is remembered from one request to the next.

    Args:
        limits: the agent's own, which are narrowed to the server's.
    """

    def __init__(self, options: ServeOptions, limits: ImageLimits) -> None:
        self._options = options
        self.limits = replace(
            limits, max_pixels=min(limits.max_pixels, options.max_pixels), allow_urls=options.allow_urls
        )

    def image(self, given: Given, name: str) -> Image.Image:
        """Open an image, upright RGB.

        Args:
            name: of the request's field, for errors.

        Raises:
            InputError: what is no image, is too large, or may not be read.
        """
        if isinstance(given, bytes):
            return load_image(given, limits=self.limits, name=name)
        self._check_address(given, name)
        return self._store().open(given, name=name).image

    def frames(self, given: Given, count: int, name: str) -> tuple[Image.Image, ...]:
        """Return so many frames of a video, upright RGB. Raises InputError for what is no video, or is too large."""
        data = self.document(given, name)
        most = self.limits.max_pixels
        return sample_frames(data, segments=count, limits=self.limits, max_pixels=most, name=name).images

    def document(self, given: Given, name: str) -> bytes:
        """Return the bytes of a document. Raises InputError for what is none, or may not be read."""
        if isinstance(given, bytes):
            return given
        self._check_address(given, name)
        if given[: len(_DATA)].lower() == _DATA:
            return _decoded(given, name)
        return self._store().read(given, name=name)[1]

    def _store(self) -> ImageStore:
        most = self._options.max_body_bytes
        return ImageStore(self._options.roots, limits=self.limits, max_data_bytes=most, max_document_bytes=most)

    def _check_address(self, given: str, name: str) -> None:
        start = given[:8].lower()
        if start.startswith(_DATA) or (self._options.allow_urls and start.startswith("https://")):
            return
        if self._options.roots and "://" not in given[:64] and not start.startswith("file:"):
            return
        expected = "a `data:` address" + (" or a path under the server's roots" if self._options.roots else "")
        raise UrlRefusedError(bad_argument(name, expected, given))


def _decoded(address: str, name: str) -> bytes:
    """The bytes of a `data:` address of any media type."""
    head, comma, body = address[len(_DATA) :].partition(",")
    if not comma:
        raise InputError(bad_argument(name, "a `data:` address with a comma before its data", address))
    data = unquote_to_bytes(body)
    if head.rpartition(";")[2].strip().lower() != "base64":
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise InputError(f"{bad_argument(name, 'a `data:` address in base64', address)} ({error})") from None
