"""Invoices, credit notes, receipts and statements made by a program, with what is true of each.

    python tests/extract/made_documents.py FOLDER [--count N]

Seventeen languages and countries, nine layouts, several ways to write numbers, dates and parties. Each is words at
places, as a PDF's text layer gives them; a JSON file beside them says what is right, and which fields are not there.
"""

import argparse
import datetime
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from written_pages import Text, document

from vision_agent.documents.result import OcrResult

CENT = Decimal("0.01")


@dataclass(frozen=True)
class Country:
    """How papers of a country look."""

    code: str
    words: tuple[str, ...]  # as `_WORDS` names them
    sellers: tuple[str, ...]
    buyers: tuple[str, ...]
    streets: tuple[str, ...]
    cities: tuple[str, ...]
    vat_ids: tuple[str, ...]
    ibans: tuple[str, ...]
    rates: tuple[int, ...]
    money: tuple[str, ...]  # patterns with {} for the number
    marks: tuple[tuple[str, str], ...]  # of groups and of the fraction
    days: tuple[str, ...]
    goods: tuple[str, ...]
    months: tuple[str, ...] = ()
    currency: str = "EUR"


_WORDS = ("invoice", "credit note", "number", "date", "due", "bill to", "from", "net", "tax", "total",
          "description", "quantity", "price", "amount", "VAT id", "phone", "thanks")  # fmt: skip

_FILE = json.loads(Path(__file__).with_name("made_documents.json").read_text(encoding="utf-8"))
COUNTRIES = {
    code: Country(code, **{name: tuple(map(_tuple, value)) if isinstance(value, list) else value
                           for name, value in each.items()})
    for _tuple in [lambda value: tuple(value) if isinstance(value, list) else value]
    for code, each in _FILE["countries"].items()
}  # fmt: skip

# What no paper here states, under names that look like what it does state.
ABSENT = (
    "room_number", "seat_number", "case_number", "old_total", "tax_free_amount", "passport_number", "flight_number",
    "blood_type", "swift_code", "delivery_weight", "meter_reading", "discount", "shipping_cost", "policy_number",
    "warranty_until", "driver_name", "license_plate", "deposit_amount", "birth_date", "fax",
)  # fmt: skip


@dataclass
class Made:
    """A document and the truth about it.

    Attributes:
        name: its country, layout and number.
        document: its words.
        truth: field -> value; amounts and days as text in one form.
        absent: fields that it does not state.
    """

    name: str
    document: OcrResult
    truth: dict[str, str]
    absent: tuple[str, ...] = ABSENT


