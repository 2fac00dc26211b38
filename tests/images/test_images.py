"""`load_image`: real files of every format, arrays and tensors, and every way in which they can be bad."""

import base64
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from vision_agent.errors import (
    ArgumentTypeError,
    ImageError,
    ImageTooLargeError,
    InputError,
    UnsupportedImageError,
    UrlRefusedError,
)
from vision_agent.images.loading import FORMATS, ImageLimits, load_image

U8 = npt.NDArray[np.uint8]
ORIENTATION = 0x0112


def quarters(width: int = 48, height: int = 32) -> U8:
    """Four corners of different colours, so that every turn and flip shows, also after JPEG compression."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 0)
    return pixels


def noise(height: int = 20, width: int = 24, channels: int = 3) -> U8:
    return np.random.default_rng(7).integers(0, 256, (height, width, channels), np.uint8)


HEIC = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004eZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O6l0RRC2"
    "00001pa1~?00000002G!001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002|X>f9I0002oX>en20001WXm(>m0RwOV"
    "0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDDMA4O18@KU0|1Z!00RI30{|YNAb|yz>aLpR;31&EfB*mtfB*mk"
    "0EA)y0RRR>0l{;@i2wiq6Ju{|a&BX6cmM$a4FCp!0000KX>)L8000000000$0000$0000eV{Bn?0000G000010000G00001|NsBc00002|NsBc00002"
    "0000GaA|mH000000|*ER0000OX>e^}0000000001009Mo0s{qv0000+ZDe6|0000wC;_ht$XyuFBbb)|p#Jw2|Mp*uRCT`ug?IRA_iN|W;wC!tl?(UO"
    "*hJ{dhO;tdfGMHC+qQ$K(F6"
)
"""16 x 16, blue on the left and red on the right, by x265: nothing here can write one."""


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    if kind == "HEIF":
        return HEIC
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(image: Image.Image) -> U8:
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    return np.asarray(image)


def assert_close(image: Image.Image, expected: U8, tolerance: int = 12) -> None:
    got = pixels(image)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= tolerance


def stored(upright: U8, orientation: int) -> U8:
    """The pixels that a camera stores with this orientation, by the table of the EXIF standard (row 0, column 0)."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    return np.ascontiguousarray(turned)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and brings next to no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the image was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    monkeypatch.setattr(Image.Image, "load", fail)
    for plugin in ("WebPImagePlugin.WebPImageFile", "TiffImagePlugin.TiffImageFile"):
        monkeypatch.setattr(f"PIL.{plugin}.load", fail)


# --- Kinds of sources ---


@pytest.mark.parametrize(
    "kind", ["str", "path", "bytes", "bytearray", "memoryview", "file", "bytesio", "data", "escaped"]
)
def test_every_way_to_pass_a_file_gives_the_same_pixels(kind: str, tmp_path: Path) -> None:
    data = encode(Image.fromarray(noise()), "PNG")
    path = tmp_path / "ünïcode 图.bin"  # the name says nothing about the format
    path.write_bytes(data)
    with open(path, "rb") as file:
        sources: dict[str, Any] = {
            "str": str(path),
            "path": path,
            "bytes": data,
            "bytearray": bytearray(data),
            "memoryview": memoryview(data),
            "file": file,
            "bytesio": io.BytesIO(data),
            "data": "data:image/png;base64," + base64.b64encode(data).decode(),
            "escaped": "data:," + quote(data),
        }
        assert np.array_equal(pixels(load_image(sources[kind])), noise())


def test_a_file_object_is_read_from_where_it_is() -> None:
    data = encode(Image.fromarray(noise()), "PNG")
    file = io.BytesIO(b"before" + data)
    file.seek(6)
    assert np.array_equal(pixels(load_image(file)), noise())
    with pytest.raises(ImageError, match="which is empty"):
        load_image(file)  # at its end now


def test_a_file_object_may_give_less_than_was_asked_for() -> None:
    class Slow:
        def __init__(self, data: bytes) -> None:
            self.inner = io.BytesIO(data)

        def read(self, size: int, /) -> bytes:
            return self.inner.read(min(size, 7))

    assert np.array_equal(pixels(load_image(Slow(encode(Image.fromarray(noise()), "PNG")))), noise())


