"""Training an adapter: a run that was killed, anywhere, ends as if it was not; nothing it reads can do harm."""

import json
import multiprocessing
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from vision_agent import BoxTargets, RouteSpec
from vision_agent.errors import ArgumentTypeError, ConfigError, InputError
from vision_agent.routing.states import read_forced
from vision_agent.train import loop
from vision_agent.train.adapter_training import AdapterSample, AdapterTraining, forced_states, train_adapter
from vision_agent.train.loop import Stage, TrainingLoop, descend, warm_up_cosine

SPEC = RouteSpec(token="[DET]", decoder="box", num_queries=2)
EVERY_STEP, AT_THE_END = 1e-9, 1e9


def settings(save_minutes: float = AT_THE_END) -> AdapterTraining:
    return AdapterTraining(steps=3, batch=2, rate=1e-2, warm_up=1, save_minutes=save_minutes)


def draw(number: int) -> AdapterSample:
    pixels = np.random.default_rng(number).integers(0, 255, (56, (56, 120)[number % 2], 3), dtype=np.uint8)
    left = 0.1 + 0.05 * (number % 5)
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    target = BoxTargets(torch.tensor([[left, 0.2, left + 0.4, 0.7]]), torch.tensor([[True], [False]]), *none)
    return AdapterSample(Image.fromarray(pixels), ("a dog", "the red car"), target)


def train(folder: Path, save_minutes: float, numbers: list[int] | None = None, **more: Any) -> dict[str, torch.Tensor]:
    """Train, and what was saved; `numbers` gets those of the samples that were drawn."""

    def drawn(number: int) -> AdapterSample:
        if numbers is not None:
            numbers.append(number)
        return draw(number)

    train_adapter(tiny_backbone(), SPEC, drawn, folder, settings(save_minutes), **more)
    return load_file(folder / "adapter.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What a run gives that is not killed."""
    return train(tmp_path_factory.mktemp("straight"), AT_THE_END)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("step", "save_minutes", "left"),
    [
        pytest.param(0, EVERY_STEP, [2, 3, 4, 5], id="after the first step, which was saved"),
        pytest.param(1, EVERY_STEP, [4, 5], id="after the second step, which was saved"),
        pytest.param(2, EVERY_STEP, [], id="after the last step, which was saved"),
        pytest.param(0, AT_THE_END, [0, 1, 2, 3, 4, 5], id="before anything was saved"),
        pytest.param(2, AT_THE_END, [0, 1, 2, 3, 4, 5], id="after the last step, before it was saved"),
    ],
)
def test_a_killed_run_ends_as_if_it_was_not(
    straight: dict[str, torch.Tensor], tmp_path: Path, step: int, save_minutes: float, left: list[int]
) -> None:
    def die(number: int, loss: float) -> None:
        if number == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, save_minutes, on_step=die)
    assert (tmp_path / "state.pt").exists() == (save_minutes == EVERY_STEP)
    random.seed(5)
    torch.manual_seed(5)  # another process has drawn other numbers
    numbers: list[int] = []
    resumed = train(tmp_path, AT_THE_END, numbers)
    assert numbers == left
    assert straight.keys() == resumed.keys()
    assert not [name for name in straight if not torch.equal(straight[name], resumed[name])]
    assert [line["step"] for line in log(tmp_path)] == [0, 1, 2]


def test_a_run_killed_between_saves_does_the_steps_since_again(
    straight: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = 0

    def once(self: TrainingLoop, *arguments: Any) -> None:
        nonlocal saved
        saved += 1
        if saved == 1:
            save(self, *arguments)

    def die(number: int, loss: float) -> None:
        if number == 1:
            raise KeyboardInterrupt

    save = TrainingLoop._save
    monkeypatch.setattr(TrainingLoop, "_save", once)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, EVERY_STEP, on_step=die)
    monkeypatch.undo()
    assert [line["step"] for line in log(tmp_path)] == [0, 1]
    numbers: list[int] = []
    resumed = train(tmp_path, AT_THE_END, numbers)
    assert numbers == [2, 3, 4, 5] and [line["step"] for line in log(tmp_path)] == [0, 1, 2]
    assert not [name for name in straight if not torch.equal(straight[name], resumed[name])]


def test_a_save_that_is_cut_off_leaves_the_one_before(
    straight: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = 0
    write = torch.save

    def cut(state: Any, path: Path) -> None:
        nonlocal saves
        saves += 1
        write(state, path)
        if saves == 2:
            path.write_bytes(path.read_bytes()[:500])
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, EVERY_STEP)
    monkeypatch.undo()
    numbers: list[int] = []
    resumed = train(tmp_path, AT_THE_END, numbers)
    assert numbers == [2, 3, 4, 5]
    assert not [name for name in straight if not torch.equal(straight[name], resumed[name])]