@dataclass
class _Paper:
    """A paper being written."""

    country: Country
    rng: random.Random
    negative: bool = False
    texts: list[Text] = field(default_factory=list)
    truth: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pick = self.rng.choice
        self.word = dict(zip(_WORDS, self.country.words, strict=True))
        self.money_form, self.marks = pick(self.country.money), pick(self.country.marks)
        self.day_form = pick(self.country.days)
        self.minus = pick(["-{}", "{}-", "({})", "\u2212{}", "- {}"])

    def put(self, x: float, y: float, text: str) -> None:
        self.texts.append((x, y, text))

    def right(self, x: float, y: float, text: str) -> None:
        self.put(x - 10 * len(text), y, text)

    def number(self, value: Decimal, places: int = 2) -> str:
        group, mark = self.marks
        whole, _, rest = f"{abs(value):,.{places}f}".partition(".")
        if group == "lakh":
            digits = whole.replace(",", "")
            head, tail = digits[:-3], digits[-3:]
            pairs = [head[max(0, at - 2) : at] for at in range(len(head), 0, -2)][::-1]
            whole = ",".join([*pairs, tail]) if head else tail
        else:
            whole = whole.replace(",", group)
        return f"{whole}{mark}{rest}" if rest else whole

    def money(self, value: Decimal, bare: bool = False) -> str:
        text = self.number(value) if bare else self.money_form.format(self.number(value))
        return self.minus.format(text) if value < 0 else text

    def day(self, day: datetime.date) -> str:
        names = self.country.months or ("",) * 12
        name = names[day.month - 1]
        return self.day_form.format(d=day.day, m=day.month, y=day.year, dd=f"{day:%d}", mm=f"{day:%m}",
                                    yy=f"{day:%y}", name=name, Name=name[:1].upper() + name[1:])  # fmt: skip

    def fill(self) -> None:
        """Choose what the paper says."""
        rng, country = self.rng, self.country
        self.seller, self.buyer = rng.choice(country.sellers), rng.choice(country.buyers)
        self.seller_lines = [rng.choice(country.streets), rng.choice(country.cities)]
        self.buyer_lines = [rng.choice(country.streets), rng.choice(country.cities)]
        self.serial = rng.choice(["{}", "INV-{}", "{}/24", "2024-{}", "F{}"]).format(rng.randint(1000, 99999999))
        self.issued = datetime.date(2023, 1, 1) + datetime.timedelta(rng.randint(0, 700))
        self.due = self.issued + datetime.timedelta(rng.choice([7, 14, 30]))
        self.rate = rng.choice(country.rates)
        sign = -1 if self.negative else 1
        self.rows = []
        for good in rng.sample(country.goods, rng.randint(1, 4)):
            quantity, price = rng.randint(1, 12), Decimal(rng.randint(120, 250000)) / 100
            self.rows.append((good, quantity, price, sign * quantity * price))
        self.net = sum((row[3] for row in self.rows), Decimal(0))
        self.tax = (self.net * self.rate / 100).quantize(CENT, ROUND_HALF_UP)
        self.total = self.net + self.tax
        self.truth = {
            "issuer": self.seller, "buyer": self.buyer, "invoice_number": self.serial, "date": str(self.issued),
            "due_date": str(self.due), "net_amount": str(self.net), "tax_amount": str(self.tax),
            "total_amount": str(self.total), "currency": country.currency,
        }  # fmt: skip

    # Parts of a page -------------------------------------------------------------------------------------------------

    def block(self, x: float, y: float, lines: Sequence[str]) -> float:
        for line in lines:
            self.put(x, y, line)
            y += 24
        return y

    def meta(self, x: float, y: float, away: float = 190, colon: str = ":") -> float:
        for label, value in ((self.word["number"], self.serial), (self.word["date"], self.day(self.issued)),
                             (self.word["due"], self.day(self.due))):  # fmt: skip
            self.put(x, y, f"{label}{colon}")
            self.put(max(x + away, x + 10 * (len(label) + 3)), y, value)
            y += 25
        return y

    def table(self, y: float, bare: bool = True) -> float:
        self.put(60, y, self.word["description"])
        for name, x in (("quantity", 470), ("price", 600), ("amount", 740)):
            self.right(x, y, self.word[name])
        for good, quantity, price, amount in self.rows:
            y += 28
            self.put(60, y, good)
            self.right(470, y, str(quantity))
            self.right(600, y, self.money(price, bare))
            self.right(740, y, self.money(amount, bare))
        return y + 28

    def sums(self, y: float, left: float = 430, right: float = 740) -> float:
        rate = self.rng.choice([f"{self.word['tax']} {self.rate} %", f"{self.word['tax']} ({self.rate}%)",
                                f"{self.rate}% {self.word['tax']}", self.word["tax"]])  # fmt: skip
        for label, value in ((self.word["net"], self.net), (rate, self.tax), (self.word["total"], self.total)):
            self.put(left, y, label)
            self.right(right, y, self.money(value))
            y += 27
        return y

    def contact(self, x: float, y: float) -> float:
        rng, country = self.rng, self.country
        lines = [
            f"{self.word['phone']}: +{rng.randint(30, 90)} {rng.randint(100, 999)} {rng.randint(1000000, 9999999)}"
        ]
        if country.vat_ids:
            vat = rng.choice(country.vat_ids)
            self.truth["vat_id"] = vat
            lines.append(f"{self.word['VAT id']}: {vat}")
        if country.ibans and rng.random() < 0.5:
            iban = rng.choice(country.ibans)
            self.truth["iban"] = iban
            lines.append(f"IBAN: {iban}")
        rng.shuffle(lines)
        return self.block(x, y, lines)

    @property
    def title(self) -> str:
        return self.word["credit note" if self.negative else "invoice"]


