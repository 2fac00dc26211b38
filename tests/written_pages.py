"""Documents for tests: texts at places, as a reader would have given them."""

import math
from collections.abc import Sequence

from vision_agent.documents.result import Block, Line, OcrResult, Page, Quad, Word, box_around, quad_of

Text = tuple[float, float, str]
SIZE = (800, 1200)


def document(*pages: Sequence[Text], size: float = 20, angle: int = 0) -> OcrResult:
    """A document of texts (x, y, text), letters half as wide as high; `angle` turns its pages clockwise by quarters."""
    return OcrResult(
        pages=tuple(page(texts, number, size, angle) for number, texts in enumerate(pages, start=1)), engine="test"
    )


def page(texts: Sequence[Text], number: int = 1, size: float = 20, angle: int = 0) -> Page:
    lines = []
    for x, y, text in texts:
        words, left = [], x
        for word in text.split(" "):
            right = left + 0.5 * size * len(word)
            words.append(Word(text=word, quad=_turned(quad_of((left, y, right, y + size)), angle), score=0.99))
            left = right + 0.5 * size
        line = _turned(quad_of((x, y, left - 0.5 * size, y + size)), angle)
        lines.append(Line(words=tuple(words), quad=line, score=0.99))
    blocks = (Block(kind="text", box=box_around([line.quad for line in lines]), lines=tuple(lines)),) if lines else ()
    width, height = SIZE if angle % 180 == 0 else SIZE[::-1]
    return Page(number=number, width=width, height=height, angle=angle % 360, blocks=blocks)


def _turned(quad: Quad, angle: int) -> Quad:
    """Corners in the page turned clockwise by quarters, in the order of reading."""
    width, height = SIZE
    turned = {
        0: lambda x, y: (x, y),
        90: lambda x, y: (height - y, x),
        180: lambda x, y: (width - x, height - y),
        270: lambda x, y: (y, width - x),
    }[angle % 360]
    a, b, c, d = (turned(x, y) for x, y in quad)
    assert math.isfinite(a[0])
    return a, b, c, d