def test_a_run_of_other_settings_is_not_resumed(tmp_path: Path) -> None:
    train(tmp_path, AT_THE_END)
    with pytest.raises(ConfigError, match="another recipe: its settings"):
        train_adapter(tiny_backbone(), SPEC, draw, tmp_path, AdapterTraining(steps=4))


def test_a_run_that_is_done_is_extended_and_never_cut(
    straight: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers: list[int] = []
    train(tmp_path, AT_THE_END, numbers)
    assert "det: 100%" in capsys.readouterr().err  # progress is shown without being asked for
    assert train(tmp_path, AT_THE_END, numbers)["token.input"].equal(straight["token.input"])
    assert numbers == [0, 1, 2, 3, 4, 5]  # it was done
    longer = AdapterTraining(steps=5, batch=2, rate=1e-2, warm_up=1)
    train_adapter(tiny_backbone(), SPEC, lambda number: (numbers.append(number), draw(number))[1], tmp_path, longer)
    assert numbers == list(range(10)) and [line["step"] for line in log(tmp_path)] == [0, 1, 2, 3, 4]
    assert not load_file(tmp_path / "adapter.safetensors")["token.input"].equal(straight["token.input"])
    with pytest.raises(ConfigError, match="has done 5 steps already, more than 3"):
        train(tmp_path, AT_THE_END)


def test_workers_that_are_started_anew_draw_the_same_and_are_no_other_recipe(
    straight: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(number: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, EVERY_STEP, on_step=die)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        with pytest.raises(InputError, match="`draw` must be a function of a module"):
            train_adapter(tiny_backbone(), SPEC, lambda number: draw(number), tmp_path, AdapterTraining(workers=1))
        two = settings().model_copy(update={"workers": 1})
        train_adapter(tiny_backbone(), SPEC, draw, tmp_path, two)
    finally:
        multiprocessing.set_start_method(before, force=True)
    resumed = load_file(tmp_path / "adapter.safetensors")
    assert not [name for name in straight if not torch.equal(straight[name], resumed[name])]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("backbone", "default"),
        ("spec", "[DET]"),
        ("draw", [draw]),
        ("out", 3),
        ("settings", {"steps": 3}),
        ("on_step", "print"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_made(argument: str, value: Any, tmp_path: Path) -> None:
    given = {"backbone": tiny_backbone(), "spec": SPEC, "draw": draw, "out": tmp_path / "new"} | {argument: value}
    with pytest.raises(ArgumentTypeError, match=f"`{argument}` must be"):
        train_adapter(**given)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (None, r"`draw\(0\)` must be an AdapterSample"),
        (AdapterSample("a.jpg", ("a dog",), None), r"`draw\(0\).image` must be a PIL image"),  # type: ignore[arg-type]
        (AdapterSample(Image.new("RGB", (56, 56)), "a dog", None), r"`draw\(0\).phrases` must be a tuple"),  # type: ignore[arg-type]
        (AdapterSample(Image.new("RGB", (56, 56)), (), None), r"`draw\(0\).phrases` must be at least one"),
    ],
)
def test_a_wrong_sample_is_told_with_its_number(sample: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises((ArgumentTypeError, InputError), match=told):
        train_adapter(tiny_backbone(), SPEC, lambda number: sample, tmp_path / "run", settings())
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="`out` must be a folder"):
        train_adapter(tiny_backbone(), SPEC, draw, tmp_path / "file", settings())


class _Harmful:
    """What writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self._file,)


def test_a_state_from_elsewhere_runs_nothing(tmp_path: Path) -> None:
    """The file must not even exist afterwards: an error that comes after the code has run is too late."""
    harm = tmp_path / "harm"
    pickle.loads(pickle.dumps(_Harmful(harm)))
    assert harm.exists()  # so it does harm where it is trusted
    harm.unlink()
    out = tmp_path / "run"
    train(out, AT_THE_END)
    state = torch.load(out / "state.pt", weights_only=True)
    for content in ({**state, "more": _Harmful(harm)}, _Harmful(harm)):
        torch.save(content, out / "state.pt")
        with pytest.raises(pickle.UnpicklingError):
            train(out, AT_THE_END)
        assert not harm.exists()
    (out / "state.pt").write_bytes(pickle.dumps(_Harmful(harm)))
    with pytest.raises(pickle.UnpicklingError):
        train(out, AT_THE_END)
    assert not harm.exists()


def test_the_row_of_the_token_is_trained_and_saved(straight: dict[str, torch.Tensor], tmp_path: Path) -> None:
    backbone = tiny_backbone()
    before = backbone.model.get_input_embeddings().weight.mean(dim=0).half()
    assert not torch.equal(straight["token.input"], before)
    train_adapter(backbone, SPEC, draw, tmp_path, settings())
    token = backbone.tokenizer.convert_tokens_to_ids("[DET]")
    assert torch.equal(backbone.model.get_input_embeddings().weight[token].half(), straight["token.input"])


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    train_adapter(backbone, SPEC, draw, tmp_path, settings())
    assert torch.equal(torch.randn(3), expected)


def test_images_of_one_batch_are_read_as_each_alone() -> None:
    """Also where their prompts differ in length: nothing of the padding is seen."""
    from vision_agent.routing.adapter import new_route

    backbone = tiny_backbone()
    route = new_route(backbone, SPEC, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(route.queries.weight.requires_grad_(False))
    images = [backbone.encode_image(draw(number).image) for number in (0, 1)]
    tokens = [each.tokens_TC for each in images]
    assert len(tokens[0]) != len(tokens[1])
    row = backbone.model.get_input_embeddings().weight[route.token_id]
    together = forced_states(backbone, route, row, tokens, [["a dog"], ["a dog", "the red car"]])
    for each, states, phrases in zip(tokens, together, [["a dog"], ["a dog", "the red car"]], strict=True):
        alone = read_forced(backbone, route, each, [len(each)], phrases)
        torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-4)


# The loop --------------------------------------------------------------------------------------------------------


def test_images_of_several_sizes_count_as_much_as_others(tmp_path: Path) -> None:
    def first_loss(numbers: tuple[int, ...]) -> float:
        losses: list[float] = []
        once = AdapterTraining(steps=1, batch=len(numbers), rate=1e-2, warm_up=1)
        train_adapter(
            tiny_backbone(),
            SPEC,
            lambda number: draw(numbers[number]),
            tmp_path / "-".join(map(str, numbers)),
            once,
            on_step=lambda step, loss: losses.append(loss),
        )
        return losses[0]

    small, wide = first_loss((0,)), first_loss((1,))
    assert first_loss((0, 1)) == pytest.approx((small + wide) / 2, rel=0.02)  # the rest is what a step draws


def test_shares_of_the_highest_rate() -> None:
    shares = [warm_up_cosine(step, 10, 2) for step in range(10)]
    expected = [0.5, 1.0, 1.0, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]
    assert shares == pytest.approx(expected, abs=1e-6)
    assert warm_up_cosine(6, 10, 2, least=0.2) == pytest.approx(0.6)
    assert [warm_up_cosine(step, 2, 0) for step in range(2)] == pytest.approx([1.0, 0.5])


def test_rates_are_shares_of_the_first_rate() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimiser = torch.optim.SGD([weight], lr=0.5)
    rates = []
    for share in (0.5, 0.5, 1.0):
        descend(optimiser, [weight], {"loss": weight.sum()}, share, 10.0, "here")
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == [0.25, 0.25, 0.5] and weight.item() == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_losses_that_are_not_finite_end_the_run(value: float) -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimiser = torch.optim.SGD([weight], lr=0.5)
    with pytest.raises(FloatingPointError, match="the loss of here"):
        descend(optimiser, [weight], {"loss": weight.sum() * value}, 1.0, 1.0, "here")
    assert weight.item() == 1.0


def test_gradients_are_clipped_together() -> None:
    weight = nn.Parameter(torch.tensor([0.0, 0.0]))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    descend(optimiser, [weight], {"loss": (weight * torch.tensor([30.0, 40.0])).sum()}, 1.0, 1.0, "here")
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.6, -0.8]))


class _Noisy(nn.Module):
    """One weight, whose loss draws from torch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def stage(self, steps: int = 4) -> Stage:
        return Stage(
            name="noisy",
            steps=steps,
            optimiser=torch.optim.AdamW(self.parameters(), lr=0.1),
            parameters=list(self.parameters()),
            clip=1.0,
            schedule=lambda step: 1.0,
            seed=lambda step: 100 + step,
            batches=lambda first: range(first, steps),
            losses=lambda batch: {"loss": (self.weight * torch.randn(1)).square().sum()},
            ema=0.5,
        )


def test_what_a_step_draws_follows_from_its_number_alone(tmp_path: Path) -> None:
    drawn = []
    for name, state in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        torch.manual_seed(state)
        module = _Noisy()
        TrainingLoop(tmp_path / name, module, save_minutes=AT_THE_END).run(module.stage())
        drawn.append(module.weight.item())
    assert drawn[0] == drawn[1]


def test_the_average_follows_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the decay, faster in the first steps: 0.1, 2/11, 3/12, 4/13 of the average before stay."""
    weights: list[float] = []
    monkeypatch.setattr(loop, "descend", lambda *_: weights.append(module.weight.data.add_(1.0).item()) or 0.0)
    module = _Noisy()
    training = TrainingLoop(tmp_path, module, save_minutes=AT_THE_END)
    training.run(module.stage())
    average = 1.0
    for step, weight in enumerate(weights):
        kept = min(0.5, (1 + step) / (10 + step))
        average = kept * average + (1 - kept) * weight
    assert weights == [2.0, 3.0, 4.0, 5.0] and module.weight.item() == pytest.approx(average)
    assert not os.path.exists(tmp_path / "state.pt.partial")
