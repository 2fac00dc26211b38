"""Values as they are written: amounts, dates, and their spellings."""
