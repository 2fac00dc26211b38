"""The images of one session, by short ids.

Images never travel as text between a language model and its tools: an image is put here once and goes by an id such
as `img_3f9a2c`. What a model writes is not trusted, so a *reference* from it is one of four: an id of this very
store, a path under a folder that was allowed, a bounded `data:` address, or an https address where those are allowed.
One store belongs to one session, and no store knows of another.
"""

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from PIL import Image

from vision_agent.errors import (
    ImageTooLargeError,
    InputError,
    PathRefusedError,
    UnknownImageError,
    UrlRefusedError,
    bad_argument,
)
from vision_agent.images.addresses import without_secrets
from vision_agent.images.confined_files import read_beneath
from vision_agent.images.image_files import decode_file
from vision_agent.images.limits import CheckedSource, cause
from vision_agent.images.loading import ImageLimits, ImageSource, load_image

ADDRESS = "vision-agent://images/"
"""What the address of a stored image begins with, where a protocol wants addresses; the id follows."""

# As ids are written, and as models repeat them: in capitals, in quotes, or as the address of a resource.
_ID = re.compile(rf"""["'`<]?(?:{ADDRESS})?(img_[0-9a-f]{{6,64}})["'`>]?""", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{64,}={0,2}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_REMEMBERED = 1000  # dropped images whose origin an error can still name
_LISTED = 10  # ids or file names that an error offers


@dataclass(frozen=True)
class StoredImage:
    """An image of a session.

    Attributes:
        id: its name in the store.
        image: upright RGB; shared, so it must not be changed in place.
        sha256: of its size and pixels, hexadecimal.
        origin: where it came from, for people and error messages; never the image itself.
    """

    id: str
    image: Image.Image
    sha256: str
    origin: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), pixels."""
        return self.image.size

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels in memory."""
        return self.image.width * self.image.height * len(self.image.getbands())


