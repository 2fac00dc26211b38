"""Names of fields, honest answers, and errors that say which rule refused what."""

import datetime
from decimal import Decimal
from typing import Any

import pytest
from made_documents import LAYOUTS, Made, made
from pydantic import BaseModel, Field, create_model, field_validator
from written_pages import AMERICAN, GERMAN, document

from vision_agent.errors import ExtractionError, InputError
from vision_agent.evaluate.document_fields import LabelledDocument, measure
from vision_agent.extract.extractor import Extractor
from vision_agent.extract.question_answering import answer_by_layout
from vision_agent.extract.rules.legal_forms import legal_form_in
from vision_agent.extract.schema_loading import _Reader
from vision_agent.extract.target import target_of

EXTRACTOR = Extractor(lambda *_, **__: None)


def concept(name: str, type_: Any = str, description: str | None = None) -> str:
    model = create_model("One", **{name: (type_ | None, Field(None, description=description))})
    return next(iter(target_of(model).leaves())).concept.name


@pytest.mark.parametrize(
    ("name", "type_", "meant"),
    [
        ("room_number", str, ".room_number"),
        ("seat_number", str, ".seat_number"), ("case_number", str, ".case_number"),
        ("tax_free_amount", Decimal, ".tax_free_amount"), ("old_total", Decimal, ".old_total"),
        ("net_total", Decimal, "subtotal"), ("invoice_total_amount", Decimal, "total"), ("total_usd", Decimal, "total"),
        ("company_number", str, "registration number"), ("customer_id", str, "customer number"), ("fax", str, "fax"),
        # Odoo's and invoice2data's own names.
        ("amount_untaxed", Decimal, "subtotal"), ("amount_total", Decimal, "total"), ("amount_tax", Decimal, "tax"),
        ("partner", str, "seller"), ("partner_name", str, "seller"), ("partner_vat", str, "tax id"),
        ("vat", str, "tax id"),
        ("vat", Decimal, "tax"), ("invoice_date_due", datetime.date, "due date"),
        ("date_due", datetime.date, "due date"),
        ("invoice_date", datetime.date, "date"), ("issuer", str, "seller"), ("partner_street", str, "seller address"),
    ],
)  # fmt: skip
def test_names_mean_a_concept_only_where_no_other_word_says_more(name: str, type_: Any, meant: str) -> None:
    assert concept(name, type_) == meant


@pytest.mark.parametrize(
    ("description", "type_", "meant"),
    [
        ("Total amount excluding VAT", Decimal, "subtotal"), ("Amount before tax", Decimal, "subtotal"),
        ("The total including tax", Decimal, "total"), ("The date of the invoice", datetime.date, "date"),
        ("The customer's name", str, "buyer"), ("Name of the company that issued the invoice", str, "seller"),
    ],
)  # fmt: skip
def test_descriptions_are_understood(description: str, type_: Any, meant: str) -> None:
    assert concept("x1", type_, description) == meant


@pytest.mark.parametrize(
    "name",
    ["Lindner Verlag mbH", "Muster GmbH", "Vest ApS", "Berg KGaA", "Bakker B.V.", "Rinaldi S.r.l.", "Meble Sp. z o.o.",
     "Harbor L.L.C.", "Fjord A/S", "Kovács Kft.", "Y\u0131ld\u0131z Ltd. \u015eti.", "Novák s.r.o.",
     "\u0395\u03bb\u03b1\u03b9\u03ce\u03bd\u03b5\u03c2 \u0391.\u0395.", "Pinto Lda",
     "Nord GmbH & Co. KG", "Savon Oy", "Amazon Web Services, Inc.", "e-Luscious Nederland B.V."],
)  # fmt: skip
def test_legal_forms_of_many_countries(name: str) -> None:
    form = legal_form_in(name)
    assert form is not None and name.endswith(form)


@pytest.mark.parametrize("text", ["GmbH", "such as", "Scranton PA 18503", "Design by Me", "1015 EA Amsterdam"])
def test_what_is_no_legal_form(text: str) -> None:
    assert legal_form_in(text) is None


