"""`agent.segment`: phrases are found first, then SAM makes the masks. On a tiny random SAM."""

import asyncio
from pathlib import Path

import pytest
import torch
from test_sam import tiny_model

from vision_agent import ArgumentTypeError, CheckpointError, InputError, Segmentation, VisionAgent


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    tiny_model("sam").save_pretrained(folder)
    return folder


def test_a_phrase_is_found_then_segmented(agent: VisionAgent, photo: Path, sam: Path) -> None:
    found = agent.detect(["frisbee", "dog"], photo)
    result = agent.segment(["frisbee", "dog"], photo, segmenter=sam)
    assert isinstance(result, Segmentation) and len(result) == len(found) > 0
    assert result.labels == found.labels and result.phrases == ("frisbee", "dog")
    assert result.masks.shape == (len(found), 480, 640)
    assert Segmentation.model_validate_json(result.model_dump_json()) == result
    assert result.draw(photo).size == (640, 480)


def test_boxes_and_points_need_no_phrase(agent: VisionAgent, photo: Path, sam: Path) -> None:
    assert len(agent.segment(None, photo, boxes=[[10, 10, 100, 80], [50, 60, 300, 200]], segmenter=sam)) == 2
    assert len(agent.segment(image=photo, points=[[320, 240]], segmenter=sam)) == 1


def test_nothing_found_is_an_empty_result(agent: VisionAgent, photo: Path, sam: Path) -> None:
    empty = agent.segment("giraffe", photo, threshold=0.99, segmenter=sam)
    assert len(empty) == 0 and empty.masks.shape == (0, 480, 640)


def test_wrong_arguments(agent: VisionAgent, photo: Path, sam: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="image"):
        agent.segment("dog", segmenter=sam)
    with pytest.raises(InputError, match="none of them"):
        agent.segment(None, photo, segmenter=sam)
    with pytest.raises(InputError, match="both"):
        agent.segment("dog", photo, boxes=[[1, 1, 5, 5]], segmenter=sam)
    with pytest.raises(CheckpointError):
        agent.segment("dog", photo, segmenter=tmp_path / "nowhere")


def test_the_async_twin(agent: VisionAgent, photo: Path, sam: Path) -> None:
    result = asyncio.run(agent.aio.segment("frisbee", photo, segmenter=sam))
    assert result == agent.segment("frisbee", photo, segmenter=sam)
