"""The images of one session: ids, what may be opened by reference, bounds, isolation, threads."""

import base64
import io
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_agent import (
    ImageLimits,
    ImageStore,
    ImageTooLargeError,
    InputError,
    PathRefusedError,
    UnknownImageError,
    UrlRefusedError,
)
from vision_agent.images import store as store_module

SIZE = 32 * 24 * 3


def image(level: int = 0) -> Image.Image:
    return Image.new("RGB", (32, 24), (level, 0, 0))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def data_url(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    image(1).save(folder / "one.png")
    image(2).save(folder / "deep" / "two.png")
    image(3).save(tmp_path / "secret.png")
    return folder


def test_ids_are_short_and_made_of_the_content() -> None:
    store = ImageStore()
    first, second = store.add(image(1)), store.add(image(2))
    assert first != second
    assert first.startswith("img_") and len(first) == 10
    assert store.add(png(image(1))) == first == ImageStore().add(image(1))
    assert len(store) == 2 and set(store.ids) == {first, second}
    stored = store.open(first)
    assert stored.size == (32, 24) and stored.image.getpixel((0, 0)) == (1, 0, 0)
    assert stored.sha256.startswith(first.removeprefix("img_"))


def test_images_of_other_shapes_differ() -> None:
    store = ImageStore()
    assert store.add(Image.new("RGB", (32, 24))) != store.add(Image.new("RGB", (24, 32)))


def test_a_longer_id_where_the_short_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Colliding:
        def __init__(self, begin: bytes) -> None:
            self.pixels = b""

        def update(self, pixels: bytes) -> None:
            self.pixels = pixels

        def hexdigest(self) -> str:
            return "abcdef" + self.pixels[:1].hex() + "0" * 56

    monkeypatch.setattr("vision_agent.images.store.hashlib.sha256", Colliding)
    store = ImageStore()
    assert [store.add(image(level)) for level in (1, 2, 1)] == ["img_abcdef", "img_abcdef02", "img_abcdef"]
    assert store.open("img_abcdef02").image.getpixel((0, 0)) == (2, 0, 0)


def test_paths_under_a_root(root: Path) -> None:
    store = ImageStore(roots=[root])
    stored = store.open("deep/two.png")
    assert stored.image.getpixel((0, 0)) == (2, 0, 0)
    assert store.open(str(root / "deep" / "two.png")).id == stored.id
    assert store.open("deep/../one.png").image.getpixel((0, 0)) == (1, 0, 0)
    assert stored.origin == "the file 'deep/two.png'"


def test_a_link_that_stays_inside(root: Path) -> None:
    (root / "link.png").symlink_to(root / "one.png")
    assert ImageStore(roots=[root]).open("link.png").image.getpixel((0, 0)) == (1, 0, 0)


@pytest.mark.parametrize("reference", ["../secret.png", "deep/../../secret.png", "/etc/hostname", "../nothing.png"])
def test_paths_that_leave_the_roots(root: Path, reference: str) -> None:
    with pytest.raises(PathRefusedError, match="inside the folders of this session"):
        ImageStore(roots=[root]).open(reference)


def test_an_absolute_path_outside(root: Path) -> None:
    with pytest.raises(PathRefusedError):
        ImageStore(roots=[root]).open(str(root.parent / "secret.png"))


def test_links_that_leave_the_roots(root: Path) -> None:
    (root / "file.png").symlink_to(root.parent / "secret.png")
    (root / "folder").symlink_to(root.parent)
    store = ImageStore(roots=[root])
    for reference in ("file.png", "folder/secret.png"):
        with pytest.raises(PathRefusedError):
            store.open(reference)
    assert len(store) == 0


def test_a_root_beside_one_with_a_longer_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    image().save(tmp_path / "ab" / "x.png")
    with pytest.raises(PathRefusedError):
        ImageStore(roots=[tmp_path / "a"]).open("../ab/x.png")


def test_a_missing_file_and_no_roots(root: Path) -> None:
    with pytest.raises(InputError, match=r"there are 'one\.png', but got 'three\.png'"):
        ImageStore(roots=[root]).open("three.png")
    with pytest.raises(InputError, match="path of a file"):
        ImageStore(roots=[root]).open("a\0b.png")
    with pytest.raises(PathRefusedError, match="may not read files by path"):
        ImageStore().open(str(root / "one.png"))


@pytest.mark.parametrize("address", ["file:///etc/passwd", "FILE:/etc/passwd", "http://example.com/a.png", "ftp://x/a"])
@pytest.mark.parametrize("allowed", [False, True])
def test_other_schemes(root: Path, address: str, allowed: bool) -> None:
    # The store refuses it itself, before anything that downloads hears of it.
    with pytest.raises(UrlRefusedError, match="an image id, a path"):
        ImageStore(roots=[root], limits=ImageLimits(allow_urls=allowed)).open(address)


def test_https_is_off_and_never_reaches_private_hosts() -> None:
    with pytest.raises(UrlRefusedError):
        ImageStore().open("https://example.com/a.png")
    store = ImageStore(limits=ImageLimits(allow_urls=True))
    for address in ("https://localhost/a.png", "https://127.0.0.1/a.png", "https://169.254.169.254/latest"):
        with pytest.raises(UrlRefusedError):
            store.open(address)


def test_data_addresses_are_bounded() -> None:
    store = ImageStore(max_data_bytes=20_000)
    stored = store.open(data_url(image(5)))
    assert stored.image.getpixel((0, 0)) == (5, 0, 0) and "base64" not in stored.origin
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8))
    with pytest.raises(ImageTooLargeError):
        store.open(data_url(noise))
    with pytest.raises(ImageTooLargeError, match="50000022 characters; use an image id or a path") as refused:
        ImageStore().open("data:image/png;base64," + "A" * 50_000_000)
    assert len(str(refused.value)) < 300