def _head_left(p: _Paper) -> None:
    """Seller top left, buyer below, data on the right."""
    y = p.block(60, 50, [p.seller, *p.seller_lines])
    y = p.contact(60, y) + 20
    p.put(60, y, p.title.upper())
    p.meta(430, y + 40)
    y = p.block(60, y + 40, [f"{p.word['bill to']}:", p.buyer, *p.buyer_lines])
    p.sums(p.table(y + 40) + 20)
    p.put(60, 1100, p.word["thanks"])


def _two_blocks(p: _Paper) -> None:
    """A title, and "From" and "Bill to" side by side."""
    p.put(60, 50, p.title)
    y = p.meta(60, 90) + 20
    p.block(60, y, [p.word["from"], p.seller, *p.seller_lines])
    y = p.block(430, y, [p.word["bill to"], p.buyer, *p.buyer_lines])
    p.sums(p.table(y + 50, bare=False) + 30)
    p.contact(60, 1050)


def _head_right(p: _Paper) -> None:
    """Seller top right, buyer on the left without a label's colon, data in one row of small columns."""
    p.put(60, 50, p.title.upper())
    y = p.block(470, 50, [p.seller, *p.seller_lines])
    y = p.contact(470, y) + 30
    y = p.block(60, y, [p.word["bill to"], p.buyer, *p.buyer_lines]) + 30
    for x, label, value in ((60, p.word["number"], p.serial), (330, p.word["date"], p.day(p.issued)),
                            (560, p.word["due"], p.day(p.due))):  # fmt: skip
        p.put(x, y, label)
        p.put(x, y + 24, value)
    p.sums(p.table(y + 90) + 20)


def _window(p: _Paper) -> None:
    """A letter for a window envelope, the sender in a small line."""
    p.put(430, 40, p.seller)
    p.put(60, 150, f"{p.seller} · {p.seller_lines[0]} · {p.seller_lines[1]}")
    p.block(60, 180, [p.buyer, *p.buyer_lines])
    p.meta(430, 300)
    p.put(60, 400, f"{p.title} {p.serial}")
    y = p.sums(p.table(450) + 20)
    p.contact(60, max(1000, y + 40))


def _footer(p: _Paper) -> None:
    """The buyer first; who sells stands in small type at the foot, and as a logo read as text."""
    logo = p.seller.split()[0].upper()
    p.put(560, 40, logo)
    p.block(60, 120, [p.buyer, *p.buyer_lines])
    p.put(60, 280, f"{p.title} {p.word['number']} {p.serial}")
    p.put(60, 305, f"{p.word['date']}: {p.day(p.issued)}")
    p.put(60, 330, f"{p.word['due']}: {p.day(p.due)}")
    p.sums(p.table(400) + 20)
    p.put(60, 1050, f"{p.seller} · {p.seller_lines[0]} · {p.seller_lines[1]}")
    p.contact(60, 1080)


def _sums_in_boxes(p: _Paper) -> None:
    """The sums as columns under their names."""
    y = p.block(60, 50, [p.seller, *p.seller_lines]) + 20
    p.meta(430, 50)
    y = p.block(60, y, [p.word["bill to"], p.buyer, *p.buyer_lines]) + 30
    y = p.table(y) + 40
    names = (("net", p.net), ("tax", p.tax), ("total", p.total))
    for x, (name, value) in zip((270, 480, 740), names, strict=True):
        p.right(x, y, p.word[name])
        p.right(x, y + 26, p.money(value))
    p.contact(60, 1050)


