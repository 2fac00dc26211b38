"""Signs, groups and currencies of numbers, and months of many languages, read by `extract` from a page."""

import datetime
import unicodedata
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_documents import COUNTRIES
from pydantic import BaseModel, create_model
from written_pages import Text, document

from vision_agent.extract.extractor import Extractor
from vision_agent.extract.values.amounts import find_numbers
from vision_agent.extract.values.dates import find_dates


def field(texts: list[Text], name: str, type_: Any, **options: Any) -> Any:
    """The value of one optional field of a page."""
    model: type[BaseModel] = create_model("One", **{name: (type_ | None, None)})
    return getattr(Extractor(lambda *_, **__: None).extract(document(texts), model, **options).value, name)


SIGNED = [
    ("-$48.00", "-48.00"), ("48.00-", "-48.00"), ("(48.00)", "-48.00"), ("402.00 CR", "-402.00"),
    ("\u221248.00", "-48.00"), ("-kr 6.645,00", "-6645.00"), ("-\u00a3402.00", "-402.00"), ("($2,500.00)", "-2500.00"),
    ("48,00- \u20ac", "-48.00"), ("- 48,00 \u20ac", "-48.00"), ("\u201348,00 EUR", "-48.00"), ("48.00", "48.00"),
    # Printed in bug reports of price-parser, SheetJS, parsecurrency and invoice2data.
    ("R$ -2,00", "-2.00"), ("-$100,000.00", "-100000.00"), ("-2,525,077.54", "-2525077.54"), ("-kr 6.645", "-6645"),
    ("$(2,500.00)", "-2500.00"), ("$(12,500.00)", "-12500.00"), ("\u20ac -15.00", "-15.00"), ("\u20ac-15.00", "-15.00"),
    ("$108.43 cr", "-108.43"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["total", "balance_owed"])
@pytest.mark.parametrize(("text", "value"), SIGNED)
def test_signs_are_kept(text: str, value: str, name: str) -> None:
    label = "Total" if name == "total" else "Balance owed"
    for place in (
        [(60, 90, f"{label}: {text}")],
        [(60, 90, label), (500, 90, text)],
        [(60, 90, label), (60, 115, text)],
    ):
        assert field([(60, 40, "Credit note"), *place], name, Decimal) == Decimal(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("Temperature: -12.5 °C", "-12.5"), ("Temperature \u22123 °C", "-3"), ("Temperature: 4 °C", "4")],
)
def test_readings_below_zero(text: str, value: str) -> None:
    assert field([(60, 50, text)], "temperature", Decimal) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        "Total - 48.00",
        "Total \u2013 48.00",
        "Total (incl. 48.00 tax): 48.00",
        "Total: 48.00 (USD 48.00)",
        "Total: 10-48.00",
    ],
)
def test_dashes_and_brackets_that_are_no_signs(text: str) -> None:
    assert field([(60, 50, text)], "total", Decimal) in (Decimal("48.00"), Decimal("10"))