@pytest.fixture(scope="module")
def papers() -> list[Made]:
    codes = ["US", "GB", "DE", "FR", "SE", "PL", "HU", "TR", "GR", "IN", "NL", "DK"]
    layouts = list(LAYOUTS)
    return [made(code, layouts[at % len(layouts)], 500 + at) for at, code in enumerate(codes)]


def test_papers_of_twelve_countries_in_nine_layouts(papers: list[Made]) -> None:
    figures = measure(LabelledDocument(each.name, each.document, each.truth, each.absent) for each in papers)
    told = figures.told()
    assert told["all"] >= 0.9 and told["fields"]["net_amount"] >= 0.9 and told["fields"]["issuer"] >= 0.8, figures.wrong
    assert told["absent fields that get a value"] <= 0.02, figures.wrong
    assert told["calibration error"] <= 0.15


def test_only_sure_values_are_found() -> None:
    model = create_model("Few", iban=(str | None, None), total=(Decimal | None, None), bic=(str | None, None))
    sure = EXTRACTOR.extract(document(GERMAN), model, min_confidence=0.5)
    assert sure.fields["iban"].found and sure.fields["total"].found and not sure.fields["bic"].found
    assert all(field.confidence >= 0.5 for field in sure.fields.values() if field.found)
    none = EXTRACTOR.extract(document(GERMAN), model, min_confidence=1.0)
    assert none.missing == ["iban", "total", "bic"] and none.value.model_dump() == dict.fromkeys(none.missing)
    for wrong in (-0.1, 1.5, "high", True):
        with pytest.raises(InputError, match="`min_confidence` must be a number from 0 to 1"):
            EXTRACTOR.extract(document(GERMAN), model, min_confidence=wrong)  # type: ignore[arg-type]


def test_numbers_without_the_right_check_digits_are_no_accounts() -> None:
    model = create_model("Bank", iban=(str | None, None), bic=(str | None, None), vat_id=(str | None, None))
    texts = [(60, 50, "Order OD30 4175 0960 4738 0001"), (60, 80, "CUSTOMER INVOICES"), (60, 110, "Case DE123456780")]
    assert EXTRACTOR.extract(document(texts), model).missing == ["iban", "bic", "vat_id"]
    right = [(60, 50, "IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFFXXX"), (60, 80, "DE136695976")]
    assert EXTRACTOR.extract(document(right), model).value.model_dump() == {
        "iban": "DE89 3704 0044 0532 0130 00", "bic": "COBADEFFXXX", "vat_id": "DE136695976",
    }  # fmt: skip


def test_a_refused_number_is_not_replaced_and_the_error_says_why() -> None:
    class Small(BaseModel):
        total: Decimal = Field(lt=100)

    with pytest.raises(ExtractionError, match=r"total: Input should be less than 100 .*154\.06") as caught:
        EXTRACTOR.extract(document(AMERICAN), Small)
    assert caught.value.missing == ("total",)
    assert caught.value.partial.fields["total"].value == Decimal("154.06")  # type: ignore[attr-defined]

    class Even(BaseModel):
        total: Decimal

        @field_validator("total")
        @classmethod
        def _even(cls, value: Decimal) -> Decimal:
            if value % 2:
                raise ValueError("totals here are even")
            return value

    with pytest.raises(ExtractionError, match=r"totals here are even.*154\.06") as caught:
        EXTRACTOR.extract(document(AMERICAN), Even)
    assert caught.value.partial.value == {"total": Decimal("154.06")}  # type: ignore[attr-defined]


def test_numbers_of_a_json_schema_are_numbers_in_json() -> None:
    model = _Reader({"type": "object", "properties": {"total": {"type": "number"}}}).model()
    found = EXTRACTOR.extract(document(AMERICAN), model)
    assert found.value.model_dump(mode="json") == {"total": 154.06}
    assert found.value.model_dump() == {"total": Decimal("154.06")}