@pytest.mark.parametrize("data_url", ["data:image/png;charset=x;base64,{}", "DATA:;BASE64,{}", "data:;base64,{}"])
def test_data_url_forms(data_url: str) -> None:
    text = base64.b64encode(encode(Image.fromarray(noise()), "PNG")).decode()
    for body in (text, text.rstrip("="), quote(text, safe=""), "\n".join((text[:50], text[50:]))):
        assert np.array_equal(pixels(load_image(data_url.format(body))), noise())


LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}, "PPM": {}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    assert np.array_equal(pixels(load_image(encode(Image.fromarray(noise()), kind, **LOSSLESS[kind]))), noise())


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95, "subsampling": 0}), ("GIF", {})])
def test_lossy_formats_come_close(kind: str, options: dict[str, Any]) -> None:
    assert_close(load_image(encode(Image.fromarray(quarters()), kind, **options)), quarters(), tolerance=40)


def test_lossy_webp() -> None:
    assert_close(
        load_image(encode(Image.new("RGB", (16, 16), (200, 30, 90)), "WEBP")),
        np.full((16, 16, 3), (200, 30, 90), np.uint8),
    )


def test_the_first_image_of_an_mpo_is_the_image() -> None:
    other = Image.new("RGB", (48, 32), "black")
    data = encode(Image.fromarray(quarters()), "MPO", save_all=True, append_images=[other], quality=95, subsampling=0)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "MPO"
    assert_close(load_image(data), quarters(), tolerance=40)
    with pytest.raises(UnsupportedImageError, match="in the format MPO"):
        load_image(data, limits=ImageLimits(formats=("JPEG",)))


def test_the_annotations_can_be_resolved() -> None:
    assert get_type_hints(load_image)["return"] is Image.Image


def test_torch_is_not_imported_for_a_file() -> None:
    code = (
        "import sys, vision_agent.images.loading as i; from PIL import Image;"
        "i.load_image(Image.new('L', (9, 9))); assert not {'torch', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# --- Orientation ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_exif_orientation_is_applied(kind: str, orientation: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind in ("JPEG", "MPO") else {}
    if kind == "WEBP":
        options = {"lossless": True}
    if kind == "MPO":
        options |= {"save_all": True, "append_images": [Image.new("RGB", (48, 32))]}
    data = encode(Image.fromarray(stored(quarters(), orientation)), kind, exif=exif(orientation), **options)
    path = tmp_path / "picture"
    path.write_bytes(data)
    opened = Image.open(io.BytesIO(data))
    for source in (data, path, io.BytesIO(data), opened):
        assert_close(load_image(source), quarters(), tolerance=40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_turned_and_left_alone(orientation: int) -> None:
    image = Image.fromarray(stored(quarters(), orientation))
    image.info["exif"] = exif(orientation).tobytes()
    before, info = image.tobytes(), dict(image.info)
    upright = load_image(image)
    assert np.array_equal(pixels(upright), quarters())
    assert (image.tobytes(), image.info) == (before, info)
    assert np.array_equal(pixels(load_image(upright)), quarters())  # not turned a second time


def test_orientation_in_xmp_counts_too() -> None:
    image = Image.fromarray(stored(quarters(), 6))
    image.info["xmp"] = b'<rdf:Description tiff:Orientation="6"/>'
    assert np.array_equal(pixels(load_image(image)), quarters())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_modes_are_turned_too(mode: str) -> None:
    image = Image.new("L", (20, 30), 0)
    image.paste(255, (0, 0, 20, 10))  # white at the top of what is stored, which orientation 6 puts on the right
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(image).astype(np.float32) / 255)
    else:
        image = image.convert(mode)
    image.info["exif"] = exif(6).tobytes()
    got = pixels(load_image(image))
    assert got.shape == (20, 30, 3)
    assert got[:, 20:].min() == 255
    assert got[:, :20].max() == 0


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("broken", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"junk" * 9])
def test_broken_exif_does_not_matter(broken: bytes) -> None:
    image = Image.fromarray(quarters())
    image.info["exif"] = broken
    assert np.array_equal(pixels(load_image(image)), quarters())
    assert np.array_equal(pixels(load_image(encode(Image.fromarray(quarters()), "PNG", exif=broken))), quarters())


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_upright(orientation: int) -> None:
    data = encode(Image.fromarray(quarters()), "PNG", exif=exif(orientation))
    assert np.array_equal(pixels(load_image(data)), quarters())