class ImageStore:
    """The images of one session. Safe to share between threads and tasks of that session.

    The least recently used images are dropped when `max_bytes` is reached; asking for one of them is an error that
    says where it came from. An id is made of the image's content: the same image has the same id.

    Args:
        roots: folders whose images and documents may be read by path. None are readable without it. Links that lead
            out of them are refused; a hard link is the file itself, wherever else it has a name, and is read.
        limits: what images are accepted; also whether https addresses are fetched.
        max_bytes: of all images held, uncompressed.
        max_data_bytes: of the image in a `data:` address.
        max_document_bytes: of a PDF or another document.

    Raises:
        InputError: a root that is no folder, or a bound below 1.

    Example:
        >>> store = ImageStore(roots=["examples/photos"])
        >>> store.open("000000139872.jpg").size
        (640, 480)
    """

    def __init__(
        self,
        roots: Sequence[str | PathLike[str]] = (),
        *,
        limits: ImageLimits | None = None,
        max_bytes: int = 256 * 2**20,
        max_data_bytes: int = 10 * 2**20,
        max_document_bytes: int = 512 * 2**20,
    ) -> None:
        self.roots = _folders(roots)
        bounds = {"max_bytes": max_bytes, "max_data_bytes": max_data_bytes, "max_document_bytes": max_document_bytes}
        for name, bound in bounds.items():
            if isinstance(bound, bool) or not isinstance(bound, int) or bound < 1:
                raise InputError(bad_argument(name, "a whole number of at least 1", bound))
        if limits is not None and not isinstance(limits, ImageLimits):
            raise InputError(bad_argument("limits", "an ImageLimits", limits))
        self.limits = limits or ImageLimits()
        self.max_bytes = max_bytes
        self.max_data_bytes = max_data_bytes
        self.max_document_bytes = max_document_bytes
        self._items: OrderedDict[str, StoredImage] = OrderedDict()
        self._dropped: OrderedDict[str, str] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    # --- what is there

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, least recently used first."""
        with self._lock:
            return tuple(self._items)

    @property
    def nbytes(self) -> int:
        """Bytes of all images held."""
        with self._lock:
            return self._bytes

    def __len__(self) -> int:
        with self._lock:
            return len(self._items)

    def __contains__(self, image_id: object) -> bool:
        with self._lock:
            return image_id in self._items

    # --- the program's side

    def add(self, image: ImageSource, *, origin: str = "given by the program") -> str:
        """Put an image in and get its id. For programs: `image` is trusted, and may be any that `load_image` takes.

        Raises:
            ImageTooLargeError: one image alone is over `max_bytes`.
            InputError: an image that cannot be read.
        """
        return self._keep(load_image(image, limits=self.limits), origin).id

    def get(self, image_id: str, *, name: str = "image") -> StoredImage:
        """Return the image of an id, which counts as used now.

        Args:
            name: what the caller calls this argument, for error messages.

        Raises:
            UnknownImageError: it was dropped, or was never here; other sessions' ids are never here.
        """
        with self._lock:
            if image_id in self._items:
                self._items.move_to_end(image_id)
                return self._items[image_id]
            origin = self._dropped.get(image_id)
            known = list(self._items)[-_LISTED:]
        if origin is not None:
            raise UnknownImageError(
                f"`{name}` is {image_id!r}, which was dropped to make room (a session holds {self.max_bytes} bytes of "
                f"images); it was {origin}: make or open it again"
            )
        expected = f"an image id of this session, which has {', '.join(reversed(known)) or 'no images yet'}"
        raise UnknownImageError(bad_argument(name, expected, image_id))

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._items.clear()
            self._dropped.clear()
            self._bytes = 0

    # --- the model's side

    def open(self, reference: str, *, name: str = "image") -> StoredImage:
        """Open the image that a language model refers to; one that is new here gets an id.

        Args:
            reference: an id, a path under `roots` (relative ones count from each root in turn), a `data:` address of
                at most `max_data_bytes`, or an https address where `limits.allow_urls` is on.
            name: what the caller calls this argument, for error messages.

        Raises:
            UnknownImageError: no such id here.
            PathRefusedError: a path that leaves `roots`, also by a symbolic link.
            UrlRefusedError: an address that is not fetched.
            ImageError, ImageTooLargeError: an image that cannot be read, or is too large.
            InputError: anything else.
        """
        if not isinstance(reference, str) or not reference.strip():
            raise InputError(bad_argument(name, "an image id such as 'img_3f9a2c', or a path", reference))
        reference = reference.strip()
        if said := _ID.fullmatch(reference):
            return self.get(said[1].lower(), name=name)
        if reference[:5].lower() == "data:":
            # Four characters carry three bytes at best, percent-encoding three for one: this never refuses too much.
            if len(reference) > 4 * self.max_data_bytes + 1024:
                raise self._data_too_large(name, len(reference))
            image = load_image(reference, limits=self._data_limits(), name=name)
            return self._keep(image, "a data: address")
        if _SCHEME.match(reference):
            return self._keep(self._fetched(reference, name), f"the address {_short(without_secrets(reference))}")
        path = self.path(reference, name=name)
        this = CheckedSource(name, f"the file {self._shown(path)!r}", self.limits)
        try:
            data = self._read(path, name, self.limits.max_bytes)
        except OverflowError as error:
            this.check_bytes(int(str(error)))
            raise
        return self._keep(decode_file(data, this), f"the file {self._shown(path)!r}")

    def read(self, reference: str, *, name: str = "document") -> tuple[Path, bytes]:
        """Read the file that a language model refers to, and return its path and its bytes.

        Raises:
            PathRefusedError: it is not under one of `roots`, or is a link by now.
            InputError: there is no such file under them, it cannot be read, or has more than `max_document_bytes`.
        """
        path = self.path(reference, name=name)
        try:
            return path, self._read(path, name, self.max_document_bytes)
        except OverflowError as error:
            expected = f"a file of at most {self.max_document_bytes} bytes"
            raise InputError(bad_argument(name, expected, f"{self._shown(path)} with {error}")) from error

    def path(self, reference: str, *, name: str = "document") -> Path:
        """Return the file that a language model refers to, without any symbolic links. `read` also reads it safely.

        Raises:
            PathRefusedError: it is not under one of `roots`; whether it exists is not told.
            InputError: there is no such file under them.
        """
        if len(reference) > 256 and _BASE64.fullmatch(reference[:4096]):
            expected = "an image id, a path, or a data: address such as 'data:image/png;base64,...'"
            raise InputError(bad_argument(name, expected, f"{len(reference)} characters of base64 without that start"))
        if not self.roots:
            raise PathRefusedError(
                f"`{name}` must be an image id, but got {_short(reference)!r}: this session may not read files by path"
            )
        missing = False
        for root in self.roots:
            try:
                path = (root / reference).resolve()
                inside = path.is_relative_to(root) or any(path.is_relative_to(other) for other in self.roots)
                if inside and path.is_file():
                    return path
            except (OSError, ValueError, RuntimeError) as error:  # a null character, a name too long, a loop of links
                raise InputError(bad_argument(name, "the path of a file", _short(reference))) from error
            missing = missing or inside
        if missing:
            there = self._file_names()
            raise InputError(bad_argument(name, f"a file that exists; there are {there}", _short(reference)))
        raise PathRefusedError(
            bad_argument(name, "a path inside the folders of this session, without '..' and links", _short(reference))
        )

    # --- inside

    def _read(self, path: Path, name: str, most: int) -> bytes:
        """The file's bytes. Raises OverflowError, with their number, where there are too many."""
        root = next(root for root in self.roots if path.is_relative_to(root))
        shown = self._shown(path)
        try:
            return read_beneath(root, path, most)
        except FileNotFoundError as error:
            raise InputError(bad_argument(name, "a file that exists", shown)) from error
        except PermissionError as error:
            raise InputError(f"`{name}` must be a file that this process may read, but got {shown!r}") from error
        except OSError as error:
            expected = "a file that is no link and does not change while it is read"
            raise PathRefusedError(f"{bad_argument(name, expected, shown)}: {cause(error)}") from error

    def _fetched(self, address: str, name: str) -> Image.Image:
        """The guarded download; all that is not https is refused before it looks at anything."""
        if not address.lower().startswith("https://"):
            allowed = "an image id, a path" + (" or an https:// address" if self.limits.allow_urls else "")
            raise UrlRefusedError(bad_argument(name, allowed, _short(without_secrets(address))))
        return load_image(address, limits=self.limits, name=name)

    def _data_limits(self) -> ImageLimits:
        return replace(self.limits, max_bytes=min(self.limits.max_bytes, self.max_data_bytes))

    def _data_too_large(self, name: str, characters: int) -> ImageTooLargeError:
        return ImageTooLargeError(
            f"`{name}` must be a data: address with an image of at most {self.max_data_bytes} bytes, but got "
            f"{characters} characters; use an image id or a path"
        )

    def _keep(self, image: Image.Image, origin: str) -> StoredImage:
        digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
        digest.update(image.tobytes())
        sha = digest.hexdigest()
        size = image.width * image.height * len(image.getbands())
        if size > self.max_bytes:
            raise ImageTooLargeError(
                f"an image of {image.width} x {image.height} pixels takes {size} bytes, but a session holds "
                f"{self.max_bytes}"
            )
        with self._lock:
            image_id = self._free_id(sha)
            if image_id not in self._items:
                self._items[image_id] = StoredImage(image_id, image, sha, origin)
                self._bytes += size
                self._dropped.pop(image_id, None)
            self._items.move_to_end(image_id)
            stored = self._items[image_id]
            while self._bytes > self.max_bytes:
                oldest, gone = self._items.popitem(last=False)
                self._bytes -= gone.nbytes
                self._dropped[oldest] = gone.origin
                while len(self._dropped) > _REMEMBERED:
                    self._dropped.popitem(last=False)
            return stored

    def _free_id(self, sha: str) -> str:
        """The shortest id of at least six digits that no other image has."""
        for digits in range(6, len(sha) + 1, 2):
            image_id = f"img_{sha[:digits]}"
            holder = self._items.get(image_id)
            if holder is None or holder.sha256 == sha:
                return image_id
        raise AssertionError("two images have the same SHA-256")

    def _shown(self, path: Path) -> str:
        root = next(root for root in self.roots if path.is_relative_to(root))
        return path.relative_to(root).as_posix()

    def _file_names(self) -> str:
        names: list[str] = []
        gone: list[str] = []
        for root in self.roots:
            try:
                names += [entry.name for entry in root.iterdir() if entry.is_file()]
            except OSError:
                gone.append(root.name)
        if gone and not names:
            return f"no files, as {', '.join(map(repr, gone))} cannot be read any more"
        names.sort()
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return ", ".join(map(repr, names[:_LISTED])) + more if names else "no files"


def _folders(roots: object) -> tuple[Path, ...]:
    """The folders, without links. Raises InputError for anything but a list of folders that exist."""
    if isinstance(roots, str | PathLike) or not isinstance(roots, Iterable):
        raise InputError(bad_argument("roots", "a list of folders", roots))
    found = []
    for root in roots:
        try:
            folder = Path(root).resolve()
            is_folder = folder.is_dir()
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            raise InputError(bad_argument("roots", "folders that exist", root)) from error
        if not is_folder:
            raise InputError(bad_argument("roots", "folders that exist", str(root)))
        found.append(folder)
    return tuple(found)


def _short(text: str) -> str:
    if re.match(r"//[^@]*@", text):  # an address without its scheme, which is refused as a path
        return "//..."
    return text if len(text) <= 80 else text[:60] + "..."