STATEMENT = [
    (60, 50, "First Harbour Bank"), (60, 120, "Opening balance"), (600, 120, "1,000.00"), (60, 150, "Rent"),
    (600, 150, "-400.00"), (60, 250, "Closing balance"), (600, 250, "3,100.00"),
]  # fmt: skip
CLINIC = [(60, 90, "Name:"), (200, 90, "Peter Falk"), (60, 120, "Patient:"), (200, 120, "Maria Lopez"),
          (60, 150, "Temperature:"), (250, 150, "-12.5 °C")]  # fmt: skip
WARD = [(60, 90, "Patient name: Olga Lindqvist"), (60, 120, "Insured: yes"), (60, 150, "Smoker: no"),
        (60, 180, "Emergency contact: Per Lindqvist"), (60, 210, "Hospital bill paid by patient")]  # fmt: skip
ORDER = [
    (60, 380, "Description"), (400, 380, "Qty"), (500, 380, "Unit price"), (650, 380, "Amount"),
    (60, 410, "Hex bolt kit"), (405, 410, "12"), (500, 410, "4.00"), (655, 410, "48.00"),
    (60, 440, "Washer set"), (405, 440, "3"), (500, 440, "2.00"), (655, 440, "6.00"),
    (400, 500, "Total"), (650, 500, "54.00"), (60, 600, "Status: PAID"), (60, 640, "Not signed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "question", "answer"),
    [
        (STATEMENT, "closing balance?", "3,100.00"), (STATEMENT, "What is the opening balance?", "1,000.00"),
        (STATEMENT, "Is this paid?", ""), (STATEMENT, "What is the account holder's name?", ""),
        (CLINIC, "Who is the patient?", "Maria Lopez"), (CLINIC, "What is the temperature?", "-12.5 °C"),
        (WARD, "Who is the patient?", "Olga Lindqvist"), (WARD, "What is the patient's name?", "Olga Lindqvist"),
        (WARD, "Who is the emergency contact?", "Per Lindqvist"), (WARD, "Is the patient insured?", "yes"),
        (WARD, "Is the patient a smoker?", "no"), (WARD, "Is the doctor insured?", ""),
        (CLINIC, "Who is the nurse?", ""), (ORDER, "How many hex bolt kits?", "12"),
        (ORDER, "How many washer sets were ordered?", "3"), (ORDER, "Is this paid?", "yes"),
        (ORDER, "Has this invoice been paid?", "yes"), (ORDER, "Is it signed?", "no"), (ORDER, "Is it overdue?", ""),
        (ORDER, "What is the unit price of the hex bolt kit?", "4.00"), (ORDER, "What is the due date?", ""),
    ],
)  # fmt: skip
def test_questions_are_answered_by_labels_and_rows_or_not_at_all(texts: Any, question: str, answer: str) -> None:
    said = answer_by_layout(question, document(texts), "small")
    assert (said.text, said.found) == (answer, bool(answer))


@pytest.mark.parametrize(
    ("label", "number"),
    [("Αριθμός τιμολογίου", "\u03a4-311"), ("Invoice no", "Ж-42/\u0410"), ("Rechnungsnummer", "Ü-17/b")],
)
def test_identifiers_are_read_whole_in_other_alphabets(label: str, number: str) -> None:
    model = create_model("Paper", invoice_number=(str | None, None))
    texts = [(60, 50, "Ermou 12"), (60, 100, label), (400, 100, number)]
    assert EXTRACTOR.extract(document(texts), model).value.model_dump() == {"invoice_number": number}


@pytest.mark.parametrize(
    "text", ["R-2291/24", "FV/17/2024", "DP-2024/881", "INV/2024/00031", "FT 2024/77", "100 000 Ft", "1100-001 Lisboa"]
)
def test_parts_of_other_numbers_are_no_telephones(text: str) -> None:
    model = create_model("Paper", phone=(str | None, None))
    assert EXTRACTOR.extract(document([(60, 50, "Harbour Lamps"), (60, 100, text)]), model).missing == ["phone"]
    told = [(60, 50, "Harbour Lamps"), (60, 100, "Tel. 0451/229 124")]
    assert EXTRACTOR.extract(document(told), model).value.model_dump() == {"phone": "0451/229 124"}
