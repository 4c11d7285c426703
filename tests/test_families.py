"""Networks of other programs compute here what they compute at home, and nothing is taken for what it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import CRAI, FOREIGN, LEVELS, NAOTO, UNIT, Foreign, State, evaluate, keras_file, make
from reference import one_thread  # noqa: F401 - a fixture
from torch import Tensor

from pconv_cli import families, files, weights
from pconv_cli.checkpoints import import_checkpoint
from pconv_cli.errors import WeightsError
from pconv_cli.families import Converted, convert
from pconv_cli.nn.unet import PartialConvUNet

HERE = Path("some.pth")
EXACT, SINGLE = 1e-6, 2e-5
"""Of the output's greatest value: weights are rounded to float32 once, and computed with in float64, or in float32."""

every = pytest.mark.parametrize("name", FOREIGN)


def scene(channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Noise of which little is known: a corner with a hole in it, so that far from it nothing is reached."""
    rng = torch.Generator().manual_seed(1)
    picture = torch.rand(1, channels, height, width, generator=rng, dtype=torch.float64)
    known = torch.zeros(1, 1, height, width, dtype=torch.float64)
    known[..., :9, :12] = (torch.rand(9, 12, generator=rng) < 0.7).double()
    known[..., 0, 0] = 1
    return picture, known


def largest_error(
    network: torch.nn.Module, foreign: Foreign, state: State, picture: Tensor, known: Tensor, levels: int = 4
) -> tuple[float, float]:
    """Over all that is reached, by the greatest value; and the share that is reached, which must be the same."""
    wanted, reached = evaluate(foreign, state, picture, known, levels)
    dtype = next(network.parameters()).dtype
    with torch.inference_mode():
        out, filled = network(picture.to(dtype), known.to(dtype))
    assert torch.equal(filled.double(), reached)
    there = reached.expand_as(wanted) > 0
    return float((out - wanted)[there].abs().max() / wanted[there].abs().max()), float(reached.mean())


def imported(folder: Path, foreign: Foreign, state: State, **options: Any) -> tuple[Converted, PartialConvUNet]:
    """By way of a file, as a user does it."""
    source, target = folder / "some.checkpoint", folder / "own.safetensors"
    if foreign.head:
        keras_file(source, state)
    else:
        torch.save(foreign.wrap(state), source)
    made = import_checkpoint(source, target, **options)
    network = weights.load_network(str(target))
    assert isinstance(network, PartialConvUNet)
    return made, network


@every
def test_an_imported_network_computes_what_the_original_computes(name: str, tmp_path: Path) -> None:
    foreign = FOREIGN[name]
    state = make(foreign)
    made, network = imported(tmp_path, foreign, state)
    assert made.about["family"] == name.partition(",")[0]
    assert made.about["mask_kernels"] == (8 if foreign.ones else 0)
    # Only CRAI's takes any size; the others end with an error where halves do not meet.
    picture, known = scene(3, *((101, 83) if name.startswith("crai") else (112, 96)))
    single, _ = largest_error(network, foreign, state, picture, known)
    exact, share = largest_error(network.double(), foreign, state, picture, known)
    assert exact < EXACT and single < SINGLE
    assert 0.05 < share < 0.5, "some must be out of reach"


@every
def test_a_family_that_is_named_is_the_one_that_its_keys_tell(name: str, tmp_path: Path) -> None:
    state = make(FOREIGN[name])
    told, _ = imported(tmp_path, FOREIGN[name], state, family=name.partition(",")[0])
    found, _ = imported(tmp_path, FOREIGN[name], state)
    assert told.about == found.about and told.config == found.config


@pytest.mark.parametrize("name", ["naoto", "crai", "tani", "mmagic", "xyf"])
def test_one_channel_is_enough(name: str, tmp_path: Path) -> None:
    # By ImageNet's colours nothing but colours can be normalised: such a network takes numbers as they are.
    foreign = replace(FOREIGN[name], tones=UNIT) if name == "naoto" else FOREIGN[name]
    state = make(foreign, channels=1)
    made, network = imported(tmp_path, foreign, state)
    assert made.config.values == ("raw" if name in ("naoto", "crai") else "unit")
    exact, _ = largest_error(network.double(), foreign, state, *scene(1, 48, 64))
    assert exact < EXACT


def test_a_batch_norm_of_variances_from_below_epsilon_up_to_a_billion_is_taken_in_exactly(tmp_path: Path) -> None:
    state = make(CRAI)
    variance = torch.tensor([3e12, 2e-7, 0.0, 1e-5, 4.0, 1e9, 1e-12, 1e-3])
    state["decoder.0.partial_conv.bn.running_var"] = variance
    state["decoder.0.partial_conv.bn.weight"] = torch.sqrt(variance + 1e-5) * 30
    _, network = imported(tmp_path, CRAI, state)
    exact, _ = largest_error(network.double(), CRAI, state, *scene(3, 48, 64))
    assert exact < EXACT


def test_numbers_as_measured_lose_nothing_on_the_way() -> None:
    state = make(CRAI, channels=2)
    made = convert(state, HERE, statistics=((283.4,), (11.3,)))
    network = PartialConvUNet(made.config).double()
    weights.load_strictly(network, made.state, HERE)
    normalised = replace(CRAI, tones=((283.4,), (11.3,)))
    picture, known = scene(2, 45, 61)
    exact, _ = largest_error(network, normalised, state, picture * 20 + 270, known)
    assert exact < 1e-13


def test_colours_that_were_blue_first_go_in_and_come_out_red_first(tmp_path: Path) -> None:
    foreign = FOREIGN["mmagic"]
    state = make(foreign)
    made, network = imported(tmp_path, foreign, state)
    assert made.about["channel_order"] == "BGR, turned to RGB"
    picture, known = scene(3, 32, 32)
    wrong, _ = largest_error(network.double(), replace(foreign, bgr=False), state, picture, known)
    right, _ = largest_error(network, foreign, state, picture, known)
    assert right < EXACT < 1e-3 < wrong


# ---------------------------------------------------------------- how many levels


def untouched(state: State, *blocks: str) -> State:
    """The same with batch norm as it is before the first batch."""
    fresh = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0}
    found = {key: part for key in state for part in fresh if key.endswith(part) and key.startswith(blocks)}
    return {key: torch.full_like(value, fresh[found[key]]) if key in found else value for key, value in state.items()}


def test_levels_that_no_batch_has_gone_through_are_left_out_and_named(tmp_path: Path) -> None:
    state = untouched(make(NAOTO, levels=(*LEVELS, (8, 3))), "enc_4", "enc_5", "dec_4", "dec_5")
    made, network = imported(tmp_path, NAOTO, state)
    assert made.about["levels"] == 3 and made.about["levels_in_file"] == 5
    assert {"enc_4.bn", "dec_5.conv.input_conv"} <= set(made.about["left_out"])
    assert not any(key.startswith("enc_3") for key in made.about["left_out"])
    exact, _ = largest_error(network.double(), NAOTO, state, *scene(3, 48, 64), levels=3)
    assert exact < EXACT


@pytest.mark.parametrize("blocks", [("enc_4",), ("dec_4",), ("enc_2", "dec_2"), ("enc", "dec")])
def test_levels_are_kept_unless_both_sides_of_the_deepest_are_untouched(blocks: tuple[str, ...]) -> None:
    assert convert(untouched(make(NAOTO), *blocks), HERE).about["levels"] == 4


@pytest.mark.parametrize("name", ["naoto", "crai", "jacobaustin", "keras"])
def test_levels_that_are_asked_for_are_the_shallowest(name: str, tmp_path: Path) -> None:
    foreign = FOREIGN[name]
    state = make(foreign)
    _, network = imported(tmp_path, foreign, state, levels=2)
    # The original, were its deep levels not there.
    inner = foreign.names(4)[:2] + foreign.names(4)[-2:]
    shallow = replace(foreign, names=lambda _: inner)
    exact, _ = largest_error(network.double(), shallow, state, *scene(3, 48, 64), levels=2)
    assert exact < EXACT


def test_more_levels_than_there_are_cannot_be_asked_for() -> None:
    with pytest.raises(WeightsError, match=r"some\.pth: has 4 levels.*--layers"):
        convert(make(NAOTO), HERE, levels=5)


def test_tanis_network_saves_eight_levels_and_runs_with_seven(tmp_path: Path) -> None:
    foreign = FOREIGN["tani"]
    state = make(foreign, levels=((4, 7), *[(4, 3)] * 7))
    seven, network = imported(tmp_path, foreign, state)
    assert seven.about["levels"] == 7
    assert seven.about["left_out"] == ["enc_8.conv", "dec_8.conv"]
    exact, _ = largest_error(network.double(), foreign, state, *scene(3, 128, 128), levels=7)
    assert exact < EXACT
    assert convert(state, HERE, levels=8).about["levels"] == 8


# ---------------------------------------------------------------- what keys cannot tell


def test_nvidias_normaliser_under_naotos_names_has_to_be_told(tmp_path: Path) -> None:
    copied = replace(NAOTO, numerator="ck2")
    state = make(copied)
    made, network = imported(tmp_path, copied, state, family="nvidia")
    assert made.about["normaliser"] == "c k^2 / sum(M)"
    exact, _ = largest_error(network.double(), copied, state, *scene(3, 48, 64))
    assert exact < EXACT
    assert convert(state, HERE).about["family"] == "naoto"


def test_a_network_without_batch_norm_is_tanis_unless_told_otherwise(tmp_path: Path) -> None:
    plain = replace(FOREIGN["tani"], twice=False)
    state = make(plain)
    _, network = imported(tmp_path, plain, state, family="nvidia")
    exact, _ = largest_error(network.double(), plain, state, *scene(3, 48, 64))
    assert exact < EXACT
    assert convert(state, HERE).config.ratio_twice


@pytest.mark.parametrize(
    ("tones", "mean", "values"),
    [("raw", 0, "raw"), ("unit", 0, "unit"), ("signed", 0.5, "unit"), ("imagenet", 0.485, "unit")],
)
def test_the_range_of_numbers_can_be_told(tones: families.Tones, mean: float, values: str) -> None:
    made = convert(make(NAOTO), HERE, tones=tones)
    assert made.config.mean[0] == mean and made.config.values == values and made.about["tones"] == tones


def test_a_files_own_mean_and_deviation_are_used_unless_other_tones_are_told(tmp_path: Path) -> None:
    state = make(CRAI, channels=2)
    normalised = replace(
        CRAI,
        tones=((283.4,), (11.3,)),
        wrap=lambda s: {**CRAI.wrap(s), "train_stats": {"mean": [283.4], "std": [11.3]}},
    )
    made, network = imported(tmp_path, normalised, state)
    assert (made.config.mean, made.config.std, made.config.values) == ((283.4,) * 2, (11.3,) * 2, "raw")
    picture, known = scene(2, 45, 61)
    exact, _ = largest_error(network.double(), normalised, state, picture * 20 + 270, known)
    assert exact < EXACT
    assert imported(tmp_path, normalised, state, tones="raw")[0].config.std == (1.0, 1.0)


@pytest.mark.parametrize("statistics", [((1.0, 2.0), (1.0, 1.0)), ((1.0,), (0.0,)), ((1.0,), (1.0, 1.0))])
def test_a_mean_and_deviation_that_fit_nothing_are_refused(statistics: Any) -> None:
    with pytest.raises(WeightsError, match=r"some\.pth: .* 3 channels.*--tones"):
        convert(make(CRAI), HERE, statistics=statistics)


def test_the_header_says_what_was_found(tmp_path: Path) -> None:
    made, _ = imported(tmp_path, FOREIGN["ryan"], make(FOREIGN["ryan"]))
    header = weights.read_header(tmp_path / "own.safetensors")
    source = tmp_path / "some.checkpoint"
    assert header["imported"] == {
        "file": source.name,
        "sha256": files.sha256(source),
        "family": "ryan",
        "levels": 4,
        "levels_in_file": 4,
        "normaliser": "c k^2 / sum(M)",
        "concatenation": "skip first",
        "epsilon": 1e-5,
        "slope": 0.2,
        "tones": "imagenet",
        "channel_order": "RGB",
        "mask_kernels": 0,
        "left_out": ["convfinal", "encoder1.batchnorm", "decoder4.batchnorm"],
    }
    assert made.summary().startswith("ryan, 4 levels, 3 channels (RGB); normalised by c k^2 / sum(M); skip first;")


# ---------------------------------------------------------------- nothing is loaded loosely


@every
def test_a_key_too_many_or_one_too_few_is_named(name: str) -> None:
    if name == "keras":
        pytest.skip("its names say nothing; see below")
    state = make(FOREIGN[name])
    spare = FOREIGN[name].idle or {}
    told = name.partition(",")[0]
    with pytest.raises(WeightsError, match=r"some\.pth: .*unknown key attention\.0\.weight"):
        convert({**state, "attention.0.weight": torch.ones(1)}, HERE, family=told)
    for key in state:
        if key in spare or key.endswith("tracked"):
            continue
        without = {other: value for other, value in state.items() if other != key}
        with pytest.raises(WeightsError, match=r"some\.pth: (is no network of|.* belongs)"):
            convert(without, HERE, family=told)
    first = next(key for key in state if "2" in key and key.endswith(FOREIGN[name].weight))
    with pytest.raises(WeightsError, match=rf"missing key {first}"):
        convert({key: value for key, value in state.items() if key != first}, HERE)


def test_a_network_of_another_kind_is_refused_with_its_first_key_and_the_first_that_is_missing() -> None:
    other = {"module.layer1.0.conv1.weight": torch.ones(2, 2, 3, 3), "fc.bias": torch.ones(2)}
    with pytest.raises(WeightsError) as caught:
        convert(other, HERE)
    text = str(caught.value)
    assert "unknown key module.layer1.0.conv1.weight and 1 more" in text
    assert "missing key enc_1.conv.input_conv.weight" in text and "\n" not in text


@pytest.mark.parametrize("name", ["naoto", "keras", "ryan"])
def test_a_family_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=f"is no network of {name}: unknown key"):
        convert(make(FOREIGN["xyf"]), HERE, family=name)


def changed(key: str, change: Callable[[Tensor], Tensor], foreign: Foreign = NAOTO) -> State:
    state = make(foreign)
    return {**state, key: change(state[key])}


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("enc_2.conv.input_conv.weight", lambda w: w[:, :4]),
        ("enc_2.conv.input_conv.weight", lambda w: w[:5]),
        ("enc_2.conv.input_conv.weight", lambda w: w[..., :4]),
        ("enc_2.conv.input_conv.weight", lambda w: w.long()),
        ("enc_2.conv.input_conv.weight", lambda w: w[..., 0, 0]),
        ("enc_3.bn.running_var", lambda w: w[:7]),
        ("dec_2.conv.input_conv.weight", lambda w: w[..., 1:2, 1:2]),
        ("dec_1.conv.input_conv.weight", lambda w: w[:1]),
        ("dec_1.conv.input_conv.bias", lambda w: w[:1]),
    ],
)
def test_a_shape_that_is_not_its_familys_is_named(key: str, change: Callable[[Tensor], Tensor]) -> None:
    state = changed(key, change)
    ones = key.replace("input_conv", "mask_conv")
    if ones in state:
        state[ones] = torch.ones(state[key].shape)
    with pytest.raises(WeightsError, match=rf"some\.pth: .*{key.partition('.')[0]}\.(bn|conv)\."):
        convert(state, HERE)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("naoto", "enc_3.conv.mask_conv.weight"),
        ("naoto, first version", "dec_2.conv.mask2d.bias"),
        ("xyf", "decoder1.partial_conv.mask_conv_weight"),
        ("mmagic", "decoder.dec4.conv.weight_mask_updater"),
    ],
)
def test_masks_that_are_not_plainly_counted_are_refused(name: str, key: str) -> None:
    def change(value: Tensor) -> Tensor:
        value = value.clone()
        value.view(-1)[-1] += 0.001
        return value

    with pytest.raises(WeightsError, match=rf"{key} is not all"):
        convert(changed(key, change, FOREIGN[name]), HERE)


def test_keras_layers_are_taken_in_the_files_order_whatever_their_numbers(tmp_path: Path) -> None:
    foreign = FOREIGN["keras"]  # p_conv2d_9, p_conv2d_10, ...: by the alphabet, the second would be the first
    state = make(foreign, levels=((6, 7), (6, 3), (6, 3), (6, 3)))
    for inside, last in (("", "conv2d_7"), ("model_weights", "outputs_img")):
        path = tmp_path / f"model{len(inside)}.h5"
        keras_file(path, state, inside=inside, last=last)
        import_checkpoint(path, tmp_path / "own.safetensors")
        network = weights.load_network(str(tmp_path / "own.safetensors")).double()
        exact, _ = largest_error(network, foreign, state, *scene(3, 48, 64))
        assert exact < EXACT


@pytest.mark.parametrize(
    "gone", ["p_conv2d_16.bias", "p_conv2d_10.img_kernel", "batch_normalization_9.gamma", "EncBN2.moving_variance"]
)
def test_a_keras_file_that_lacks_something_is_refused(gone: str, tmp_path: Path) -> None:
    from pconv_cli.checkpoints import read

    keras_file(tmp_path / "some.h5", make(FOREIGN["keras"]))
    tensors = read(tmp_path / "some.h5").tensors
    assert gone in tensors
    with pytest.raises(WeightsError, match=r"some\.h5: "):
        convert({key: value for key, value in tensors.items() if key != gone}, tmp_path / "some.h5")
