"""Thousands of broken images and PDFs: each is read or refused by an error of ours, and soon."""

import base64
import io
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mutations import mutated, mutated_digits
from PIL import Image
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from vision_agent import ImageLimits, InputError, load_image
from vision_agent.documents.source import page_images

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 5.0  # seconds of computing for one file

HEIC = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004eZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O6l0RRC2"
    "00001pa1~?00000002G!001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002|X>f9I0002oX>en20001WXm(>m0RwOV"
    "0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDDMA4O18@KU0|1Z!00RI30{|YNAb|yz>aLpR;31&EfB*mtfB*mk"
    "0EA)y0RRR>0l{;@i2wiq6Ju{|a&BX6cmM$a4FCp!0000KX>)L8000000000$0000$0000eV{Bn?0000G000010000G00001|NsBc00002|NsBc00002"
    "0000GaA|mH000000|*ER0000OX>e^}0000000001009Mo0s{qv0000+ZDe6|0000wC;_ht$XyuFBbb)|p#Jw2|Mp*uRCT`ug?IRA_iN|W;wC!tl?(UO"
    "*hJ{dhO;tdfGMHC+qQ$K(F6"
)


def _images() -> list[bytes]:
    photo = Image.open(EXAMPLES / "photos" / "000000139872.jpg").resize((40, 30))
    wide = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [HEIC]
    for kind, image, options in (
        ("JPEG", photo, {"exif": exif}),
        ("JPEG", photo, {"progressive": True}),
        ("JPEG", photo.convert("CMYK"), {}),
        ("PNG", photo.convert("RGBA"), {"compress_level": 0}),
        ("PNG", photo.quantize(16), {"transparency": 3}),
        ("PNG", wide, {}),
        ("WEBP", photo, {"lossless": True, "exif": exif}),
        ("WEBP", photo, {}),
        ("BMP", photo, {}),
        ("GIF", photo.quantize(16), {}),
        ("TIFF", photo, {"compression": "tiff_lzw"}),
        ("TIFF", photo, {"compression": "jpeg"}),
        ("TIFF", wide, {}),
        ("PPM", photo, {}),
        ("AVIF", photo, {}),
        ("JPEG2000", photo, {}),
    ):
        out = io.BytesIO()
        image.save(out, kind, **options)
        found.append(out.getvalue())
    return found


def _pdfs() -> list[bytes]:
    """Plain ones, so that changes reach what PDFium makes sense of, a packed one, and a locked one."""
    found = [(EXAMPLES / "invoice.pdf").read_bytes()]
    for settings in (
        {"pageCompression": 0},
        {"pageCompression": 1},
        {"encrypt": StandardEncryption("", "owner", strength=128)},
    ):
        out = io.BytesIO()
        canvas = Canvas(out, pagesize=(200, 150), **settings)
        canvas.drawString(20, 100, "Total 12.50, to be paid by 2026-03-01")
        canvas.drawInlineImage(Image.open(EXAMPLES / "photos" / "000000139872.jpg").resize((12, 9)), 20, 20, 60, 40)
        canvas.acroForm.textfield(name="who", x=100, y=20, width=60, height=16)
        canvas.linearGradient(0, 0, 50, 50, ((1, 0, 0), (0, 0, 1)))
        canvas.circle(150, 100, 20, fill=1)
        canvas.showPage()
        canvas.drawString(20, 100, "Second page")
        canvas.save()
        found.append(out.getvalue())
    return found


def _run(files: list[bytes], count: int, change: Callable[[bytes, random.Random], bytes], read: object) -> Counter[str]:
    """Read so many changed files, and count what became of them. Whatever else is raised says which file it was."""
    done: Counter[str] = Counter()
    for number in range(count):
        chance = random.Random(number)
        data = change(chance.choice(files), chance)
        begun = time.process_time()
        try:
            read(data)  # type: ignore[operator]
            done["read"] += 1
        except InputError:
            done["refused"] += 1
        except Exception as error:
            raise AssertionError(f"file {number} of {count} raised {error!r}") from error
        assert time.process_time() - begun < LONGEST, f"file {number} of {count}"
    return done


@pytest.mark.timeout(120)
def test_2000_broken_images_are_read_or_refused() -> None:
    limits = ImageLimits(max_pixels=4_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what is broken
        done = _run(_images(), 2000, mutated, lambda data: load_image(data, limits=limits))
    assert done.total() == 2000 and min(done["read"], done["refused"]) > 300


@pytest.mark.timeout(120)
def test_500_broken_pdfs_are_read_or_refused() -> None:
    """Drawn within a second each, or stopped; changed in their bytes, or in their numbers alone."""
    limits = ImageLimits(max_pixels=100_000, page_timeout=0.4)

    def read(data: bytes) -> None:
        for page in page_images(data, limits=limits):
            assert page.image.width * page.image.height <= 100_000

    def change(data: bytes, chance: random.Random) -> bytes:
        return mutated_digits(data, chance) if chance.random() < 0.5 else mutated(data, chance)

    done = _run(_pdfs(), 500, change, read)
    assert done.total() == 500 and min(done["read"], done["refused"]) > 50
