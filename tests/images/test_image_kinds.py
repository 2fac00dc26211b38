"""What else people have as images: new formats, values in wider types, and files that ask for endless work."""

import io
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vision_agent import ImageError, ImageLimits, ImageTooLargeError, MissingExtraError, load_image
from vision_agent.images.decoding_memory import MEMORY
from vision_agent.images.regular_files import open_regular

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "000000139872.jpg"


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def grey() -> Image.Image:
    return Image.open(PHOTO).convert("L").resize((96, 72))


# --- formats


@pytest.mark.parametrize(
    ("kind", "options"), [("AVIF", {"quality": 90}), ("JPEG2000", {}), ("JPEG2000", {"no_jp2": True})]
)
def test_new_formats_show_the_photo(kind: str, options: dict[str, Any]) -> None:
    photo = Image.open(PHOTO).resize((160, 120))
    shown = np.asarray(load_image(encode(photo, kind, **options)), np.int16)
    assert np.abs(shown - np.asarray(photo, np.int16)).mean() < 4


def test_avif_is_turned_upright() -> None:
    photo = Image.open(PHOTO).resize((160, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(encode(photo, "AVIF", exif=exif)).size == (120, 160)


def test_heic_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(MissingExtraError, match=r'pip install "internvl-vision-agent\[heic\]"'):
        load_image(b"\0\0\0\x20ftypheic" + bytes(40))


# --- values


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_8_bit_values_in_a_wider_mode_are_no_darker(mode: str, grey: Image.Image) -> None:
    """What `convert` makes of a grey image: its values stay as they are."""
    wide = grey.convert(mode)
    assert np.array_equal(np.asarray(load_image(wide))[..., 0], np.asarray(grey))


@pytest.mark.parametrize("dtype", [np.uint16, np.dtype(">u2")])
def test_8_bit_values_in_wide_arrays_are_no_darker(dtype: Any, grey: Image.Image) -> None:
    assert np.array_equal(np.asarray(load_image(np.asarray(grey).astype(dtype)))[..., 1], np.asarray(grey))


def test_one_value_over_8_bits_makes_it_16(grey: Image.Image) -> None:
    values = np.asarray(grey).astype(np.uint16)
    values[0, 0] = 300
    assert np.asarray(load_image(values)).max() == 1


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "1", "P"])
def test_other_modes_show_the_photo(mode: str) -> None:
    photo = Image.open(PHOTO).resize((96, 72))
    source = photo.convert("LA" if mode == "La" else "RGBA" if mode == "RGBa" else mode) if mode != "PA" else photo
    source = photo.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    shown = np.asarray(load_image(source).convert("L").reduce(12), np.int16)
    assert source.mode == mode and np.abs(shown - np.asarray(photo.convert("L").reduce(12), np.int16)).mean() < 12


def test_float_values_a_little_outside_are_clipped() -> None:
    """Such as a resize with a sharp filter leaves: Pillow's own, of a photo from 0 to 1."""
    unit = np.asarray(Image.open(PHOTO).convert("L"), np.float32) / 255
    sharp = np.asarray(Image.fromarray(unit).resize((97, 61), Image.Resampling.LANCZOS))
    sharp = np.where(sharp == sharp.max(), np.float32(1.0004), sharp)
    sharp[0, 0] = -0.03
    shown = np.asarray(load_image(sharp))[..., 0]
    assert np.array_equal(shown, np.rint(np.clip(sharp, 0, 1) * 255).astype(np.uint8))


# --- work and memory


def with_scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    whole = encode(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def test_scans_are_counted_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_image(with_scans(20)).size == (64, 64)
    assert load_image(encode(Image.open(PHOTO), "JPEG", progressive=True)).size == (640, 480)
    from PIL import JpegImagePlugin

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", None)
    with pytest.raises(ImageTooLargeError, match="at most 100 scans"):
        load_image(with_scans(3000))
    with pytest.raises(ImageTooLargeError, match="89 scans of 5000 x 5000 pixels"):
        load_image(with_scans(80, 5000))


def test_the_scans_of_a_thumbnail_are_not_the_images() -> None:
    """A whole JPEG in a segment, as cameras write it."""
    photo = encode(Image.open(PHOTO), "JPEG")
    held = with_scans(700)
    segment = b"\xff\xe5" + struct.pack(">H", len(held) + 2) + held
    assert load_image(photo[:2] + segment + photo[2:]).size == (640, 480)


def test_parts_without_end_are_refused_at_once() -> None:
    jpeg = encode(Image.new("RGB", (16, 16)), "JPEG")
    with pytest.raises(ImageTooLargeError, match="100000 segments"):
        load_image(jpeg[:2] + b"\xff\xfe\x00\x02" * 200_000 + jpeg[2:])
    png = encode(Image.new("RGB", (16, 16)), "PNG")
    chunk = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    with pytest.raises(ImageTooLargeError, match="100000 chunks"):
        load_image(png[:33] + chunk * 200_000 + png[33:])


def test_decodes_wait_for_each_other_s_memory() -> None:
    """With room for one, the second begins when the first is done; what is too large for the room goes alone."""
    data = encode(Image.new("RGB", (400, 300)), "PNG")
    limits = ImageLimits(max_decoding_bytes=1_000_000)
    done = threading.Event()

    def load() -> None:
        load_image(data, limits=limits)
        done.set()

    with MEMORY.held(500_000, 1_000_000):
        thread = threading.Thread(target=load)
        thread.start()
        assert not done.wait(0.2)
        assert load_image(encode(Image.new("RGB", (50, 40)), "PNG"), limits=limits).size == (50, 40)
    thread.join()
    assert done.is_set() and MEMORY._taken == 0
    assert load_image(data, limits=ImageLimits(max_decoding_bytes=1)).size == (400, 300)


@pytest.mark.parametrize("broken", [b"\x89PNG\r\n\x1a\n" + bytes(30), b"\xff\xd8\xff" + bytes(30)])
def test_a_broken_image_gives_its_memory_back(broken: bytes) -> None:
    with pytest.raises(ImageError):
        load_image(broken)
    assert MEMORY._taken == 0


def test_an_opened_file_is_the_one_that_was_checked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    with open_regular(tmp_path / "a") as file:
        assert file.read() == b"one"
    with pytest.raises(OSError, match="a folder"):
        open_regular(tmp_path)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular("/dev/null")
