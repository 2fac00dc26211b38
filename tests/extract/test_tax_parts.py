"""Taxes in parts: several rates, several taxes on one amount, written sums and sums that nobody wrote."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import made_documents
import pytest
from pydantic import create_model
from written_pages import Text, document

from vision_agent.extract.extractor import Extractor
from vision_agent.extract.rules.tax_parts import Asked, asked_part

EXTRACTOR = Extractor(lambda *_, **__: None)
CENTS = Decimal("0.01")


def rows(*cells: Sequence[str], columns: Sequence[float] = (60, 300, 460, 620), top: float = 300) -> list[Text]:
    return [
        (x, top + 30 * at, text) for at, row in enumerate(cells) for x, text in zip(columns, row, strict=False) if text
    ]


def asked(texts: list[Text], *names: str) -> Any:
    fields: dict[str, Any] = {name: (Decimal | None, None) for name in names}
    return EXTRACTOR.extract(document([(60, 40, "Muster & Co"), *texts]), create_model("Paper", **fields))


def values(texts: list[Text], *names: str) -> list[str | None]:
    found = asked(texts, *names)
    return [None if (value := getattr(found.value, name)) is None else f"{value:f}" for name in names]


# The amounts of the sample EN16931_Einfach that is published with ZUGFeRD 2 (FeRD).
ZUGFERD = rows(
    ("1", "Trennblätter A4", "20 x 9,90", "198,00"),
    ("2", "Joghurt Banane", "50 x 5,50", "275,00"),
    ("", "", "Nettosumme", "473,00"),
    ("", "", "MwSt 7 %", "19,25"),
    ("", "", "MwSt 19 %", "37,62"),
    ("", "", "Gesamtbetrag", "529,87"),
)
SUMMED = rows(
    ("Stawka VAT", "Wartość netto", "Kwota VAT", "Wartość brutto"),
    ("5%", "200,00", "10,00", "210,00"),
    ("23%", "300,00", "69,00", "369,00"),
    ("Razem", "500,00", "79,00", "579,00"),
)
UNSUMMED = rows(
    ("Aliquota", "Imponibile", "Imposta"),
    ("10%", "150,00", "15,00"),
    ("22%", "50,00", "11,00"),
    ("Totale documento", "", "226,00"),
)
HALVES = rows(
    ("Taxable Value", "10,000.00"), ("CGST @ 9%", "900.00"), ("SGST @ 9%", "900.00"), ("Grand Total", "11,800.00")
)
NAMED = rows(
    ("Subtotal", "$1,000.00"), ("GST", "$50.00"), ("PST", "$70.00"), ("Total", "$1,120.00")
)  # fmt: skip
INCLUDED = rows(("Zimmer", "400,00"), ("Getränke", "60,00"), ("Total", "460,00"),
                ("darin 10% USt", "36,36"), ("darin 20% USt", "10,00"))  # fmt: skip
IN_COLUMNS = rows(
    ("Item", "Taxable Value", "CGST", "SGST", "Total"),
    ("Cotton", "5,000.00", "125.00", "125.00", "5,250.00"),
    ("Silk", "10,000.00", "600.00", "600.00", "11,200.00"),
    ("Total", "15,000.00", "725.00", "725.00", "16,450.00"),
    columns=(60, 220, 400, 520, 640),
)
WITHHELD = rows(("Base imponible", "1.000,00"), ("IVA 10%", "40,00"), ("IVA 21%", "126,00"),
                ("Retención IRPF 15%", "-150,00"), ("Total a pagar", "1.016,00"))  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "net", "tax", "total"),
    [
        (ZUGFERD, "473.00", "56.87", "529.87"),
        (SUMMED, "500.00", "79.00", "579.00"),
        (UNSUMMED, "200.00", "26.00", "226.00"),
        (HALVES, "10000.00", "1800.00", "11800.00"),
        (NAMED, "1000.00", "120.00", "1120.00"),
        (INCLUDED, None, "46.36", "460.00"),
        (IN_COLUMNS, "15000.00", "1450.00", "16450.00"),
        (WITHHELD, "1000.00", "166.00", "1016.00"),
    ],
    ids=["lines", "summed", "unsummed", "halves", "named", "included", "columns", "withheld"],
)
def test_the_documents_own_amounts_are_those_of_all_parts(
    texts: list[Text], net: str | None, tax: str, total: str
) -> None:
    got = values(texts, "net", "tax", "total")
    assert got[1:] == [tax, total]
    assert got[0] in (net, None) if net is None else got[0] == net


def test_a_sum_that_is_not_written_points_to_all_its_parts() -> None:
    found = asked(UNSUMMED, "net", "tax")
    assert found.fields["tax"].text == "15,00 11,00"
    box = found.fields["net"].box
    assert (box.y0, box.y1) == (330, 380)
    assert found.fields["tax"].confidence > 0.9


def test_a_written_sum_is_taken_from_where_it_is_written() -> None:
    found = asked(SUMMED, "tax")
    assert (found.fields["tax"].text, found.fields["tax"].box.y0) == ("79,00", 390)


def test_a_sum_beside_its_lines_is_taken_from_where_it_is_written() -> None:
    found = asked(rows(("Total HT", "300,00"), ("TVA 5,5 %", "5,50"), ("TVA 10 %", "20,00"), ("Total TVA", "25,50"),
                       ("Total TTC", "325,50")), "tax")  # fmt: skip
    assert (found.fields["tax"].text, found.fields["tax"].box.y0) == ("25,50", 390)


def test_equal_halves_are_two_places() -> None:
    found = asked(HALVES, "cgst", "sgst", "igst")
    assert (found.value.cgst, found.value.sgst, found.value.igst) == (Decimal("900.00"), Decimal("900.00"), None)
    assert found.fields["cgst"].box.y0 < found.fields["sgst"].box.y0


def test_parts_by_their_names_and_rates() -> None:
    assert values(ZUGFERD, "mwst_7", "vat_19", "tax_19_percent", "vat_21") == ["19.25", "37.62", "37.62", None]
    assert values(UNSUMMED, "net_10", "iva_22") == ["150.00", "11.00"]
    assert values(NAMED, "gst", "pst", "qst", "tax") == ["50.00", "70.00", None, "120.00"]
    assert values(IN_COLUMNS, "cgst_amount", "sgst_amount") == ["725.00", "725.00"]


def test_several_rates_are_no_single_rate() -> None:
    assert values(UNSUMMED, "tax_rate") == [None]
    assert values(rows(("Net", "100.00"), ("VAT 20 %", "20.00"), ("Total", "120.00")), "tax_rate") == ["20"]


@pytest.mark.parametrize(
    "texts",
    [
        # What does not add up is no sum: a part is not made to fit.
        rows(("Net", "100.00"), ("VAT 7 %", "7.00"), ("VAT 19 %", "19.00"), ("Total", "107.00")),
        # The same tax, said twice.
        rows(("Net", "100.00"), ("VAT 7 %", "7.00"), ("Of which VAT 7 %", "7.00"), ("Total", "107.00")),
    ],
)
def test_lines_that_do_not_add_up_are_not_added(texts: list[Text]) -> None:
    assert values(texts, "net", "tax", "total") == ["100.00", "7.00", "107.00"]


@pytest.mark.parametrize("code", sorted(made_documents.COUNTRIES))
def test_two_rates_in_all_countries(code: str) -> None:
    paper = made_documents.made(code, "rates", 5)
    names = ("net_amount", "tax_amount", "total_amount")
    found = EXTRACTOR.extract(paper.document, create_model("Paper", **{name: (Decimal | None, None) for name in names}))
    assert {name: str(getattr(found.value, name)) for name in names} == {name: paper.truth[name] for name in names}


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("vat_19", Asked("tax", Decimal(19), "vat")),
        ("taxable_7", Asked("net", Decimal(7), "")),
        ("net_7", Asked("net", Decimal(7), "")),
        ("vat_5_5", Asked("tax", Decimal("5.5"), "vat")),
        ("CGST_amount", Asked("tax", None, "cgst")),
        ("cgst_rate", None),
        ("vat", None),
        ("total_2024", None),
        ("line_7", None),
        ("room_12_tax", None),
    ],
)
def test_what_a_name_asks_for(name: str, means: Asked | None) -> None:
    assert asked_part(name) == means
