"""What a session reads from its folders: one open file, whatever is swapped meanwhile, and what models write for it."""

import base64
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vision_agent import ImageLimits, ImageStore, ImageTooLargeError, InputError, PathRefusedError, UnknownImageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "inner"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    (folder / "a.pdf").write_bytes(b"%PDF-1.4 of ours")
    secret = tmp_path / "secret"
    secret.mkdir()
    Image.new("RGB", (50, 60), "blue").save(secret / "a.png")
    (secret / "a.pdf").write_bytes(b"%PDF-1.4 secret")
    return tmp_path / "root"


def by_link(path: Path, secret: Path) -> None:
    path.unlink()
    path.symlink_to(secret / path.name)


def by_linked_folder(path: Path, secret: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.symlink_to(secret)


def by_linked_root(path: Path, secret: Path) -> None:
    (secret / "inner").mkdir()
    shutil.copy(secret / path.name, secret / "inner")
    shutil.rmtree(path.parents[1])
    path.parents[1].symlink_to(secret)


def by_pipe(path: Path, secret: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def by_folder(path: Path, secret: Path) -> None:
    path.unlink()
    path.mkdir()


def by_nothing(path: Path, secret: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("kind", ["image", "document"])
@pytest.mark.parametrize("swap", [by_link, by_linked_folder, by_linked_root, by_pipe, by_folder, by_nothing])
def test_what_is_swapped_after_the_check_is_not_read(root: Path, swap: Callable[[Path, Path], None], kind: str) -> None:
    class Swapped(ImageStore):
        """Somebody is quick: between the check of a path and its opening."""

        def path(self, reference: str, *, name: str = "document") -> Path:
            found = super().path(reference, name=name)
            swap(found, root.parent / "secret")
            return found

    store = Swapped([root])
    with pytest.raises(InputError, match=f"`{kind}` must be a file"):
        store.open("inner/a.png") if kind == "image" else store.read("inner/a.pdf")
    assert len(store) == 0


def test_what_stays_is_read(root: Path, tmp_path: Path) -> None:
    store = ImageStore([root])
    (root / "near.png").symlink_to(root / "inner" / "a.png")
    (root / "far.png").symlink_to(tmp_path / "secret" / "a.png")
    os.link(tmp_path / "secret" / "a.png", root / "hard.png")
    assert store.open("inner/a.png").size == store.open("near.png").size == (40, 30)
    assert store.open("hard.png").size == (50, 60)  # the file itself, as the documentation says
    with pytest.raises(PathRefusedError, match=r"without '\.\.' and links"):
        store.open("far.png")
    path, data = store.read("inner/a.pdf")
    assert path == root / "inner" / "a.pdf" and data == b"%PDF-1.4 of ours"


def test_files_are_bounded(root: Path) -> None:
    with pytest.raises(
        InputError, match=r"`document` must be a file of at most 10 bytes, but got 'inner/a.pdf with 16'"
    ):
        ImageStore([root], max_document_bytes=10).read("inner/a.pdf")
    with pytest.raises(ImageTooLargeError, match="`image` must be an image file of at most 20 bytes"):
        ImageStore([root], limits=ImageLimits(max_bytes=20)).open("inner/a.png")


def test_a_root_that_vanished(root: Path) -> None:
    store = ImageStore([root])
    kept = store.open("inner/a.png")
    shutil.rmtree(root)
    for read in (store.open, store.read):
        with pytest.raises(InputError, match="there are no files, as 'root' cannot be read any more"):
            read("inner/a.png")
    assert store.open(kept.id) is kept


@pytest.mark.parametrize(
    "roots", [5, None, "photos", [5], [None], ["a\0b"], ["x" * 5000], [b"\xff"], ["no/such/folder"]]
)
def test_roots_that_are_none(roots: Any) -> None:
    with pytest.raises(InputError, match="`roots` must be"):
        ImageStore(roots)


@pytest.mark.parametrize(
    "written", ["{id}", " {id} ", "{upper}", "'{id}'", '"{id}"', "`{id}`", "<{id}>", "vision-agent://images/{id}"]
)
def test_ids_as_models_repeat_them(written: str) -> None:
    store = ImageStore()
    image_id = store.add(Image.new("RGB", (40, 30), "red"))
    assert store.open(written.format(id=image_id, upper=image_id.upper())).id == image_id


@pytest.mark.parametrize("with_root", [True, False])
def test_what_cannot_be_opened_is_explained(root: Path, with_root: bool) -> None:
    plain = base64.b64encode((root / "inner" / "a.png").read_bytes() * 9).decode()
    store = ImageStore([root] if with_root else [])
    with pytest.raises(InputError, match=r"such as 'data:image/png;base64,...', but got '\d+ characters of base64"):
        store.open(plain)
    with pytest.raises(UnknownImageError, match="an image id of this session, which has no images yet"):
        store.open("IMG_00FF00")
    assert store.open("data:image/png;base64," + plain).size == (40, 30)
    for reference in ("\0", "a" * 5000, "~/a.png", "/etc/passwd", "..", "C:\\a.png", "//host/a.png", "a?b=\ud800"):
        with pytest.raises(InputError, match="`image` must be") as refused:
            store.open(reference)
        assert len(str(refused.value)) < 400
