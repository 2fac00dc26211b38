"""An invoice as your own object, with the place each value was read from: `python examples/invoice.py [FILE]`."""

import sys
from datetime import date
from decimal import Decimal

from pydantic import BaseModel

from vision_agent import VisionAgent


class Line(BaseModel):
    description: str
    quantity: int
    amount: Decimal


class Invoice(BaseModel):
    seller: str
    invoice_number: str
    date: date
    lines: list[Line]
    total: Decimal


file = sys.argv[1] if len(sys.argv) > 1 else __file__.replace(".py", ".pdf")
found = VisionAgent().extract(file, Invoice)
print(found.value.model_dump_json(indent=2))
print({name: (field.page, field.text, round(field.confidence, 2)) for name, field in found.fields.items()})
found.draw().save("invoice.png")
