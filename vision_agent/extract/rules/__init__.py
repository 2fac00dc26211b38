"""Rules of the layout engine: labels, parties, totals, line items."""
