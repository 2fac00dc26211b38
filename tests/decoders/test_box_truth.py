"""What boxes are taught and scored by, against values worked out by hand: where formulas differ only at their edges."""

from dataclasses import replace

import pytest
import torch
from test_box_decoder import decoded, decoder, features, found, states, targets
from test_mask_decoder import decoder as mask_decoder
from test_mask_decoder import noise

from vision_agent.decoders.box_geometry import paired_giou
from vision_agent.decoders.box_truth import assign, trained
from vision_agent.decoders.mask.decoder import _sampled_truth
from vision_agent.plugins.decoder import MaskTargets


def test_overlap_of_boxes_far_apart_is_measured_by_their_hull() -> None:
    first = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 1.0]])
    second = torch.tensor([[2.0, 0.0, 3.0, 1.0], [9.0, 0.0, 10.0, 1.0], [1.0, 0.0, 3.0, 1.0]])
    assert paired_giou(first, second).tolist() == pytest.approx([-1 / 3, -8 / 10, 1 / 3])


def test_a_place_in_two_crowds_of_a_phrase_counts_as_one() -> None:
    crowds = targets([], [[], []], ignored=[(0, [0.0, 0.0, 0.6, 1.0]), (0, [0.4, 0.0, 1.0, 1.0])])
    places = torch.tensor([[0.2, 0.5], [0.5, 0.5], [0.8, 0.5]])
    assert trained(crowds, places).tolist() == [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


def test_a_tiny_box_owns_cells_within_the_finest_stride_alone() -> None:
    tiny = targets([[0.49, 0.49, 0.51, 0.51]], [[True]])
    middles = torch.tensor([[0.45, 0.45], [0.3, 0.5], [0.9, 0.9]])
    strides = torch.tensor([[0.1, 0.1], [0.1, 0.1], [0.4, 0.4]])
    boxes = torch.cat([middles - 0.1, middles + 0.1], dim=1)
    assert assign(torch.zeros(3), boxes, tiny, middles, strides)[0].tolist() == [0, -1, -1]


def test_a_score_that_is_the_threshold_is_enough() -> None:
    model, asked = decoder(), states(1)
    least = float(found(model, asked, features(), 0.0).scores.min())
    assert float(found(model, asked, features(), least).scores.min()) == least


def test_boxes_without_area_do_not_come_out() -> None:
    model, asked = decoder(), states(1)
    with torch.no_grad():
        prepared = model.prepare(features())
    everything = decoded(model, asked, prepared, 0.0)
    flat = prepared.regions_BN4.clone()
    flat[..., 2] = flat[..., 0]
    assert len(everything) > 0 and not decoded(model, asked, replace(prepared, regions_BN4=flat), 0.0)


def test_a_mask_learns_the_shape_of_its_own_object() -> None:
    full = torch.stack([torch.ones(8, 8), torch.zeros(8, 8), torch.zeros(8, 8)]).bool()
    target = MaskTargets(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 3), full, torch.tensor([-1, -1, -1]))
    truth = _sampled_truth([target], torch.tensor([[0, 1, 2, 1]]), torch.tensor([[[0.2, 0.2, 0.8, 0.8]] * 4]))
    assert [float(mask.mean()) for mask in truth] == [1.0, 0.0, 0.0, 0.0]


def test_a_mask_is_told_the_size_of_its_box_before_it_was_grown() -> None:
    head = mask_decoder(margin=0.25).head
    told: list[torch.Tensor] = []
    head.context.register_forward_pre_hook(lambda _, inputs: told.append(inputs[0]))
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.4], [0.0, 0.0, 1.0, 0.5]]])
    with torch.no_grad():
        head(head.reduced(noise()), boxes, torch.zeros(1, 2, 32))
    assert torch.allclose(told[0][:, -2:].exp(), torch.tensor([[0.4, 0.2], [1.0, 0.5]]))
