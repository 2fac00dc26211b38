"""Amounts that look alike: what adds up, what a tax rate gives, and labels that hold the label of something else."""

import datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, create_model
from written_pages import Text, document

from vision_agent.extract.extractor import Extractor


class Bill(BaseModel):
    total: Decimal | None = None
    net: Decimal | None = None
    tax: Decimal | None = None


def in_rows(rows: list[tuple[str, str]]) -> list[Text]:
    return [
        text
        for at, (name, value) in enumerate(rows)
        for text in ((60, 100 + 40 * at, name), (500, 100 + 40 * at, value))
    ]


def extract(rows: list[tuple[str, str]], model: type[BaseModel]) -> Any:
    return Extractor(lambda *_, **__: None).extract(document(in_rows(rows)), model).value


@pytest.mark.parametrize("off", ["0.10", "-0.10", "0.08", "0.02"])
def test_a_sum_that_is_cents_off_confirms_no_total(off: str) -> None:
    other = Decimal("127.45") + Decimal(off)
    rows = [("Amount excl. VAT", "106.21"), ("VAT", "21.24"), ("Total", "127.45"), ("Total", str(other))]
    assert extract(rows, Bill).total == Decimal("127.45")


@pytest.mark.parametrize(
    "rows",
    [
        [("VAT rate", "20%"), ("Tax", "24.00"), ("Tax", "20.00"), ("Total", "120.00")],
        [("Tax", "24.00"), ("VAT", "20.00"), ("VAT rate", "20 %"), ("Total", "120.00")],
        [("Tax", "24.00"), ("Tax 20%", "20.00"), ("Total", "120.00")],
    ],
)
def test_the_tax_is_the_share_of_the_net_amount_not_of_the_total(rows: list[tuple[str, str]]) -> None:
    assert extract(rows, Bill).tax == Decimal("20.00")


@pytest.mark.parametrize(
    ("including", "excluding"),
    [
        ("Amount incl. VAT", "Amount excl. VAT"),
        ("Total (including GST)", "Total (excluding GST)"),
        ("Total Sales Inclusive of Tax", "Total Sales Exclusive of Tax"),
        ("Sales incl GST", "Sales exc GST"),
        ("Price with VAT", "Price without VAT"),
        ("Amount includes VAT", "Amount excludes VAT"),
        ("Total Sales includes GST", "Total Sales excludes GST"),
        ("Bedrag incl. BTW", "Bedrag excl. BTW"),
        ("Totaal inclusief btw", "Totaal exclusief btw"),
        ("Gesamt inkl. MwSt.", "Gesamt exkl. MwSt."),
        ("Betrag mit USt", "Betrag ohne USt"),
        ("Totalt inkl. mva", "Totalt ekskl. mva"),
        ("Summa inkl. moms", "Summa exkl. moms"),
        ("Importe con IVA", "Importe sin IVA"),
    ],
)
@pytest.mark.parametrize("tax", [[], [("Tax", "20.00")]])
def test_with_the_tax_is_not_without_it(including: str, excluding: str, tax: list[tuple[str, str]]) -> None:
    both = extract([(excluding, "100.00"), *tax, (including, "120.00")], Bill)
    assert (both.total, both.net) == (Decimal("120.00"), Decimal("100.00"))
    gross = extract([(including, "120.00"), *tax], Bill)
    assert (gross.total, gross.net) == (Decimal("120.00"), Decimal("100.00") if gross.net else None)
    assert gross.tax != Decimal("120.00")
    assert extract([(excluding, "100.00"), *tax], Bill).net == Decimal("100.00")


@pytest.mark.parametrize(
    ("label", "value", "field", "kind"),
    [
        ("Balance due", "120.00", "change", Decimal),
        ("Summa inkl moms", "120.00", "tax", Decimal),
        ("Total tax", "120.00", "total", Decimal),
        ("Down payment", "120.00", "cash", Decimal),
        ("Shipping address", "Am Ring 5, 80331 München", "shipping", Decimal),
        ("Customer number", "A-10045", "buyer", str),
        ("Please pay by", "2024-04-03", "payment_method", str),
        ("Shipping address", "Am Ring 5, 80331 München", "seller_address", str),
    ],
)
def test_a_label_within_the_label_of_something_else_names_nothing(
    label: str, value: str, field: str, kind: type[Any]
) -> None:
    model = create_model("Asked", **{field: (kind | None, None)})
    assert getattr(extract([(label, value)], model), field) is None


def test_a_due_date_is_not_the_date_of_the_document() -> None:
    class Dated(BaseModel):
        invoice_date: datetime.date | None = None
        due_date: datetime.date | None = None

    found = extract([("Due date", "03.04.2024"), ("Invoice date", "01.02.2024")], Dated)
    assert (found.invoice_date, found.due_date) == (datetime.date(2024, 2, 1), datetime.date(2024, 4, 3))
