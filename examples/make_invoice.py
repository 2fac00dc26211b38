"""Makes `invoice.pdf`, the invoice that `invoice.py` reads. Needs reportlab: `python examples/make_invoice.py`."""

from pathlib import Path

from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

FILE = Path(__file__).with_name("invoice.pdf")
LINES = (("Birch plywood 12 mm", 4, 38.5), ("Wood screws 4 x 40, box", 2, 11.9), ("Cutting to size", 3, 15.0))


def make(file: Path = FILE) -> None:
    """Draw one page: the seller on top, the buyer left, dates right, a table of lines, and the sums."""
    canvas = Canvas(str(file), pagesize=A4, invariant=True)
    net = sum(count * price for _, count, price in LINES)
    tax = round(net * 0.19, 2)

    def put(x: float, y: float, text: str, size: float = 10, bold: bool = False) -> None:
        canvas.setFont("Helvetica-Bold" if bold else "Helvetica", size)
        canvas.drawString(x, y, text)

    def right(x: float, y: float, text: str, bold: bool = False) -> None:
        canvas.setFont("Helvetica-Bold" if bold else "Helvetica", 10)
        canvas.drawRightString(x, y, text)

    put(60, 770, "Harbour Timber Ltd", 18, bold=True)
    for index, text in enumerate(("14 Dock Street", "Bristol BS1 4RB", "VAT No: GB 123 4567 89")):
        put(60, 750 - 14 * index, text)
    put(400, 770, "INVOICE", 16, bold=True)
    for index, (name, value) in enumerate(
        (("Invoice no.", "HT-2031"), ("Invoice date", "14 March 2025"), ("Due date", "13 April 2025"))
    ):
        put(360, 690 - 16 * index, name)
        put(450, 690 - 16 * index, value)
    for index, text in enumerate(("Bill to", "Oak & Daughters", "7 Mill Lane", "Bath BA1 1UA")):
        put(60, 690 - 14 * index, text, bold=index == 0)
    for x, text in ((60, "Description"), (330, "Qty"), (400, "Unit price"), (495, "Amount")):
        put(x, 590, text, bold=True)
    canvas.line(60, 584, 535, 584)
    for index, (text, count, price) in enumerate(LINES):
        put(60, 568 - 18 * index, text)
        right(348, 568 - 18 * index, str(count))
        right(448, 568 - 18 * index, f"{price:.2f}")
        right(535, 568 - 18 * index, f"{count * price:.2f}")
    for index, (text, amount) in enumerate((("Net amount", net), ("VAT 19 %", tax), ("Total", net + tax))):
        put(400, 480 - 18 * index, text, bold=text == "Total")
        right(535, 480 - 18 * index, f"£{amount:,.2f}", bold=text == "Total")
    canvas.save()


if __name__ == "__main__":
    make()
