"""Receipts as scanners leave them: totals after discounts, lost decimal marks, streets that look like names."""

import datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from written_pages import Text, document

from vision_agent.evaluate.fields import plain
from vision_agent.extract.extractor import Extractor
from vision_agent.extract.result import Extraction


def extract(texts: list[Text], model: type[BaseModel]) -> Extraction[Any]:
    return Extractor(lambda *_, **__: None).extract(document(texts), model)


def test_an_amount_that_a_label_with_its_tax_names_comes_after_the_discount() -> None:
    class Bill(BaseModel):
        total: Decimal

    rows = [("Total", "277.90"), ("Discount", "0.90"), ("Total Inclusive GST:", "277.00"), ("Net", "261.32")]
    assert extract(_in_rows(rows), Bill).value.total == Decimal("277.00")
    german = [("Gesamt", "80,00"), ("Rabatt", "10,00"), ("Gesamt inkl. MwSt:", "70,00")]
    assert extract(_in_rows(german), Bill).value.total == Decimal("70.00")
    # The total's own label was misread: what was added to the net amount tells it.
    misread = [("Sub Total", "68.87"), ("GST 6%", "4.13"), ("TOT, :", "73.00"), ("CA.", "73.00"), ("CHANGE", "0.00")]
    assert extract(_in_rows(misread), Bill).value.total == Decimal("73.00")
    # A row of the table of taxes has a total, too.
    summary = [("Total Sales (Inclusive of GST)", "4.25"), ("Cash", "4.30"), ("Change", "0.05"), ("Total", "4.00")]
    assert extract([*_in_rows(summary), (500, 180, "0.24")], Bill).value.total == Decimal("4.25")


@pytest.mark.parametrize(("read", "total"), [("41 50", "41.50"), ("19-80", "19.80"), ("2750", "27.50")])
def test_a_decimal_mark_that_was_not_read_is_told_by_the_other_amounts(read: str, total: str) -> None:
    class Bill(BaseModel):
        total: Decimal

    rows = [("Apples", "3.00"), ("Pears", total), ("Total", read), ("Card", total), ("Tax", "1.10"), ("Net", "20.05")]
    assert extract(_in_rows(rows), Bill).value.total == Decimal(total)


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["99 SPEED MART 5/B (519537-X)", "LOT P.T. 2811, JALAN ANGSA"], "99 SPEED MART S/B"),
        (["SLF CASH & CARRY", "NO.15,JLN TSJ2, TMN SUBANG JASA,", "40000 SHAH ALAM, SEL."], "SLF CASH & CARRY"),
        (["MEI LET RESTAURANT", "NO 2, JALAN BULAN BM U5/BM, SEKSYEN U5,"], "MEI LET RESTAURANT"),
        (["KING'S CONFECTIONERY S/B 273500-U (KSB)", "52100 KUALA LUMPUR."], "KING'S CONFECTIONERY S/B"),
        (["BILLION SIX ENTERPRISE", "P)", "40150 SHAH ALAM."], "BILLION SIX ENTERPRISE"),
        (["THREE STOOGES", "BISTRO & CAFE", "109, SS21/1A,"], "THREE STOOGES"),
    ],
)
def test_streets_and_trades_are_no_names(lines: list[str], name: str) -> None:
    class Shop(BaseModel):
        company: str

    assert extract([(60, 40 + 40 * row, text) for row, text in enumerate(lines)], Shop).value.company == name


def test_addresses_of_scans_have_their_digits_and_blanks() -> None:
    class Shop(BaseModel):
        company: str
        address: str

    lines = ["Paradigm Trading Sdn Bhd", "14JALAN Manis 4, 1st F1r", "Off J1n Gombak, 4560O SCLANGOR"]
    found = extract([(60, 40 + 40 * row, text) for row, text in enumerate(lines)], Shop)
    assert found.value.address == "14 JALAN Manis 4, 1st Flr Off Jln Gombak, 45600 SELANGOR"
    assert found.fields["address"].text == "14JALAN Manis 4, 1st F1r Off J1n Gombak, 4560O SCLANGOR"


def test_a_number_of_a_receipt_is_no_american_postcode() -> None:
    class Receipt(BaseModel):
        date: datetime.date

    assert extract([(60, 40, "CS 24399"), (60, 80, "Date 09/02/2018")], Receipt).value.date.month == 2
    assert extract([(60, 40, "Austin TX 78701"), (60, 80, "Date 09/02/2018")], Receipt).value.date.month == 9


def _in_rows(rows: list[tuple[str, str]]) -> list[Text]:
    return [(x, 60 + 40 * row, text) for row, each in enumerate(rows) for x, text in zip((60, 400), each, strict=True)]


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["#000002 BAIFU (M) Sdn Bhd", "DAISO JAPAN, IOI MALL"], "BAIFU (M) Sdn Bhd"),
        (["SIMPLIFIED TAX INVOICE", "SIN THYE & COMPANY", "NO.54, BATU 5, JALAN IPOH,"], "SIN THYE & COMPANY"),
        (["Petrol Subang Airport", "47200 Subang", "Merchant Number 00000:020138429"], "Petrol Subang Airport"),
    ],
)
def test_serials_titles_and_numbers_of_merchants_are_no_names(lines: list[str], name: str) -> None:
    class Shop(BaseModel):
        company: str

    assert extract([(60, 40 + 40 * row, text) for row, text in enumerate(lines)], Shop).value.company == name


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        (["Lot 6, Jalan Batai,", "50490, Kuala Lumpur", "T: 03-2093 7358 | F: 03-2093 7359"], slice(0, 2)),
        (["LOT R1, LEBUHRAYA UTARA,", "84600,PAGOH,JOHOR", "Careline : 1800 88 1231"], slice(0, 2)),
        (["LOT 204, JALAN BATU 12 1/4,", "43100 HULU LANGAT, SELANGOR."], slice(0, 2)),
        (["Lot NO : 20, Level UG1, Publika Solaris", "Dutamas.", "No 1, Jalan Dutamas, 50480 KL"], slice(0, 3)),
    ],
)
def test_addresses_begin_with_their_lot_and_end_before_telephones(lines: list[str], address: slice) -> None:
    class Shop(BaseModel):
        company: str
        address: str

    texts = [(60, 40 + 40 * row, text) for row, text in enumerate(["Paradigm Trading Sdn Bhd", *lines])]
    assert plain(str(extract(texts, Shop).value.address)) == plain(" ".join(lines[address]))
