"""Verbs and training on one and on two pretended accelerators give what the CPU gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("scenarios.py")
# How many there are, so that none is left out unseen.
# Most waits of the host. A route's are two, whatever the number of phrases: for whether its states and what the decoder
# makes of an image are numbers, and for the result; masks' boxes are a result, too. A written token's is one.
MOST_WAITS = {"detect": 2, "run_route": 3, "run_route, many phrases": 2, "count": 2, "load_adapter": 2}
MOST_WAITS |= {"segment": 3, "segment, boxes": 1, "segment, points": 2, "point": 3}
MOST_WAITS |= {"generate": 2, "edit": 2, "ask, plain": 6, "ask, sampled": 6}
SCENARIOS = {("default", "one"): 23, ("default", "two"): 23, ("tiny", "one"): 12, ("tiny", "two"): 12}
SCENARIOS |= {("training", "one"): 4, ("training", "two"): 2}


@pytest.mark.parametrize(("group", "places"), list(SCENARIOS))
def test_results_equal_those_of_the_cpu(group: str, places: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    # The device changes torch for good, so it has a process of its own.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), group, places, "--json", str(report)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes: list[dict[str, Any]] = json.loads(report.read_text("utf-8"))
    assert len(outcomes) == SCENARIOS[group, places]
    assert {each["name"]: each["differences"] for each in outcomes if each["differences"]} == {}
    # What runs on a device has to be waited for: no waits at all would mean that it ran on the CPU.
    assert all(each["waits"] > 0 for each in outcomes)
    if (group, places) == ("default", "one"):
        waits = {each["name"]: each["waits"] for each in outcomes}
        assert {name: waits[name] for name, most in MOST_WAITS.items() if waits[name] > most} == {}
