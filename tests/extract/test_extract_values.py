"""Numbers and dates as people print them, and texts compared in spite of a scanner's slips."""

import datetime
import json
from decimal import Decimal
from importlib.resources import files
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import create_model

from vision_agent.documents.text_match import find_folded, fold, folded, likeness, words_of
from vision_agent.extract.target import Leaf, target_of
from vision_agent.extract.values.amounts import decimal_mark_of, find_numbers, parse_number
from vision_agent.extract.values.coerce import readings
from vision_agent.extract.values.currencies import find_currencies
from vision_agent.extract.values.dates import date_order_of, find_dates, find_time
from vision_agent.extract.values.spelling import respelled


@pytest.mark.parametrize(
    ("text", "value", "currency"),
    [
        ("1.234,56 €", "1234.56", "EUR"),
        ("€1,234.56", "1234.56", "EUR"),
        ("1 234,56 EUR", "1234.56", "EUR"),
        ("CHF 1'250.00", "1250.00", "CHF"),
        ("$8.20", "8.20", "USD"),
        ("RM60.30", "60.30", "MYR"),
        ("(5.00)", "-5.00", None),
        ("5.00-", "-5.00", None),
        ("-0.01", "-0.01", None),
        ("20,- €", "20", "EUR"),
        ("60. 30", "60.30", None),
        ("USD 1,234", "1234", "USD"),
        ("12.345.678", "12345678", None),
    ],
)
def test_amounts(text: str, value: str, currency: str | None) -> None:
    (number,) = find_numbers(text)
    assert (number.value, number.currency) == (Decimal(value), currency)


def test_what_is_no_number() -> None:
    assert find_numbers("TD01167104") == [] and find_numbers("12.03.2024") == []
    assert parse_number("1 x 2.50") is None
    (rate,) = find_numbers("VAT 19 %")
    assert rate.percent and rate.value == 19


def test_the_document_tells_its_decimal_mark() -> None:
    assert decimal_mark_of(["1.250,00", "7,50", "1.234"]) == ","
    assert decimal_mark_of(["1,250.00", "7.50"]) == "."
    assert decimal_mark_of(["12"]) == "."
    assert find_numbers("1.234", ",")[0].value == 1234 and find_numbers("1.234", ".")[0].value == Decimal("1.234")


@given(
    st.decimals(min_value=0, max_value=10**9, places=2),
    st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", ".")]),
)
def test_printed_amounts_are_read_back(value: Decimal, marks: tuple[str, str]) -> None:
    group, mark = marks
    printed = f"{value:,.2f}".replace(",", "\0").replace(".", mark).replace("\0", group)
    assert [number.value for number in find_numbers(printed)] == [value]


def test_currencies_are_signs_and_codes_not_words() -> None:
    assert [code for code, _, _ in find_currencies("Total (EUR)")] == ["EUR"]
    assert find_currencies("please try again") == []


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("25/12/20188:13:39PM", (2018, 12, 25)),
        ("12/03/1815:25", (2018, 3, 12)),
        ("05 MAR 2018", (2018, 3, 5)),
        ("05MAR2018", (2018, 3, 5)),
        ("15. Januar 2024", (2024, 1, 15)),
        ("2 de enero de 2024", (2024, 1, 2)),
        ("3 août 2023", (2023, 8, 3)),
        ("1er mars 2022", (2022, 3, 1)),
        ("March 3, 2021", (2021, 3, 3)),
        ("2024-02-29", (2024, 2, 29)),
        ("12.03.2024", (2024, 3, 12)),
        ("20180310", (2018, 3, 10)),
        ("27032018", (2018, 3, 27)),
        ("2O/O3/2018", (2018, 3, 20)),
        ("05/31/2020", (2020, 5, 31)),
    ],
)
def test_dates(text: str, day: tuple[int, int, int]) -> None:
    assert [found.value for found in find_dates(text)] == [datetime.date(*day)]


@pytest.mark.parametrize("text", ["31/02/2024", "05.22.95.66.66", "1234/5678"])
def test_what_is_no_date(text: str) -> None:
    assert find_dates(text) == []


@given(
    st.dates(datetime.date(1990, 1, 1), datetime.date(2060, 1, 1)),
    st.sampled_from(["%d/%m/%Y", "%Y-%m-%d", "%d.%m.%Y", "%d %B %Y", "%B %d, %Y"]),
)
def test_printed_dates_are_read_back(day: datetime.date, form: str) -> None:
    assert find_dates(day.strftime(form))[0].value == day