# --- Modes ---


def test_the_result_is_a_copy_without_metadata() -> None:
    image = Image.fromarray(noise())
    image.info["exif"] = exif(1).tobytes()
    result = load_image(image)
    result.paste(0, (0, 0, 24, 20))
    assert np.array_equal(np.asarray(image), noise())
    assert result.info == {}


def test_alpha_is_blended_onto_white() -> None:
    rgba = noise(channels=4)
    rgba[0, 0] = (10, 20, 30, 0)
    rgba[0, 1] = (10, 20, 30, 255)
    colour, alpha = rgba[..., :3].astype(float), rgba[..., 3:].astype(float) / 255
    expected = np.rint(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)
    for source in (Image.fromarray(rgba), encode(Image.fromarray(rgba), "PNG"), rgba, torch.from_numpy(rgba)):
        result = load_image(source)
        assert_close(result, expected, tolerance=1)
        assert result.getpixel((0, 0)) == (255, 255, 255)
        assert result.getpixel((1, 0)) == (10, 20, 30)


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBa", "La"])
def test_other_alpha_modes(mode: str) -> None:
    image = Image.new("LA", (16, 16), (0, 0))
    image.paste((0, 255), (0, 0, 8, 16))
    if mode in ("RGBa", "PA"):  # Pillow has no way there from LA, or one that loses the alpha
        image = image.convert("RGBA")
    got = pixels(load_image(image if mode == "LA" else image.convert(mode)))
    assert got[:, :8].max() == 0
    assert got[:, 8:].min() == 255


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_entry(kind: str) -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.paste(1, (0, 0, 8, 16))
    for source in (encode(image, kind, transparency=0), Image.open(io.BytesIO(encode(image, kind, transparency=0)))):
        got = pixels(load_image(source))
        assert (got[:, :8] == (200, 0, 0)).all()
        assert (got[:, 8:] == 255).all()


def test_a_palette_with_half_transparent_entries_is_left_alone() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.info["transparency"] = bytes([0, 128])
    assert load_image(image).getpixel((3, 3)) == (227, 127, 127)
    assert image.palette is not None
    assert (image.palette.mode, image.im.getpalettemode()) == ("RGB", "RGB")


def test_a_palette_without_transparency() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 1, 2, 3])
    assert load_image(encode(image, "BMP")).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize(("mode", "clear", "shown"), [("RGB", (9, 8, 7), (1, 2, 3)), ("L", 9, 3), ("1", 0, 1)])
def test_a_transparent_colour(mode: str, clear: Any, shown: Any) -> None:
    image = Image.new(mode, (16, 16), clear)
    image.paste(shown, (0, 0, 8, 16))
    result = load_image(encode(image, "PNG", transparency=clear))
    assert result.getpixel((12, 3)) == (255, 255, 255)
    expected = {"RGB": (1, 2, 3), "L": (3, 3, 3), "1": (255, 255, 255)}[mode]
    assert result.getpixel((3, 3)) == expected


def ramp_16() -> npt.NDArray[np.uint16]:
    """Both ends and values between the steps of 257, where rounding shows."""
    return np.append(np.arange(0, 65535, 257) + np.arange(255), 65535).astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "pil", "I", "numpy", "big-endian", "torch"])
def test_16_bit_grey_is_scaled(kind: str) -> None:
    wide = ramp_16()
    sources: dict[str, Any] = {
        "pil": Image.fromarray(wide),
        "I": Image.fromarray(wide.astype(np.int32)),
        "numpy": wide,
        "big-endian": wide.astype(">u2"),
        "torch": torch.from_numpy(wide),
    }
    source = sources[kind] if kind in sources else encode(Image.fromarray(wide), kind)
    got = pixels(load_image(source))
    assert np.array_equal(got[..., 0], np.rint(wide / 257).astype(np.uint8))
    assert np.array_equal(got[..., 0], got[..., 2])


def test_16_bit_grey_with_a_transparent_value() -> None:
    wide = ramp_16()
    data = encode(Image.fromarray(wide), "PNG")
    value = int(wide[3, 3])
    body = b"tRNS" + struct.pack(">H", value)
    at = data.index(b"IDAT") - 4
    data = data[:at] + struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body)) + data[at:]
    got = pixels(load_image(data))
    assert got[3, 3, 0] == 255
    assert got[0, 0, 0] == 0