def test_the_least_recently_used_is_dropped() -> None:
    store = ImageStore(max_bytes=2 * SIZE)
    first, second = store.add(image(1), origin="the cover"), store.add(image(2))
    store.get(first)
    third = store.add(image(3))
    assert set(store.ids) == {first, third} and store.nbytes == 2 * SIZE
    with pytest.raises(UnknownImageError, match="dropped to make room"):
        store.open(second)
    store.add(image(4))
    with pytest.raises(UnknownImageError, match="it was the cover: make or open it again"):
        store.open(first)
    assert store.add(image(1)) == first and first in store


def test_a_image_larger_than_the_store() -> None:
    store = ImageStore(max_bytes=SIZE - 1)
    with pytest.raises(ImageTooLargeError, match=f"takes {SIZE} bytes"):
        store.add(image())
    assert len(store) == 0 and store.nbytes == 0


def test_sessions_do_not_share() -> None:
    mine, other = ImageStore(), ImageStore()
    kept, theirs = mine.add(image(1)), other.add(image(2))
    with pytest.raises(UnknownImageError, match=f"which has {kept}, but got '{theirs}'"):
        mine.open(theirs)
    mine.clear()
    with pytest.raises(UnknownImageError, match="no images yet"):
        mine.open(kept)


@pytest.mark.parametrize("reference", ["", "  ", None, 5])
def test_no_reference(reference: object) -> None:
    with pytest.raises(InputError, match="an image id such as"):
        ImageStore().open(reference)  # type: ignore[arg-type]


def test_bad_settings(tmp_path: Path) -> None:
    for settings in (
        {"roots": str(tmp_path)},
        {"roots": [tmp_path / "none"]},
        {"max_bytes": 0},
        {"max_data_bytes": True},
    ):
        with pytest.raises(InputError, match=next(iter(settings))):
            ImageStore(**settings)  # type: ignore[arg-type]


def test_threads_keep_the_books_right() -> None:
    store = ImageStore(max_bytes=5 * SIZE)
    barrier = threading.Barrier(8)

    def work(seed: int) -> None:
        barrier.wait()
        for step in range(60):
            level = (seed * 7 + step * 3) % 20
            image_id = store.add(image(level))
            try:
                assert store.get(image_id).image.getpixel((0, 0)) == (level, 0, 0)
            except UnknownImageError as error:
                assert "dropped" in str(error)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert store.nbytes == len(store) * SIZE <= 5 * SIZE


@pytest.mark.parametrize(
    "userinfo", ["user:hunter2", "hunter2", "user:hun@hunter2", "user:hunter2/x", "user:hunter2?x"]
)
@pytest.mark.parametrize("scheme", ["https:", "http:", "ftp:", "HTTPS:", ""])
def test_credentials_are_in_no_message(
    root: Path, scheme: str, userinfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for allowed in (False, True):
        store = ImageStore(roots=[root], limits=ImageLimits(allow_urls=allowed))
        with pytest.raises(InputError) as refused:
            store.open(f"{scheme}//{userinfo}@localhost/a.png?key=hunter2#hunter2")
        error: BaseException | None = refused.value
        while error is not None:
            assert "hunter2" not in str(error)
            error = error.__cause__
    assert "hunter2" not in caplog.text


def test_credentials_of_an_address_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored image tells where it came from, also once it was dropped."""
    monkeypatch.setattr(store_module, "load_image", lambda source, **_: image(2) if isinstance(source, str) else source)
    store = ImageStore(limits=ImageLimits(allow_urls=True), max_bytes=SIZE)
    stored = store.open("https://user:hunter2@images.test/a.png?key=hunter2")
    assert stored.origin == "the address https://images.test/a.png" and "hunter2" not in repr(stored)
    store.add(image(1))
    with pytest.raises(UnknownImageError, match=r"it was the address https://images\.test/a\.png: make") as dropped:
        store.get(stored.id)
    assert "hunter2" not in str(dropped.value)


_LOCK = threading.Lock


class Watched:
    """A lock that notes whether it is held."""

    def __init__(self) -> None:
        self.lock, self.held = _LOCK(), False

    def __enter__(self) -> None:
        self.lock.acquire()
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False
        self.lock.release()


def test_everything_shared_is_touched_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the threads' luck: every use of the images and the count of bytes happens while the lock is held."""
    watched: list[Watched] = []

    def lock() -> Watched:
        watched.append(Watched())
        return watched[-1]

    class Items(OrderedDict):  # type: ignore[type-arg]
        touched = 0

        def __getitem__(self, key: object) -> object:
            assert watched[0].held
            Items.touched += 1
            return super().__getitem__(key)

        def __setitem__(self, key: object, value: object) -> None:
            assert watched[0].held
            Items.touched += 1
            super().__setitem__(key, value)

        def __len__(self) -> int:
            assert watched[0].held
            Items.touched += 1
            return super().__len__()

    monkeypatch.setattr(store_module.threading, "Lock", lock)
    store = ImageStore(max_bytes=2 * SIZE)
    monkeypatch.undo()
    store._items = Items()
    for level in (1, 2, 3):
        assert store.get(store.add(image(level))).image.getpixel((0, 0)) == (level, 0, 0)
    assert len(store) == 2 and len(store.ids) == 2 and store.nbytes == 2 * SIZE
    store.clear()
    assert len(watched) == 1 and Items.touched > 8
