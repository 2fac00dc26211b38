"""`--verify`: what `detect` and `run` find is looked at again, in a shell, in batches and by servers."""

import json
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import PHOTOS

from vision_agent import Detections, InputError, VisionAgent
from vision_agent.batch import ImageJob
from vision_agent.batch.records import read_records
from vision_agent.batch.served_requests import ServedRequest

PARK = PHOTOS / "000000139872.jpg"  # a dog, and no cat


def test_a_dog_that_is_taken_for_a_cat_goes(cli: CommandLine, agent: VisionAgent) -> None:
    asked = ["detect", "cat; dog", PARK, "--detail", "low"]
    once, again = cli(*asked), cli(*asked, "--verify")
    assert {line.split("\t")[0] for line in once.stdout.splitlines()} == {"cat", "dog"}
    assert {line.split("\t")[0] for line in again.stdout.splitlines()} == {"dog"}
    assert (
        again.returncode == 0
        and "nothing found for 'cat'" in cli("detect", "cat", PARK, "--detail", "low", "--verify").stderr
    )
    own = agent.detect(["cat", "dog"], PARK, detail="low", verify=True)
    assert Detections.model_validate_json(cli(*asked, "--verify", "--json").stdout) == own


def test_rounds_of_a_run_are_steps(cli: CommandLine) -> None:
    asked = ["run", "find the cat and crop it", PARK, "--json"]
    again = json.loads(cli(*asked, "--verify").stdout)
    (looked,) = [step for step in again["steps"] if step["tool"] == "verify"]
    assert looked["content"]["chosen"] == [] and set(looked["content"]["instead"].values()) == {"dog"}
    assert "verify" not in {step["tool"] for step in json.loads(cli(*asked).stdout)["steps"]}


def test_records_belong_to_runs_that_verify_or_to_others(cli: CommandLine, tmp_path: Path, url: str) -> None:
    out, served = tmp_path / "found.jsonl", tmp_path / "served.jsonl"
    asked = ["cat; dog", PARK, "--detail", "low", "--verify"]
    assert cli("detect", *asked, "--out", out).returncode == 0
    (record,) = read_records(out)
    assert {each["label"] for each in record["result"]["detections"]} == {"dog"}
    other = cli("detect", *asked[:-1], "--out", out)
    assert other.returncode == 2 and "was made with another verify" in other.stderr
    assert cli("batch", "detect", *asked, "--servers", url, "--out", served).returncode == 0
    (of_server,) = read_records(served)
    assert of_server["result"]["detections"] == record["result"]["detections"]


def test_only_verbs_that_look_again_take_it(cli: CommandLine) -> None:
    refused = cli("count", "cat", PARK, "--verify")
    assert refused.returncode == 2 and "--verify" in refused.stderr
    with pytest.raises(InputError, match="`verify` must be False for count: detect and run have it, but got True"):
        ImageJob("count", "cat", verify=True)
    for verify in (False, True):
        body = ServedRequest(ImageJob("run", "find the cat", verify=verify)).body(str(PARK))
        assert body.get("verify", False) is verify
    assert "verify" not in ImageJob("detect", "cat").settings()  # older outputs go on
