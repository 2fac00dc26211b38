"""Words: RapidOCR, and the `[OCR]` route that reads with it."""