NUMBERS = [
    ("1 500 \u20ac", "1500"), ("1\u00a0500 \u20ac", "1500"), ("1\u202f500 EUR", "1500"), ("1\u2009500 EUR", "1500"),
    ("1 500 EUR", "1500"), ("12 345 kWh", "12345"), ("1 000 000 EUR", "1000000"), ("\u20b911,80,000", "1180000"),
    ("\u20b9 1,18,000.00", "118000.00"), ("12345678", "12345678"), ("2\u00bd", "2.5"), ("10\u00bd", "10.5"),
    ("10 1/2", "10.5"), ("81 %", "81"), ("81%", "81"), ("1'234.50", "1234.50"), ("1\u2019234.50", "1234.50"),
    # Printed in bug reports and tests of price-parser, OCA/edi and parse-price.js.
    ("PTE 120 000 000", "120000000"), ("$ 1.144.000", "1144000"), ("$ 119,999", "119999"),
    ("\u20ac1'049,95", "1049.95"), ("Rp 31.500", "31500"), ("5 870 \u0433\u0440\u043d.", "5870"),
    ("90 728.00 \u0440\u0443\u0431", "90728.00"), ("9 800 K\u010d", "9800"), ("42'987,56", "42987.56"),
    ("1,234,567.890", "1234567.890"), ("1.234.123 \u20ac", "1234123"), ("\u0e3f 3.3900", "3.3900"),
    ("423.923 KD", "423.923"), ("17 940,00 \u0440\u0443\u0431", "17940.00"), ("$119. 95", "119.95"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_numbers_are_read_whole(text: str, value: str) -> None:
    for place in ([(60, 90, f"Meter count: {text}")], [(60, 90, "Meter count"), (500, 90, text)]):
        assert field([*place, (60, 200, "Page 3 of 7")], "meter_count", Decimal) == Decimal(value)


def test_a_whole_number_of_eight_digits_is_an_integer_too() -> None:
    assert field([(60, 50, "Inhabitants: 12345678")], "inhabitants", int) == 12345678
    assert field([(60, 50, "Reg No: 12345678"), (60, 90, "Total"), (300, 90, "5.00")], "total", Decimal) == 5


@pytest.mark.parametrize(
    ("texts", "currency"),
    [
        ([(60, 50, "Maple Tools, Toronto ON M5V 2T6"), (60, 90, "GST/HST: $5.00"), (60, 120, "Total: $80.00")], "CAD"),
        ([(60, 50, "Reef Dive Pty Ltd ABN 51 824 753 556"), (60, 120, "Total: $80.00")], "AUD"),
        ([(60, 50, "Fjell AS, Oslo, Norge"), (60, 90, "Å betale: 80,00 kr")], "NOK"),
        ([(60, 50, "Vest ApS CVR-nr. 13585628"), (60, 90, "I alt: kr. 80,00")], "DKK"),
        ([(60, 50, "Ek AB, 903 26 Umeå, Sverige"), (60, 90, "Att betala: 80,00 kr")], "SEK"),
        ([(60, 50, "Oak Inc., Denver, CO 80202"), (60, 90, "Total: $80.00")], "USD"),
    ],
)
def test_the_country_says_which_dollar_or_crown_it_is(texts: list[Text], currency: str) -> None:
    assert field(texts, "currency", str) == currency


def test_a_field_named_after_a_currency_takes_the_amount_in_it() -> None:
    texts: list[Text] = [
        (60, 50, "Total (USD)"),
        (400, 50, "$1,180.00"),
        (60, 90, "Total (EUR)"),
        (400, 90, "\u20ac1,080.00"),
    ]
    assert field(texts, "total_usd", Decimal) == Decimal("1180.00")
    assert field(texts, "total_eur", Decimal) == Decimal("1080.00")
    assert field(texts, "total_gbp", Decimal) is None


@given(
    st.decimals(min_value=-(10**9), max_value=10**9, places=2),
    st.sampled_from([country for country in COUNTRIES.values()]),
    st.sampled_from(["-{}", "{}-", "({})", "\u2212{}"]),
    st.integers(0, 5),
)
def test_what_a_country_prints_is_read_back(value: Decimal, country: Any, minus: str, pick: int) -> None:
    group, mark = country.marks[pick % len(country.marks)]
    whole, _, rest = f"{abs(value):,.2f}".partition(".")
    printed = country.money[pick % len(country.money)].format(
        f"{whole.replace(',', ',' if group == 'lakh' else group)}{mark}{rest}"
    )
    (number,) = find_numbers(minus.format(printed) if value < 0 else printed)
    assert number.value == value and number.currency is not None


def capitals(name: str) -> str:
    """A month in capitals; Greek ones have no accents."""
    plain = "".join(part for part in unicodedata.normalize("NFD", name) if not unicodedata.combining(part))
    return plain.upper() if "\u0370" <= name[0] <= "\u03ff" else name.upper()


@pytest.mark.parametrize("country", [each for each in COUNTRIES.values() if each.months], ids=lambda each: each.code)
def test_months_of_many_languages(country: Any) -> None:
    for number, name in enumerate(country.months, start=1):
        for text in (f"14 {name} 2023", f"14. {name} 2023", f"14 {capitals(name)} 2023", f"2023. {name} 14."):
            assert [found.value for found in find_dates(text)] == [datetime.date(2023, number, 14)], text


@pytest.mark.parametrize(
    ("text", "day"),  # OCA/edi and dateparser: forms that their users met
    [("July 14th, 2022", (2022, 7, 14)), ("1er Janvier 2022", (2022, 1, 1)), ("2024 m. kovo 5 d.", (2024, 3, 5)),
     ("8\u03b7 \u039c\u03b1\u03c1\u03c4\u03af\u03bf\u03c5 2024", (2024, 3, 8)), ("2024.03.05.", (2024, 3, 5))],
)  # fmt: skip
def test_days_as_others_print_them(text: str, day: tuple[int, int, int]) -> None:
    assert [found.value for found in find_dates(text)] == [datetime.date(*day)]


@pytest.mark.parametrize("title", ["Rechnung Rechnungsnummer", "Invoice Invoice No", "Faktura nr", "Fatura No"])
def test_a_number_behind_a_title_and_its_label_is_without_them(title: str) -> None:
    class Paper(BaseModel):
        invoice_number: str

    found = Extractor(lambda *_, **__: None).extract(document([(60, 40, f"{title} 2024-83898212")]), Paper)
    assert found.value.invoice_number == "2024-83898212"