@pytest.mark.parametrize("values", [(-1, 5), (0, 65536)])
def test_more_than_16_bits_is_refused(values: tuple[int, int]) -> None:
    image = Image.fromarray(np.resize(np.array(values, np.int32), (16, 16)))
    with pytest.raises(ImageError, match=r"at most 16 bits.*values from"):
        load_image(image)


def test_float_images() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    for source in (Image.fromarray(values), encode(Image.fromarray(values), "TIFF")):
        assert np.array_equal(pixels(load_image(source))[..., 0].ravel(), np.arange(256))
    with pytest.raises(ImageError, match="values from 0 to 1"):
        load_image(encode(Image.fromarray(values * 2), "TIFF"))


@pytest.mark.parametrize("source", ["file", "pil"])
def test_cmyk(source: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    result = load_image(encode(image, "JPEG", quality=95) if source == "file" else image)
    assert_close(result, np.full((16, 16, 3), (255, 0, 0), np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "YCbCr", "HSV", "LAB", "RGBX"])
def test_other_modes(mode: str) -> None:
    image = Image.new("RGB", (16, 16), "white").convert(mode)
    assert_close(load_image(image), np.full((16, 16, 3), 255, np.uint8), tolerance=1)


# --- Arrays and tensors ---


@pytest.mark.parametrize("shape", [(12, 14), (12, 14, 1), (12, 14, 3)])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64", "bfloat16"])
def test_array_dtypes_and_shapes(shape: tuple[int, ...], library: str, dtype: str) -> None:
    if (library, dtype) == ("numpy", "bfloat16"):
        pytest.skip("numpy has no bfloat16")
    values = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    source: Any = torch.from_numpy(values)
    if dtype == "uint16":
        source = torch.from_numpy(values.astype(np.uint16) * np.uint16(257))
    elif dtype != "uint8":
        source = (source.double() / 255).to(getattr(torch, dtype))
    if library == "numpy":
        source = source.numpy()
    expected = np.broadcast_to(values.reshape(12, 14, -1), (12, 14, 3))
    assert_close(load_image(source), expected, tolerance=1 if dtype == "bfloat16" else 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tensor_with_channels_first(channels: int) -> None:
    values = noise(channels=channels)
    first = torch.from_numpy(values).permute(2, 0, 1)
    assert np.array_equal(pixels(load_image(first)), pixels(load_image(values)))
    assert np.array_equal(pixels(load_image(first.contiguous())), pixels(load_image(values)))


def test_tensor_subclasses_and_gradients() -> None:
    values = torch.rand(3, 12, 14)
    expected = pixels(load_image(values))
    assert np.array_equal(pixels(load_image(torch.nn.Parameter(values))), expected)
    assert np.array_equal(pixels(load_image(values.clone().requires_grad_() * 1)), expected)


def test_views_and_read_only_arrays() -> None:
    values = noise()
    assert np.array_equal(pixels(load_image(values[..., ::-1])), values[..., ::-1])
    assert np.array_equal(pixels(load_image(values[::-1, ::2])), values[::-1, ::2])
    fixed = values.copy()
    fixed.flags.writeable = False
    result = load_image(fixed)
    result.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(fixed, values)


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_every_kind_of_array_gives_the_same_image(height: int, width: int, channels: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    expected = np.broadcast_to(values, (height, width, 3))
    tensor = torch.from_numpy(values)
    for source in (values, values / 255, tensor, tensor.permute(2, 0, 1), tensor.permute(2, 0, 1) / 255):
        assert np.array_equal(pixels(load_image(source)), expected)


Z = np.zeros
BAD_ARRAYS: list[tuple[Any, str]] = [
    (Z((2, 16, 16, 3), np.uint8), "is a batch; pass one of them"),
    (torch.zeros(1, 3, 16, 16), "is a batch; pass one of them"),
    (Z((3, 16, 16), np.uint8), "channels first; pass np.moveaxis"),
    (Z((16, 16, 2), np.uint8), "which is another shape"),
    (Z((16,), np.uint8), "which is another shape"),
    (Z((), np.uint8), "which is another shape"),
    (Z((0, 16, 3), np.uint8), "at least one pixel"),
    (Z((16, 0), np.float32), "at least one pixel"),
    (torch.zeros(3, 0, 16), "at least one pixel"),
    (torch.zeros(16), "2 or 3 dimensions"),
    (torch.zeros(()), "2 or 3 dimensions"),
    (torch.zeros(2, 16, 16), "which is another shape"),
    (torch.zeros(3, 16, 4), "could be read both ways"),
    (Z((16, 16, 3), np.int64), "not known; convert it"),
    (Z((16, 16, 3), np.int8), "not known; convert it"),
    (Z((16, 16, 3), np.uint32), "not known; convert it"),
    (Z((16, 16, 3), np.complex64), "not known; convert it"),
    (Z((16, 16), object), "not known; convert it"),
    (Z((16, 16), "U3"), "not known; convert it"),
    (Z((16, 16), bool), "may be a mask"),
    (torch.zeros(16, 16, dtype=torch.int64), "not known; convert it"),
    (torch.zeros(16, 16, dtype=torch.complex64), "not known; convert it"),
    (torch.zeros(16, 16, dtype=torch.bool), "may be a mask"),
    (torch.zeros(16, 16, dtype=torch.float8_e4m3fn), "not known; convert it"),
    (torch.zeros(16, 16).to_sparse(), "sparse"),
    (torch.zeros(16, 16, device="meta"), "meta device"),
    (np.full((16, 16), np.nan), "NaN or infinity"),
    (np.full((16, 16), np.inf, np.float16), "NaN or infinity"),
    (np.where(np.eye(16) > 0, -np.inf, 0.5), "NaN or infinity"),
    (torch.full((3, 16, 16), float("nan"), dtype=torch.bfloat16), "NaN or infinity"),
    (np.full((16, 16), 200.0), "200 to 200; divide it by 255"),
    (torch.randn(3, 16, 16) * 3, "undo its normalisation"),
    (np.full((16, 16), -0.2), "undo its normalisation"),
    (np.full((16, 16), 1.2), "1.2 to 1.2; clip it to 0 and 1"),
    (np.full((16, 16), 300.0), "300 to 300; divide it by 65535"),
]


@pytest.mark.parametrize(("source", "match"), BAD_ARRAYS)
def test_bad_arrays(source: Any, match: str) -> None:
    with pytest.raises(ImageError, match=match) as caught:
        load_image(source, name="photo")
    assert str(caught.value).startswith("`photo` must be ")
    assert f"shape {tuple(source.shape)} and dtype" in str(caught.value)


def test_an_array_over_the_limit_is_not_converted() -> None:
    huge = np.broadcast_to(np.float64(0.5), (20_000, 20_000, 3))  # one value in memory, 10 GB if it were copied
    with pytest.raises(ImageTooLargeError, match="20000 x 20000 pixels, 400000000 in all"):
        load_image(huge)
    with pytest.raises(ImageTooLargeError, match=r"limits\.max_pixels"):
        load_image(torch.tensor(0.5).expand(3, 20_000, 20_000))


# --- Limits ---


@pytest.mark.parametrize("way", ["path", "bytes", "file", "pil"])
@pytest.mark.usefixtures("no_decoding")
def test_a_bomb_is_refused_from_its_header(way: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    data = png_header(20_000, 10_000)
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    source: Any = {"path": path, "bytes": data, "file": io.BytesIO(data)}.get(way)
    if way == "pil":
        source = Image.new("1", (1, 1))
        source._size = (20_000, 10_000)  # Pillow itself refuses to open it
    with pytest.raises(ImageTooLargeError, match=r"20000 x 10000 pixels, 200000000 in all") as caught:
        load_image(source)
    assert "`limits.max_pixels`" in str(caught.value)
    assert not recwarn.list


def webp_header(kind: bytes, width: int, height: int) -> bytes:
    body = {
        b"VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        b"VP8L": b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little"),
        b"VP8 ": b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", width, height),
    }[kind]
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


HEADERS = {
    "PNG": png_header(16_000, 16_000),
    "GIF": b"GIF89a" + struct.pack("<HH", 16_000, 16_000) + bytes(20),
    "VP8X": webp_header(b"VP8X", 16_000, 16_000),
    "VP8L": webp_header(b"VP8L", 16_000, 16_000),
    "VP8": webp_header(b"VP8 ", 16_000, 16_000),
    "BMP": encode(Image.new("L", (9, 9)), "BMP").replace(struct.pack("<ii", 9, 9), struct.pack("<ii", 16_000, 16_000)),
    "PPM": b"P6 16000 16000 255\n",
    "JPEG": encode(Image.new("L", (9, 9)), "JPEG").replace(b"\0\x09\0\x09", struct.pack(">HH", 16_000, 16_000)),
    "TIFF": encode(Image.new("L", (9, 9)), "TIFF").replace(b"\x09\0\0\0", struct.pack("<I", 16_000)),
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.usefixtures("no_decoding")
def test_every_format_is_measured_before_it_is_decoded(kind: str) -> None:
    with pytest.raises(ImageTooLargeError, match="16000 x 16000 pixels, 256000000 in all"):
        load_image(HEADERS[kind])


@pytest.mark.parametrize("kind", ["VP8L", "VP8"])
def test_webp_sizes_agree_with_pillow(kind: str) -> None:
    data = encode(Image.new("RGB", (301, 123)), "WEBP", lossless=kind == "VP8L")
    assert data[12:16].strip() == kind.encode()
    with pytest.raises(ImageTooLargeError, match="301 x 123"):
        load_image(data, limits=ImageLimits(max_pixels=9))


def test_memory_stays_small_for_a_bomb(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from vision_agent import ImageError, load_image\n"
        "data = Path(sys.argv[1]).read_bytes()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load_image(data)\n"
        "except ImageError: pass\n"
        "else: sys.exit('loaded')\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000"  # kilobytes on Linux
    )
    pytest.importorskip("resource")
    root = Path(__file__).parents[2]
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(20_000, 10_000))
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=root)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "pil"])
def test_pillows_own_limit_does_not_warn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = Image.new("RGB", (16, 16)) if kind == "pil" else encode(Image.new("RGB", (16, 16)), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # 256 pixels are over it, but not twice over
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(source).size == (16, 16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_pillows_own_error_does_not_come_through(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (16, 16)), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    try:
        assert load_image(data).size == (16, 16)
    except ImageTooLargeError as error:
        assert kind in ("WEBP", "TIFF", "GIF")
        assert "PIL.Image.MAX_IMAGE_PIXELS" in str(error)
    assert Image.MAX_IMAGE_PIXELS == 20


def test_a_large_image_inside_the_limit_is_read() -> None:
    limits = ImageLimits(max_pixels=200)
    assert load_image(Image.new("L", (10, 20)), limits=limits).size == (10, 20)
    with pytest.raises(ImageTooLargeError, match=r"at most 200 pixels.*10 x 21 pixels, 210 in all"):
        load_image(Image.new("L", (10, 21)), limits=limits)


@pytest.mark.parametrize(
    ("size", "kind", "setting"),
    [
        ((60_000, 1), ImageTooLargeError, "max_side"),
        ((1, 1), ImageError, "min_side"),
        ((7, 50), ImageError, "min_side"),
        ((8, 1601), ImageError, "max_aspect"),
        ((1601, 8), ImageError, "max_aspect"),
    ],
)
def test_odd_sizes_are_refused(size: tuple[int, int], kind: type[ImageError], setting: str) -> None:
    for source in (Image.new("L", size), encode(Image.new("L", size), "PNG")):
        with pytest.raises(kind, match=f"limits.{setting}.*{size[0]} x {size[1]}"):
            load_image(source)


def test_sizes_at_the_limits_are_accepted() -> None:
    assert load_image(Image.new("L", (8, 1600))).size == (8, 1600)
    assert load_image(Image.new("L", (1, 1)), limits=ImageLimits(min_side=1)).size == (1, 1)


NOISE_PNG = encode(Image.fromarray(noise()), "PNG")


def ways(data: bytes, folder: Path) -> dict[str, Any]:
    path = folder / "picture.png"
    path.write_bytes(data)
    return {
        "path": path,
        "bytes": data,
        "memoryview": memoryview(data),
        "file": io.BytesIO(data),
        "base64": "data:;base64," + base64.b64encode(data).decode(),
        "escaped": "data:," + quote(data),
    }


@pytest.mark.usefixtures("no_decoding")
def test_the_byte_limit(tmp_path: Path) -> None:
    limits = ImageLimits(max_bytes=len(NOISE_PNG) - 1)
    for source in ways(NOISE_PNG, tmp_path).values():
        with pytest.raises(ImageTooLargeError, match=f"at most {limits.max_bytes} bytes .`limits.max_bytes`"):
            load_image(source, limits=limits)


def test_the_byte_limit_is_exact(tmp_path: Path) -> None:
    limits = ImageLimits(max_bytes=len(NOISE_PNG))
    for source in ways(NOISE_PNG, tmp_path).values():
        assert np.array_equal(pixels(load_image(source, limits=limits)), noise())


def test_no_more_than_the_limit_is_read_from_a_file_object() -> None:
    class Endless:
        taken = 0

        def read(self, size: int, /) -> bytes:
            self.taken += size
            return b"\xff" * size

    file = Endless()
    with pytest.raises(ImageTooLargeError):
        load_image(file, limits=ImageLimits(max_bytes=1000))
    assert file.taken == 1001


def test_long_base64_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    for body in ("A" * 200, "%41" * 200, "A" * 100_000):
        with pytest.raises(ImageTooLargeError):
            load_image("data:;base64," + body, limits=ImageLimits(max_bytes=100))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_pixels", 0),
        ("max_pixels", 1.5),
        ("max_side", True),
        ("min_side", 0),
        ("max_bytes", "1"),
        ("max_aspect", 0.5),
        ("max_aspect", float("nan")),
        ("url_timeout", 0),
        ("url_timeout", float("inf")),
        ("max_redirects", -1),
        ("allow_urls", "yes"),
        ("formats", ()),
        ("formats", ("EPS",)),
        ("formats", "PNG"),
        ("formats", [["PNG"]]),
    ],
)
def test_limits_that_make_no_sense(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"`limits.{field}` must be"):
        ImageLimits(**{field: value})