def test_order_of_day_and_month() -> None:
    assert date_order_of(["04/03/2024", "04/25/2024"]) == "mdy"
    assert date_order_of(["04/03/2024", "25/04/2024"]) == "dmy"
    assert date_order_of(["Boston, MA 02110"]) == "mdy" and date_order_of([]) == "dmy"
    assert find_dates("04/03/2024", "mdy")[0].value == datetime.date(2024, 4, 3)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("at 8:13 PM", (20, 13)),
        ("12:00 AM", (0, 0)),
        ("12:30 a.m.", (0, 30)),
        ("1:30 am", (1, 30)),
        ("11:59 AM", (11, 59)),
        ("12:00 PM", (12, 0)),
        ("12:59 p.m.", (12, 59)),
        ("1:00PM", (13, 0)),
        ("11:59 pm", (23, 59)),
        ("8.15 pm", (20, 15)),
        ("00:00", (0, 0)),
        ("23:59:58", (23, 59, 58)),
        ("13:05 PM", (13, 5)),
    ],
)
def test_times(text: str, time: tuple[int, ...]) -> None:
    found = find_time(text)
    assert found is not None and found[0] == datetime.time(*time)


@pytest.mark.parametrize("text", ["12.50", "24:00", "7:60", "1:2", ""])
def test_what_is_no_time(text: str) -> None:
    assert find_time(text) is None


@pytest.mark.parametrize(
    ("written", "year"),
    [("00", 2000), ("01", 2001), ("49", 2049), ("50", 2050), ("68", 2068), ("69", 2069), ("70", 1970), ("99", 1999)],
)
def test_years_of_two_digits(written: str, year: int) -> None:
    for text in (f"01/02/{written}", f"1 Feb {written}", f"Feb 1, {written}", f"01.02.{written}"):
        assert [found.value for found in find_dates(text)] == [datetime.date(year, 2, 1)], text


@pytest.mark.parametrize(
    ("text", "order", "day"),
    [
        ("25/04/2024", "mdy", (2024, 4, 25)),
        ("13/12/2024", "mdy", (2024, 12, 13)),
        ("12/12/2024", "mdy", (2024, 12, 12)),
        ("12/13/2024", "dmy", (2024, 12, 13)),
        ("12/11/2024", "dmy", (2024, 11, 12)),
        ("12/11/2024", "mdy", (2024, 12, 11)),
    ],
)
def test_days_over_twelve_settle_the_order(text: str, order: Literal["dmy", "mdy"], day: tuple[int, int, int]) -> None:
    assert [found.value for found in find_dates(text, order)] == [datetime.date(*day)]


def test_an_address_does_not_outweigh_a_date() -> None:
    assert date_order_of(["Boston, MA 02110", "25/04/2024"]) == "dmy"
    assert date_order_of(["04/25/2024", "25/04/2024"]) == "dmy"  # a tie
    assert date_order_of(["12/12/2024"]) == "dmy"


@pytest.mark.parametrize(
    ("text", "mark", "value"),
    [
        ("0.125", ",", "0.125"),
        ("0,125", ".", "0.125"),
        ("1.234", ".", "1.234"),
        ("1.234", ",", "1234"),
        ("1,234", ",", "1.234"),
        ("1234.567", ",", "1234.567"),
        ("1.234,5", ".", "1234.5"),
        ("1,234.5", ",", "1234.5"),
        ("1.234.567", ".", "1234567"),
        ("(12.50)", ".", "-12.50"),
        ("12.50)", ".", "12.50"),
        ("(12.50", ".", "12.50"),
        ("INV-12", ".", "12"),
        ("- 12.50", ".", "-12.50"),
        ("\u221212.50", ".", "-12.50"),
    ],
)
def test_marks_signs_and_groups(text: str, mark: Literal[".", ","], value: str) -> None:
    assert [number.value for number in find_numbers(text, mark)] == [Decimal(value)]


def test_groups_of_thousands_tell_the_other_mark() -> None:
    assert decimal_mark_of(["1.234.567"]) == "," and decimal_mark_of(["1,234,567"]) == "."
    assert decimal_mark_of(["1.234.567", "5,5"]) == ","


def test_folding_finds_words_that_were_joined_or_misread() -> None:
    assert folded("Fällig am:") == "falligam" and words_of("invoice_dueDate") == ("invoice", "due", "date")
    assert find_folded("totalamount", fold("TotalAmount: 5"))[0][2] == 1
    assert 0.8 < find_folded("totalamount", fold("T0TAL AMOUNT"))[0][2] < 1
    assert find_folded("total", fold("subtotal")) == []
    assert find_folded("date", fold("update")) == []


