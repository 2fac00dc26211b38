"""Runs at the start of every Python process that a test starts: it has the fault of its parent."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from planting import plant

sys.path.pop()
plant()