GERMAN = [
    (60, 50, "Muster Technik GmbH"), (60, 90, "Hauptstraße 12"), (60, 115, "10115 Berlin"),
    (60, 140, "USt-IdNr.: DE123456789"),
    (60, 220, "Rechnung an:"), (60, 245, "Kundenwerk AG"), (60, 270, "Am Ring 5"), (60, 295, "80331 München"),
    (480, 220, "Rechnungsnummer:"), (660, 220, "RE-2024-0017"), (480, 245, "Rechnungsdatum:"), (660, 245, "03.04.2024"),
    (480, 270, "Fällig am:"), (660, 270, "17.04.2024"),
    (60, 380, "Pos."), (120, 380, "Bezeichnung"), (420, 380, "Menge"), (520, 380, "Einzelpreis"), (680, 380, "Gesamt"),
    (60, 410, "1"), (120, 410, "Schraubenzieher Set"), (430, 410, "2"), (550, 410, "1.250,00"), (670, 410, "2.500,00"),
    (60, 435, "2"), (120, 435, "Wartung Maschine"), (430, 435, "3"), (560, 435, "100,50"), (680, 435, "301,50"),
    (120, 458, "inkl. Anfahrt"),
    (480, 520, "Zwischensumme"), (670, 520, "2.801,50 €"), (480, 545, "zzgl. 19 % MwSt."), (680, 545, "532,29 €"),
    (480, 570, "Gesamtbetrag"), (670, 570, "3.333,79 €"),
    (60, 700, "IBAN: DE89 3704 0044 0532 0130 00"), (60, 725, "E-Mail: info@muster-technik.de"),
]  # fmt: skip
FRENCH = [
    (500, 50, "FACTURE"), (60, 60, "Boulangerie Dupont SARL"), (60, 95, "14 rue de la République"),
    (60, 120, "69002 Lyon"),
    (60, 170, "N° TVA : FR40 123456824"), (480, 120, "Facture n°"), (620, 120, "F2023-118"), (480, 145, "Date :"),
    (620, 145, "12 août 2023"), (480, 170, "Échéance :"), (620, 170, "11/09/2023"),
    (480, 230, "Facturé à"), (480, 255, "Hôtel du Parc"), (480, 280, "3 avenue Foch"), (480, 305, "75116 Paris"),
    (60, 380, "Désignation"), (380, 380, "Qté"), (480, 380, "P.U. HT"), (640, 380, "Total HT"),
    (60, 410, "Croissants beurre"), (390, 410, "200"), (500, 410, "0,85"), (650, 410, "170,00"),
    (60, 435, "Baguettes tradition"), (395, 435, "80"), (500, 435, "1,10"), (655, 435, "88,00"),
    (480, 500, "Total HT"), (650, 500, "258,00 €"), (480, 525, "TVA 5,5 %"), (655, 525, "14,19 €"),
    (480, 550, "Total TTC"), (650, 550, "272,19 €"),
]  # fmt: skip
SPANISH = [
    (60, 50, "Suministros García S.L."), (60, 90, "Calle Mayor 45"), (60, 115, "28013 Madrid"),
    (60, 140, "CIF: B12345678"),
    (500, 80, "Nº factura: 2024/0098"), (500, 105, "Fecha: 5 de marzo de 2024"), (500, 130, "Vencimiento: 04/04/2024"),
    (60, 220, "Cliente"), (60, 245, "Talleres Ruiz"), (60, 270, "Av. de la Paz 3"), (60, 295, "46001 Valencia"),
    (60, 380, "Descripción"), (380, 380, "Cantidad"), (500, 380, "Precio"), (640, 380, "Importe"),
    (60, 410, "Filtro de aceite"), (390, 410, "10"), (500, 410, "12,50"), (640, 410, "125,00"),
    (60, 435, "Aceite 5W30"), (395, 435, "4"), (500, 435, "38,00"), (640, 435, "152,00"),
    (480, 500, "Base imponible"), (650, 500, "277,00"), (480, 525, "IVA 21%"), (650, 525, "58,17"),
    (480, 550, "Total a pagar"), (650, 550, "335,17 EUR"),
]  # fmt: skip
AMERICAN = [
    (60, 50, "ACME Supplies Inc."), (60, 85, "500 Market Street, Suite 20"), (60, 108, "San Francisco, CA 94105"),
    (60, 200, "Bill To"), (60, 223, "Blue Ocean LLC"), (60, 246, "77 Harbor Drive"), (60, 269, "Boston, MA 02110"),
    (330, 200, "Ship To"), (330, 223, "Blue Ocean Warehouse"), (330, 246, "12 Dock Road"),
    (560, 200, "Invoice #"), (680, 200, "INV-10045"), (560, 223, "Invoice Date"), (680, 223, "04/11/2024"),
    (560, 246, "Due Date"), (680, 246, "05/11/2024"), (560, 269, "P.O. #"), (680, 269, "PO-7781"),
    (60, 380, "QTY"), (160, 380, "DESCRIPTION"), (520, 380, "UNIT PRICE"), (680, 380, "AMOUNT"),
    (70, 410, "1"), (160, 410, "Front and rear brake cables"), (550, 410, "100.00"), (690, 410, "100.00"),
    (70, 435, "2"), (160, 435, "New set of pedal arms"), (555, 435, "15.00"), (690, 435, "30.00"),
    (70, 460, "3"), (160, 460, "Labor 3hrs"), (555, 460, "5.00"), (690, 460, "15.00"),
    (560, 520, "Subtotal"), (690, 520, "145.00"), (560, 545, "Sales Tax 6.25%"), (700, 545, "9.06"),
    (560, 575, "TOTAL"), (680, 575, "$154.06"),
]  # fmt: skip
FORM_LEFT = [
    (60, 40, "Visitor registration"), (60, 90, "Full name:"), (260, 90, "Mary Jane Watson"),
    (60, 120, "Department:"), (260, 120, "Radiology"),
    (60, 150, "Badge no.:"), (260, 150, "B-2207"), (60, 180, "Date of birth:"), (260, 180, "02/11/1984"),
    (60, 210, "Visit date:"), (260, 210, "19/06/2024"), (60, 240, "Parking needed:"), (260, 240, "yes"),
    (60, 270, "Fee paid:"), (260, 270, "12,50"),
    (60, 300, "Visit type:"), (260, 300, "Guided tour"), (60, 330, "Host:"),
]  # fmt: skip
FORM_ABOVE = [
    (60, 40, "VISITOR REGISTRATION"), (60, 90, "FULL NAME"), (400, 90, "DEPARTMENT"), (60, 116, "Mary Jane Watson"),
    (400, 116, "Radiology"),
    (60, 170, "BADGE NO."), (230, 170, "DATE OF BIRTH"), (400, 170, "VISIT DATE"), (600, 170, "FEE PAID"),
    (60, 196, "B-2207"), (230, 196, "02/11/1984"),
    (400, 196, "19/06/2024"), (600, 196, "12,50"), (60, 250, "VISIT TYPE"), (400, 250, "PARKING NEEDED"),
    (60, 276, "Guided tour"), (400, 276, "yes"),
]  # fmt: skip
RECEIPT = [
    (300, 40, "CORNER BAKERY LTD"), (320, 65, "12 High Street"), (320, 90, "Leeds LS1 4AB"),
    (320, 115, "Tel: 0113 496 0000"),
    (60, 180, "19/06/2024 08:14"), (600, 180, "Till 2"),
    (60, 240, "2 x Croissant"), (640, 240, "4.20"), (60, 265, "Flat white"), (640, 265, "3.10"),
    (60, 290, "Rye loaf"), (640, 290, "4.73"),
    (60, 340, "TOTAL"), (640, 340, "12.03"), (60, 365, "ROUNDING"), (640, 365, "-0.03"), (60, 390, "TO PAY"),
    (640, 390, "12.00"),
    (60, 415, "CASH"), (640, 415, "20.00"), (60, 440, "CHANGE"), (640, 440, "8.00"), (300, 500, "Thank you!"),
]  # fmt: skip


def line(text: str, x: float, y: float, height: float = 20.0, width: float | None = None) -> Line:
    """A line whose characters are half as wide as high."""
    wide = 0.5 * height * len(text) if width is None else width
    step = wide / max(1, len(text))
    words, at = [], 0
    for word in text.split(" "):
        quad = quad_of((x + at * step, y, x + (at + len(word)) * step, y + height))
        words.append(Word(text=word, quad=quad, score=0.9))
        at += len(word) + 1
    return Line(words=tuple(words), quad=quad_of((x, y, x + wide, y + height)), score=0.9)