def _inline(p: _Paper) -> None:
    """Every value behind its label's colon, as plain text mails have it."""
    y = p.block(60, 50, [p.seller, ", ".join(p.seller_lines), "", p.title])
    y = p.block(60, y, [f"{p.word['number']}: {p.serial}", f"{p.word['date']}: {p.day(p.issued)}",
                        f"{p.word['due']}: {p.day(p.due)}", f"{p.word['bill to']}: {p.buyer}"])  # fmt: skip
    y = p.table(y + 30) + 30
    p.block(60, y, [f"{p.word['net']}: {p.money(p.net)}", f"{p.word['tax']} {p.rate}%: {p.money(p.tax)}",
                    f"{p.word['total']}: {p.money(p.total)}"])  # fmt: skip


def _receipt(p: _Paper) -> None:
    """A till's receipt: narrow, no buyer, no day to pay by."""
    y = p.block(100, 40, [p.seller, *p.seller_lines]) + 20
    p.put(100, y, f"{p.word['date']}: {p.day(p.issued)}")
    p.put(100, y + 24, f"{p.word['number']}: {p.serial}")
    y += 60
    for good, quantity, price, amount in p.rows:
        p.put(100, y, f"{quantity} x {p.number(price)} {good}")
        p.right(640, y, p.money(amount, bare=True))
        y += 26
    p.sums(y + 10, 100, 640)
    for name in ("buyer", "due_date"):
        del p.truth[name]


def _rates(p: _Paper) -> None:
    """Two rates of tax, each with its own line; nets and taxes are sums of them."""
    y = p.block(60, 50, [p.seller, *p.seller_lines, ""])
    p.meta(430, 50)
    y = p.block(60, y, [p.word["bill to"], p.buyer, *p.buyer_lines]) + 30
    y = p.table(y) + 30
    part = (p.net / 3).quantize(CENT)
    low = (part * 5 / 100).quantize(CENT, ROUND_HALF_UP)
    high = ((p.net - part) * p.rate / 100).quantize(CENT, ROUND_HALF_UP)
    p.tax, p.total = low + high, p.net + low + high
    p.truth |= {"tax_amount": str(p.tax), "total_amount": str(p.total)}
    for label, value in ((p.word["net"], p.net), (f"{p.word['tax']} 5 %", low),
                         (f"{p.word['tax']} {p.rate} %", high), (p.word["total"], p.total)):  # fmt: skip
        p.put(430, y, label)
        p.right(740, y, p.money(value))
        y += 26
    p.contact(60, 1050)


LAYOUTS: dict[str, Callable[[_Paper], None]] = {
    "head left": _head_left, "two blocks": _two_blocks, "head right": _head_right, "window": _window,
    "footer": _footer, "boxes": _sums_in_boxes, "inline": _inline, "receipt": _receipt, "rates": _rates,
}  # fmt: skip


def made(code: str, layout: str, seed: int) -> Made:
    """Make one document; the same arguments make the same one."""
    rng = random.Random(f"{code} {layout} {seed}")
    paper = _Paper(COUNTRIES[code], rng, negative=layout != "receipt" and rng.random() < 0.2)
    paper.fill()
    LAYOUTS[layout](paper)
    absent = tuple(name for name in ABSENT if name not in paper.truth)
    return Made(f"{code} {layout} {seed}", document([text for text in paper.texts if text[2]]), paper.truth, absent)


def made_set(count: int, first: int = 0) -> list[Made]:
    """Make so many documents of each country, layouts in turn."""
    names = list(LAYOUTS)
    return [
        made(code, names[(number + at) % len(names)], number)
        for at, code in enumerate(COUNTRIES)
        for number in range(first, first + count)
    ]


def write(folder: Path, documents: Sequence[Made]) -> None:
    """Write documents for `vision_agent.evaluate.fields`: one JSON file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in documents:
        told: dict[str, Any] = {"document": each.document.model_dump(mode="json"), "fields": each.truth,
                                "absent": list(each.absent)}  # fmt: skip
        (folder / f"{each.name.replace(' ', '_')}.json").write_text(json.dumps(told, ensure_ascii=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=9)
    options = parser.parse_args()
    write(options.folder, made_set(options.count))