@given(st.text(alphabet="abcdef", max_size=12), st.text(alphabet="abcdef", max_size=12))
def test_likeness_is_symmetric_and_bounded(first: str, second: str) -> None:
    assert likeness(first, second) == likeness(second, first)
    assert 0 <= likeness(first, second) <= 1
    assert (likeness(first, second) == 1) == (first == second)


@pytest.mark.parametrize(
    ("read", "kind", "printed"),
    [
        ("ELKEN SERVICE SON. BHD.", "party", "ELKEN SERVICE SDN. BHD."),
        ("TSH POWER HARDWÀRE", "party", "TSH POWER HARDWARE"),
        ("HON HWA HARDWARETRADING", "party", "HON HWA HARDWARE TRADING"),
        ("SUBANG HEAL THCARE SDN BHD", "party", "SUBANG HEALTHCARE SDN BHD"),
        ("KMF FO0DICIOUS", "party", "KMF FOODICIOUS"),
        ("99 SPEED MART S7B 519537-X)", "party", "99 SPEED MART S/B 519537-X)"),
        ("First City Parking Sn Bhd", "party", "First City Parking Sdn Bhd"),
        ("GREEN FIELDS SDNBHD", "party", "GREEN FIELDS SDN BHD"),
        ("Harbour View Ple Ltd", "party", "Harbour View Pte Ltd"),
        ("GUARDIAN BEALTH AND BEAUTY", "party", "GUARDIAN HEALTH AND BEAUTY"),
        ("10115 Berlln", "address", "10115 Berlin"),
    ],
)
def test_well_known_words_are_set_right(read: str, kind: Literal["party", "address"], printed: str) -> None:
    assert respelled(read, kind) == printed


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Acme Trading Ltd", "party"),
        ("ROSSI S.r.l.", "party"),
        ("Son and Daughters", "party"),
        ("Studie", "party"),
        ("SUPER MARKET", "party"),
        ("BUS/BAHN GMBH", "party"),
        ("PLAN S/9 STUDIO", "party"),
        ("Sn and Bhd", "party"),
        ("ACE LTD", "party"),
        ("Plant One Ltd", "party"),
        ("Bäckerei Müller", "party"),
        ("Bremer Str. 5, 10115 Berlin", "address"),
        ("176 Jln Sungei Besi", "address"),
    ],
)
def test_other_words_are_left_alone(text: str, kind: Literal["party", "address"]) -> None:
    assert respelled(text, kind) == text


def leaf(kind: object) -> Leaf:
    (found,) = target_of(create_model("Only", value=(kind, ...))).leaves()
    return found


@pytest.mark.parametrize(
    ("words", "truth"),
    [("yes", True), ("[x]", True), ("Sí", True), ("ja.", True), ("no", False), ("Non", False), ("NEIN", False)],
)
def test_words_for_yes_and_no(words: str, truth: bool) -> None:
    assert list(readings(leaf(bool), words, words)) == [truth]
    assert not list(readings(leaf(bool), "maybe", "maybe"))


def test_only_whole_numbers_are_integers() -> None:
    assert 2 in list(readings(leaf(int), Decimal("2.0"), "2.0"))
    assert all(isinstance(each, Decimal | float) for each in readings(leaf(int), Decimal("2.5"), "2.5"))
    assert list(readings(leaf(float), Decimal("2.5"), "2.5"))[-1] == 2.5


@pytest.mark.parametrize(
    "text",
    [
        "5 \u0645\u0627\u0631\u0633 2024",
        "\u0665 \u0645\u0627\u0631\u0633 \u0662\u0660\u0662\u0664",
        "5 \u05d1\u05de\u05e8\u05e5 2024",
        "2024\ub144 3\uc6d4 5\uc77c",
        "ng\u00e0y 5 th\u00e1ng 3 n\u0103m 2024",
        "\u0665/\u0663/\u0662\u0660\u0662\u0664",
    ],
)
def test_dates_in_arabic_hebrew_korean_and_vietnamese(text: str) -> None:
    assert [found.value for found in find_dates(text)] == [datetime.date(2024, 3, 5)]


def test_months_in_every_language_that_is_known() -> None:
    """The same names, by CLDR: each is a date between a day and a year."""
    names = json.loads(files("vision_agent.extract").joinpath("months.json").read_text("utf-8"))["months"]
    for month, each in enumerate(names, start=1):
        for name in each:
            assert [found.value for found in find_dates(f"7 {name} 2024")] == [datetime.date(2024, month, 7)], name