def test_limits_of_another_type() -> None:
    with pytest.raises(ArgumentTypeError, match="`limits` must be an ImageLimits"):
        load_image(Image.new("L", (9, 9)), limits={"max_pixels": 5})  # type: ignore[arg-type]


# --- Bad files ---


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImageError, match=r"is animated; pass one frame, e.g. Image.open\(file\)"):
        load_image(data)
    opened = Image.open(io.BytesIO(data))
    opened.seek(1)
    expected = np.full((16, 16, 3), (0, 128, 0), np.uint8)
    assert_close(load_image(opened), expected, tolerance=20)  # the caller chose this frame


def test_many_pages_are_refused() -> None:
    pages = [Image.new("L", (16, 16), shade) for shade in (0, 200)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(UnsupportedImageError, match=r"with one page.*seek\(\)"):
        load_image(data)
    opened = Image.open(io.BytesIO(data))
    opened.seek(1)
    assert load_image(opened).getpixel((0, 0)) == (200, 200, 200)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_can_be_turned_off(kind: str) -> None:
    options: dict[str, Any] = {"save_all": True, "append_images": [Image.new("L", (16, 16))]} if kind == "MPO" else {}
    data = encode(Image.new("L", (16, 16)), kind, **options)
    others = tuple(other for other in FORMATS if other != kind)
    load_image(data, limits=ImageLimits(formats=(kind,)))
    with pytest.raises(UnsupportedImageError, match=f"`limits.formats` .*in the format {kind}$"):
        load_image(data, limits=ImageLimits(formats=others))


OTHER_FILES = [
    (b"\0\0\0\x20ftypavis" + bytes(40), "an animated AVIF image"),
    (b"\0\0\0\x20ftypisom" + bytes(40), "a video"),
    (b"%PDF-1.7\n", "a PDF"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file"),
    (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    (b"  <svg/>", "an SVG drawing"),
    (b"8BPS\0\1" + bytes(40), "a Photoshop file"),
    (b"\0\0\1\0\1\0" + bytes(40), "an icon"),
]


@pytest.mark.parametrize(("data", "what"), OTHER_FILES)
def test_other_files_are_named(data: bytes, what: str) -> None:
    with pytest.raises(UnsupportedImageError, match=f"which is {what}"):
        load_image(data)


def test_eps_does_not_reach_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(UnsupportedImageError):
        load_image(encode(Image.new("RGB", (16, 16)), "EPS"))


@pytest.mark.parametrize("way", ["path", "bytes", "bytearray", "file", "data"])
def test_an_empty_file(way: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    source: Any = {"path": path, "bytes": b"", "bytearray": bytearray(), "file": io.BytesIO(), "data": "data:,"}[way]
    with pytest.raises(ImageError, match="which is empty"):
        load_image(source)


def test_text_with_a_image_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("this is not a picture\n" * 9)
    with pytest.raises(ImageError, match=r"`photo` must be .*notes\.jpg', which is no image in a known format"):
        load_image(path, name="photo")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_truncated_files(kind: str, share: float) -> None:
    data = encode(Image.fromarray(noise(64, 64)), kind)
    with pytest.raises(ImageError, match=f"whose {kind} data is broken or cut off|no image in a known format"):
        load_image(data[: int(len(data) * share)])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]), st.data())
def test_damaged_files_load_or_give_our_error(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(encode(Image.fromarray(quarters(16, 16)), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about broken metadata
        try:
            assert load_image(damaged, limits=ImageLimits(max_pixels=100_000)).mode == "RGB"
        except ImageError as error:
            assert str(error).startswith("`image` must be ")
            assert "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_our_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        load_image(data)


@pytest.mark.parametrize("failure", [MemoryError, struct.error, zlib.error, OverflowError, EOFError, KeyError])
def test_any_failure_of_a_plugin_becomes_our_error(failure: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise failure("deep inside")

    data = encode(Image.new("L", (16, 16)), "BMP")
    lazy = Image.open(io.BytesIO(data))
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    for source in (data, lazy):
        with pytest.raises(ImageError, match="deep inside") as caught:
            load_image(source)
        assert isinstance(caught.value.__cause__, failure)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_images_without_pixels(size: tuple[int, int]) -> None:
    for source in (Image.new("RGB", size), png_header(*size)):
        with pytest.raises(ImageError, match=f"at least one pixel.*{size[0]} x {size[1]} pixels"):
            load_image(source)


def test_a_closed_pil_image() -> None:
    image = Image.open(io.BytesIO(encode(Image.new("L", (16, 16)), "GIF")))
    image.close()
    with pytest.raises(ImageError, match="a PIL image of mode"):
        load_image(image)


# --- Bad paths, addresses and types ---


def test_a_missing_file() -> None:
    with pytest.raises(
        ImageError, match=r"`photo` must be the path .* got 'no/such.png', which does not exist"
    ) as caught:
        load_image("no/such.png", name="photo")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("path", ["", "null\0inside", "x" * 5000])
def test_impossible_paths(path: str) -> None:
    with pytest.raises(ImageError, match="the path of an image file") as caught:
        load_image(path)
    assert len(str(caught.value)) < 300


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="which is a folder"):
        load_image(tmp_path)


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path / "file" / "picture.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="not a regular file"):
        load_image(tmp_path / "pipe")


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")

    def refuse(*_: object) -> None:  # root can read everything, so the refusal is staged
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(ImageError, match="no permission to read"):
        load_image(path)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("data:image/png;base64", "has no comma"),
        ("data:image/png;base64,@@@@", "base64 is broken"),
        ("data:image/png;base64,AAAAA", "base64 is broken"),
        ("data:image/png;base64,é", "base64 is broken"),
        ("data:image/png;base64,aGVsbG8=", "no image in a known format"),
        ("data:text/plain,hello%20you", "no image in a known format"),
    ],
)
def test_bad_data_urls(source: str, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        load_image(source)


@pytest.mark.parametrize("url", ["https://example.com/a.png", "http://example.com/a.png", "HTTPS://x/", "s3://b/k"])
def test_urls_are_off_by_default(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    with pytest.raises(UrlRefusedError, match=r"`limits\.allow_urls` is True"):
        load_image(url)


def test_a_text_mode_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("hello")
    with open(path) as file, pytest.raises(ImageError, match=r"binary mode.*read\(\) gives str"):
        load_image(file)  # type: ignore[arg-type]


def test_a_closed_file() -> None:
    file = io.BytesIO(b"x")
    file.close()
    with pytest.raises(ImageError, match=r"binary mode.*cannot be read"):
        load_image(file)


@pytest.mark.parametrize(("source", "what"), [(None, "NoneType"), (5, "int"), (object(), "object"), ({}, "dict")])
def test_other_types(source: Any, what: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"`image` must be a path, bytes, .*, but got a {what}"):
        load_image(source)


def test_a_list_of_images() -> None:
    with pytest.raises(ArgumentTypeError, match="pass one image at a time"):
        load_image([Image.new("L", (9, 9))])  # type: ignore[arg-type]
