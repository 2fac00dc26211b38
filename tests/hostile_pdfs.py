"""PDFs of a few kilobytes that ask for more time, memory or pixels than any page of a document needs."""

import zlib


def pdf_of(*objects: bytes) -> bytes:
    """A PDF with these objects, numbered from 1; the first is the catalog."""
    body = b"%PDF-1.7\n" + b"".join(b"%d 0 obj" % at + each + b"\nendobj\n" for at, each in enumerate(objects, 1))
    return body + b"trailer<</Root 1 0 R/Size %d>>\nstartxref\n0\n%%%%EOF" % (len(objects) + 1)


def stream(content: bytes, dictionary: bytes = b"", *, packed: int = 1) -> bytes:
    """A stream, packed so many times over."""
    for _ in range(packed):
        content = zlib.compress(content, 9)
    filters = b"/Filter[" + b"/FlateDecode" * packed + b"]" if packed else b""
    return b"<<%s%s/Length %d>>stream\n%s\nendstream" % (dictionary, filters, len(content), content)


def page_of(content: bytes, resources: bytes = b"", *more: bytes, box: bytes = b"0 0 200 200") -> bytes:
    """A PDF of one page with this content; `more` are objects from number 5 on."""
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[%s]/Contents 4 0 R/Resources<<%s>>>>" % (box, resources)
    tree = (b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>")
    return pdf_of(*tree, page, stream(content), *more)


def image(width: int, height: int, more: bytes = b"") -> bytes:
    """A black image, packed twice: its size in bytes says nothing of its size in pixels."""
    dictionary = b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 1" % (
        width,
        height,
    )
    return stream(bytes((width + 7) // 8) * height, dictionary + more, packed=2)


def form(content: bytes, resources: bytes = b"") -> bytes:
    return stream(content, b"/Type/XObject/Subtype/Form/BBox[0 0 200 200]/Resources<<%s>>" % resources)


def _strokes() -> bytes:
    return page_of(b"3 w [1 2] 0 d " + b"0 0 m 200 200 l 0 200 m 200 0 l S " * 200_000)


def _dashes() -> bytes:
    return page_of(b"0.5 w [0.0001 0.0001] 0 d " + b"0 0 m 200 200 l S " * 4000)


def _tiles() -> bytes:
    pattern = stream(
        b"0 0 1 1 re f " * 20,
        b"/Type/Pattern/PatternType 1/PaintType 1/TilingType 1/BBox[0 0 100 100]/XStep 0.001/YStep 0.001/Resources<<>>",
    )
    return page_of(b"/Pattern cs /P scn 0 0 200 200 re f " * 500, b"/Pattern<</P 5 0 R>>", pattern)


def _nested_forms() -> bytes:
    """Each of 12 forms draws the next one ten times."""
    draw = b"/F Do " * 10
    forms = [form(draw, b"/XObject<</F %d 0 R>>" % (6 + depth)) for depth in range(12)]
    return page_of(draw, b"/XObject<</F 5 0 R>>", *forms, form(b"0 0 1 1 re f"))


def _transparent_forms() -> bytes:
    """Groups in groups, each with a soft mask and a bitmap of its own."""
    group = b"/Group<</S/Transparency/I true/K true>>"
    draw = b"/G gs " + b"/F Do " * 8
    forms = [
        stream(
            draw,
            b"/Type/XObject/Subtype/Form/BBox[0 0 200 200]%s/Resources<</ExtGState<</G<</ca 0.5/BM/Luminosity>>>>"
            b"/XObject<</F %d 0 R>>>>" % (group, 6 + depth),
        )
        for depth in range(10)
    ]
    resources = b"/ExtGState<</G<</ca 0.5/BM/Luminosity>>>>/XObject<</F 5 0 R>>"
    return page_of(draw, resources, *forms, form(b"0 0 200 200 re f"))


def _shadings() -> bytes:
    """A function of PostScript for every pixel, again and again."""
    function = stream(
        b"{" + b"dup sin exch cos " * 400 + b"pop pop 0 0 0}",
        b"/FunctionType 4/Domain[0 1 0 1]/Range[0 1 0 1 0 1]",
        packed=1,
    )
    shading = b"<</ShadingType 1/ColorSpace/DeviceRGB/Domain[0 1 0 1]/Matrix[200 0 0 200 0 0]/Function 6 0 R>>"
    return page_of(b"/S sh " * 2000, b"/Shading<</S 5 0 R>>", shading, function)


def _glyphs() -> bytes:
    """A million characters, which are read as well as drawn."""
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    return page_of(b"BT /F 12 Tf 10 10 Td " + b"(%s) Tj " % (b"abc " * 50) * 5000 + b"ET", b"/Font<</F 5 0 R>>", font)


def _pages_of_pages() -> bytes:
    """A tree of pages, each of whose branches is the same next one: 10 ** 8 pages."""
    nodes = [b"<</Type/Pages/Count %d/Kids[%s]>>" % (10 ** (8 - at), b"%d 0 R " % (3 + at) * 10) for at in range(8)]
    page = b"<</Type/Page/MediaBox[0 0 200 200]/Contents 11 0 R>>"
    return pdf_of(b"<</Type/Catalog/Pages 2 0 R>>", *nodes, page, stream(b"0 0 m 200 200 l S " * 100_000))


def _inflated() -> bytes:
    """A content of 64 megabytes, packed three times."""
    return page_of(b"", b"", box=b"0 0 200 200").replace(stream(b""), stream(bytes(1 << 26), packed=3))


SLOW = {
    "strokes": _strokes,
    "dashes": _dashes,
    "tiles": _tiles,
    "nested forms": _nested_forms,
    "transparent forms": _transparent_forms,
    "shadings": _shadings,
    "glyphs": _glyphs,
    "inflated": _inflated,
    "pages of pages": _pages_of_pages,
}


# --- pixels


def deep_image(side: int) -> bytes:
    """An image in forms in forms, twenty deep."""
    forms = [form(b"/F Do", b"/XObject<</F %d 0 R>>" % (6 + depth)) for depth in range(20)]
    return page_of(
        b"/F Do", b"/XObject<</F 5 0 R>>", *forms, form(b"/I Do", b"/XObject<</I 26 0 R>>"), image(side, side)
    )


def soft_mask(side: int) -> bytes:
    """A small image under a mask of side x side pixels."""
    return page_of(
        b"200 0 0 200 0 0 cm /I Do", b"/XObject<</I 5 0 R>>", image(16, 16, b"/SMask 6 0 R"), image(side, side)
    )


def pattern_image(side: int) -> bytes:
    pattern = stream(
        b"/I Do",
        b"/Type/Pattern/PatternType 1/PaintType 1/TilingType 1/BBox[0 0 9 9]/XStep 9/YStep 9"
        b"/Resources<</XObject<</I 6 0 R>>>>",
    )
    return page_of(b"/Pattern cs /P scn 0 0 200 200 re f", b"/Pattern<</P 5 0 R>>", pattern, image(side, side))


def renamed_image(side: int) -> bytes:
    """The same keys, written otherwise, and sides that stand elsewhere."""
    data = page_of(b"/I Do", b"/XObject<</I 5 0 R>>", image(side, side), b"%d" % side)
    return data.replace(b"/Width %d/Height %d" % (side, side), b"/W#69dth 6 0 R/H#65ight 6 0 R")


def inline_image(side: int) -> bytes:
    pixels = zlib.compress(zlib.compress(bytes((side + 7) // 8) * side, 9), 9)
    head = b"200 0 0 200 0 0 cm BI /W %d /H %d /CS /G /BPC 1 /F[/Fl /Fl] ID " % (side, side)
    return page_of(head + pixels + b"\nEI Q")


LARGE = {
    "deep": deep_image,
    "soft mask": soft_mask,
    "pattern": pattern_image,
    "renamed": renamed_image,
    "inline": inline_image,
}


def many_pages(count: int, content: bytes, box: bytes = b"0 0 200 200") -> bytes:
    """Pages that share their content."""
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[%s]/Contents 3 0 R>>" % box
    kids = b" ".join(b"%d 0 R" % (4 + at) for at in range(count))
    tree = b"<</Type/Pages/Count %d/Kids[%s]>>" % (count, kids)
    return pdf_of(b"<</Type/Catalog/Pages 2 0 R>>", tree, stream(content), *[page] * count)
