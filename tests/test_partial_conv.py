"""The layer against its formula: renormalised by what is known, 0 where nothing is, nothing remembered."""

from __future__ import annotations

import doctest
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import locate, one_thread, partial_conv  # noqa: F401 - a fixture among them
from torch import Tensor, nn

from pconv_cli.nn import partial_conv as module
from pconv_cli.nn.partial_conv import (
    PaddingMode,
    PartialConv2d,
    _axis_ratio,
    _traced_ratio,
    hide,
    known_conv2d,
    known_ratio,
    partial_conv2d,
    renormalised_conv2d,
)

MODES = get_args(PaddingMode)


@dataclass(frozen=True)
class Case:
    """One call of the layer: tensors in float64, and its keywords."""

    features: Tensor
    known: Tensor
    weight: Tensor
    bias: Tensor | None
    keywords: dict[str, Any]

    def reference(self) -> tuple[Tensor, Tensor]:
        arrays = [None if t is None else t.numpy() for t in (self.features, self.known, self.weight, self.bias)]
        out, updated = partial_conv(*arrays, **self.keywords)  # type: ignore[arg-type]
        return torch.from_numpy(out), torch.from_numpy(updated)


@st.composite
def cases(draw: st.DrawFn, modes: tuple[str, ...] = MODES) -> Case:
    mode = draw(st.sampled_from(modes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.integers(1, 3))
    channels = groups * draw(st.integers(1, 3))
    cuts = draw(st.sets(st.integers(1, channels - 1), max_size=3)) if channels > 1 else set()
    edges = [0, *sorted(cuts), channels]
    feature_groups = tuple(b - a for a, b in pairwise(edges))
    kernel, stride, dilation, padding, size = [], [], [], [], []
    for _ in range(2):
        kernel.append(draw(st.integers(1, 5)))
        stride.append(draw(st.integers(1, 3)))
        dilation.append(draw(st.integers(1, 2)))
        length = draw(st.integers(1, 6))
        pad = draw(st.integers(0, 3))
        if mode == "reflect":  # more than there is to reflect: see the tests of that
            pad = min(pad, length - 1)
        padding.append(pad)
        size.append(max(length, dilation[-1] * (kernel[-1] - 1) + 1 - 2 * pad))
    n, out = draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    share = draw(st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]))
    known = rng.random((n, len(feature_groups), *size)) < share
    features = rng.normal(0, 2, (n, channels, *size))
    if draw(st.booleans()):
        features[~np.repeat(known, feature_groups, axis=1)] = np.nan
    bias = torch.from_numpy(rng.normal(0, 2, out)) if draw(st.booleans()) else None
    keywords: dict[str, Any] = {
        "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups,
        "feature_groups": feature_groups, "padding_mode": mode,
    }  # fmt: skip
    return Case(
        torch.from_numpy(features),
        torch.from_numpy(known.astype(np.float64)),
        torch.from_numpy(rng.normal(0, 1, (out, channels // groups, *kernel))),
        bias,
        keywords,
    )


def close(out: Tensor, expected: Tensor) -> None:
    """Equal up to the ratio's float32."""
    torch.testing.assert_close(out.double(), expected.double(), rtol=1e-6, atol=1e-5)


def spread(known: Tensor, sizes: Sequence[int]) -> Tensor:
    """Repeat each mask channel over its feature group; one for all is left as it is."""
    return known if len(sizes) == 1 else known.repeat_interleave(torch.tensor(sizes), dim=1)


@settings(deadline=None, max_examples=100)
@given(cases(), st.booleans())
def test_equals_the_formula_whatever_the_shape_the_mask_and_the_padding(case: Case, training: bool) -> None:
    given = case.features.clone()
    with torch.set_grad_enabled(training):  # without gradients, passes over the features are made in other ways
        out, updated = partial_conv2d(case.features, case.known, case.weight, case.bias, **case.keywords)
    assert torch.equal(case.features.nan_to_num(), given.nan_to_num())
    expected, expected_mask = case.reference()
    torch.testing.assert_close(out.double(), expected.double(), rtol=1e-11, atol=1e-11)
    assert torch.equal(out == 0, (out == 0) | (expected_mask == 0))  # exactly 0, not nearly
    groups, feature_groups = case.keywords["groups"], case.keywords["feature_groups"]
    assert updated.dtype == torch.float64  # as the mask; a narrower one gives float32
    assert known_ratio(case.known.half(), (1, 1), feature_groups=feature_groups)[0].dtype == torch.float32
    assert updated.shape[1] == (groups if len(feature_groups) > 1 else 1)
    repeats = expected_mask.shape[1] // updated.shape[1]
    assert torch.equal(updated.double().repeat_interleave(repeats, 1), expected_mask)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_module_and_function_and_its_two_halves_agree(case: Case) -> None:
    keywords = dict(case.keywords)
    feature_groups = keywords.pop("feature_groups")
    out, channels, *kernel = case.weight.shape
    layer = PartialConv2d(feature_groups, out, tuple(kernel), bias=case.bias is not None, **keywords).double()
    assert layer.weight.shape == (out, channels, *kernel)
    state = {"weight": case.weight} | ({} if case.bias is None else {"bias": case.bias})
    layer.load_state_dict(state)
    expected, mask = partial_conv2d(case.features, case.known, case.weight, case.bias, **case.keywords)
    whole, whole_mask = layer(case.features, case.known)
    assert torch.equal(whole, expected) and torch.equal(whole_mask, mask)
    ratio, ratio_mask = layer.ratio(case.known)
    visible = torch.where(spread(case.known, feature_groups) > 0, case.features, 0.0)
    assert torch.equal(layer.convolve(visible, ratio), expected) and torch.equal(ratio_mask, mask)
    with torch.no_grad():
        assert torch.equal(layer.convolve(visible, ratio), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sizes", [(5,), (2, 3)])
def test_hide_leaves_0_in_every_hole_and_every_bit_elsewhere(
    dtype: torch.dtype, training: bool, sizes: tuple[int, ...]
) -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 7, 6, generator=rng).to(dtype)
    features[0, :, 2:4] = torch.nan
    features[1, :, 5] = torch.inf
    known = (torch.rand(2, len(sizes), 7, 6, generator=rng) < 0.5).float()
    every = spread(known, sizes).expand_as(features) > 0
    for some in (features, features.contiguous(memory_format=torch.channels_last), features.permute(0, 1, 3, 2)):
        mask, where = (known, every) if some.shape == features.shape else (known.mT, every.mT)
        with torch.set_grad_enabled(training):
            out = hide(some, mask, sizes)
        assert bool((out[~where] == 0).all())
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[some.element_size()]
        assert torch.equal(out.view(bits)[where], some.view(bits)[where])


@settings(deadline=None, max_examples=60)
@given(cases(("partial",)))
def test_a_channel_for_each_feature_group_counts_like_a_mask_of_all_channels(case: Case) -> None:
    channels, groups = case.features.shape[1], case.keywords["groups"]
    where = {k: case.keywords[k] for k in ("stride", "padding", "dilation")}
    every = spread(case.known, case.keywords["feature_groups"]).expand(-1, channels, -1, -1)
    count = F.conv2d(every, torch.ones_like(case.weight), None, groups=groups, **where).round()
    window = case.weight[0].numel()
    bias = torch.zeros(len(case.weight), dtype=torch.float64) if case.bias is None else case.bias
    linear = F.conv2d(torch.where(every > 0, case.features, 0.0), case.weight, None, groups=groups, **where)
    expected = torch.where(count > 0, linear * (window / count.clamp(min=1)) + bias[:, None, None], 0.0)
    out, updated = partial_conv2d(case.features, case.known, case.weight, case.bias, **case.keywords)
    close(out, expected)
    assert torch.equal(
        updated.repeat_interleave(len(case.weight) // updated.shape[1], 1).double(), (count > 0).double()
    )


@settings(deadline=None, max_examples=100)
@given(cases(), st.booleans())
def test_of_a_known_picture_it_is_a_plain_convolution_with_a_ratio_of_the_border(case: Case, trained: bool) -> None:
    features, keywords = torch.nan_to_num(case.features), dict(case.keywords)
    expected, mask = partial_conv2d(features, torch.ones_like(case.known), case.weight, case.bias, **keywords)
    keywords.pop("feature_groups")
    weight = case.weight.clone().requires_grad_(trained)
    if bool((mask == 0).any()):
        with pytest.raises(ValueError, match="beyond the border"):
            known_conv2d(features, weight, case.bias, **keywords)
        return
    out = known_conv2d(features, weight, case.bias, **keywords)
    assert out.requires_grad == trained
    close(out.detach(), expected)


@pytest.mark.parametrize("multi_channel", [False, True])
def test_the_layer_of_nvidia_s_name_gives_the_same_with_its_weights(multi_channel: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.Conv2d(3, 4, 5, 2, 2)  # theirs is one, and keeps nothing else in its state dict
    features, known = torch.randn(2, 3, 9, 11), (torch.rand(2, 3 if multi_channel else 1, 9, 11) < 0.3).float()
    ones = torch.ones(4, 3, 5, 5) if multi_channel else torch.ones(1, 1, 5, 5)
    count = F.conv2d(known, ones, None, 2, 2)
    updated = count.clamp(0, 1)
    ratio = ones[0].numel() / (count + 1e-8) * updated
    assert theirs.bias is not None
    bias = theirs.bias[:, None, None]
    expected = ((theirs(features * known) - bias) * ratio + bias) * updated
    ours = PartialConv2d((1,) * 3 if multi_channel else 3, 4, 5, 2, 2)
    ours.load_state_dict(theirs.state_dict())
    out, mask = ours(features, known)
    torch.testing.assert_close(out, expected)
    assert mask.shape[1] == 1 and torch.equal(mask.expand_as(updated), updated)


def test_the_example_in_the_docstring_gives_what_it_shows() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(PartialConv2d, "PartialConv2d")
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.uint8, None])
def test_doubles_are_doubles_whatever_the_type_of_the_mask(kind: torch.dtype | None) -> None:
    layer = PartialConv2d(3, 4, 5, padding="same").double()
    features, known = torch.rand(1, 3, 16, 16, dtype=torch.float64), torch.ones(1, 1, 16, 16, dtype=torch.float64)
    if kind is not None:
        known[..., 4:7, 4:9] = 0
    out, _ = layer(features, None if kind is None else known.to(kind))
    expected, _ = layer(features, known)
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-14)


def test_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0, 99.0], [4.0, 99.0, 6.0]]]])
    known = torch.tensor([[[[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]]])
    weight = torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]])
    out, updated = partial_conv2d(features, known, weight, torch.tensor([0.5]))
    # (1 + 20 + 400) * 4 / 3 + 0.5 and (2 + 6000) * 4 / 2 + 0.5
    torch.testing.assert_close(out, torch.tensor([[[[561.833333, 12004.5]]]]))
    assert torch.equal(updated, torch.ones(1, 1, 1, 2))


def test_the_bias_is_not_scaled_and_is_0_on_an_empty_window() -> None:
    known = torch.zeros(1, 1, 3, 7)
    known[..., 1, 1] = 1  # in the windows of columns 0, 1 and 2; columns 3 and on see nothing
    bias = torch.tensor([3.0, -2.0])
    out, updated = partial_conv2d(torch.ones(1, 4, 3, 7), known, torch.zeros(2, 4, 3, 3), bias)
    assert torch.equal(updated, torch.tensor([[[[1.0, 1, 0, 0, 0]]]]))
    assert torch.equal(out, bias[None, :, None, None] * updated)


@pytest.mark.parametrize(
    ("kernel", "ratios", "corner"),
    [
        (3, [1.5, 1.0], 2.25),
        (5, [5 / 3, 1.25, 1.0], 2.7778),
        (7, [1.75, 1.4, 7 / 6, 1.0], 3.0625),
    ],
)
def test_border_ratios_of_a_known_picture(kernel: int, ratios: list[float], corner: float) -> None:
    known = torch.ones(1, 1, 11, 12)
    ratio, updated = known_ratio(known, (kernel, kernel), padding=kernel // 2)
    assert ratio.shape == known.shape
    expected = torch.tensor(ratios)
    for line in (ratio[0, 0, 5], ratio[0, 0, :, 5], ratio[0, 0, 5].flip(0), ratio[0, 0, :, 5].flip(0)):
        torch.testing.assert_close(line[: len(ratios)], expected)
    corners = ratio[0, 0][[0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, torch.full((4,), corner), rtol=1e-4, atol=0)
    assert bool((updated == 1).all())


@pytest.mark.parametrize("mode", ["zero", "reflect", "replicate"])
def test_other_paddings_of_a_known_picture_are_those_of_a_plain_convolution(mode: PaddingMode) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(4, 6, (3, 5), (2, 1), (1, 2), groups=2, padding_mode=mode).double()
    names = {"zero": "zeros"}
    plain = nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2), groups=2, padding_mode=names.get(mode, mode)).double()
    plain.load_state_dict(layer.state_dict())
    image = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    out, updated = layer(image, torch.ones(2, 1, 6, 7))
    torch.testing.assert_close(out, plain(image))
    assert bool((updated == 1).all())


def test_inside_a_known_picture_it_is_a_plain_convolution() -> None:
    torch.manual_seed(0)
    image, weight, bias = torch.randn(1, 3, 8, 9), torch.randn(5, 3, 3, 3), torch.randn(5)
    plain = F.conv2d(image, weight, bias)
    torch.testing.assert_close(partial_conv2d(image, torch.ones(1, 1, 8, 9), weight, bias)[0], plain)
    padded = partial_conv2d(image, torch.ones(1, 1, 8, 9), weight, bias, padding=1)[0]
    torch.testing.assert_close(padded[..., 1:-1, 1:-1], plain)
    # At the border the padding counts as a hole: a plain convolution scaled up, without its bias.
    corner = (F.conv2d(image, weight, None, padding=1) * 2.25 + bias[:, None, None])[..., 0, 0]
    torch.testing.assert_close(padded[..., 0, 0], corner)


@pytest.mark.parametrize(("length", "pad"), [(1, 1), (1, 3), (2, 2), (2, 5), (3, 3), (4, 6)])
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_wider_than_the_picture_reflects_what_there_is_then_repeats_it(
    mode: PaddingMode, length: int, pad: int
) -> None:
    row = torch.arange(1.0, length + 1)
    source = [locate(i, length, mode) for i in range(-pad, length + pad)]
    out, _ = partial_conv2d(
        row[None, None, None], torch.ones(1, 1, 1, length), torch.ones(1, 1, 1, 1), padding=(0, pad), padding_mode=mode
    )
    assert out.flatten().tolist() == [row[i].item() for i in source if i is not None]
    column, _ = partial_conv2d(
        row[None, None, :, None], torch.ones(1, 1, length, 1), torch.ones(1, 1, 1, 1), padding=(pad, 0),
        padding_mode=mode,
    )  # fmt: skip
    assert torch.equal(column.flatten(), out.flatten())


@pytest.mark.parametrize("pad", [1, 2, 3, 5])
@pytest.mark.parametrize("mode", MODES)
def test_a_mirrored_picture_gives_a_mirrored_result(mode: PaddingMode, pad: int) -> None:
    rng = torch.Generator().manual_seed(pad)
    image = torch.rand(1, 2, 2, 3, generator=rng)
    known = (torch.rand(1, 1, 2, 3, generator=rng) < 0.7).float()
    weight = torch.rand(2, 2, 3, 3, generator=rng)
    out, updated = partial_conv2d(image, known, weight, padding=pad, padding_mode=mode)
    for dims in ((-1,), (-2,), (-1, -2)):
        other, mask = partial_conv2d(
            image.flip(dims), known.flip(dims), weight.flip(dims), padding=pad, padding_mode=mode
        )
        torch.testing.assert_close(other.flip(dims), out)
        assert torch.equal(mask.flip(dims), updated)


def test_reflect_and_replicate_carry_holes_over_the_border() -> None:
    known = torch.tensor([[[[0.0, 1.0, 1.0]]]])
    taps = torch.ones(1, 1, 1, 1)
    image = torch.tensor([[[[7.0, 2.0, 3.0]]]])
    reflected, mask = partial_conv2d(image, known, taps, padding=(0, 1), padding_mode="reflect")
    assert reflected.flatten().tolist() == [2, 0, 2, 3, 2]
    assert mask.flatten().tolist() == [1, 0, 1, 1, 1]
    replicated, mask = partial_conv2d(image, known, taps, padding=(0, 1), padding_mode="replicate")
    assert replicated.flatten().tolist() == [0, 0, 2, 3, 3]
    assert mask.flatten().tolist() == [0, 0, 1, 1, 1]


def test_zero_padding_is_known_even_round_an_unknown_picture() -> None:
    out, updated = partial_conv2d(
        torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3), torch.tensor([5.0]), padding=1,
        padding_mode="zero",
    )  # fmt: skip
    assert updated[0, 0].tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert torch.equal(out, 5 * updated)


def test_a_layer_remembers_nothing_of_the_call_before() -> None:
    torch.manual_seed(0)
    layer = PartialConv2d((2, 1), 3, 3, padding=1)
    image, known = torch.randn(1, 3, 5, 5), (torch.rand(1, 2, 5, 5) < 0.5).float()
    first = layer(image, known)
    layer(torch.randn(1, 3, 5, 5), torch.zeros(1, 2, 5, 5))
    layer(torch.randn(2, 3, 4, 7), torch.ones(2, 2, 4, 7))
    again = layer(image, known)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_arguments_are_left_as_they_were() -> None:
    image, known, weight = torch.randn(1, 2, 4, 4), (torch.rand(1, 1, 4, 4) < 0.5).float(), torch.randn(2, 2, 3, 3)
    bias = torch.randn(2)
    before = [t.clone() for t in (image, known, weight, bias)]
    partial_conv2d(image, known, weight, bias, padding=1)
    assert all(torch.equal(a, b) for a, b in zip(before, (image, known, weight, bias), strict=True))


def test_the_state_dict_is_that_of_a_convolution() -> None:
    layer = PartialConv2d((3, 4), 8, 3)
    layer(torch.randn(1, 7, 5, 5), torch.ones(1, 2, 5, 5))
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert not list(layer.buffers())
    nn.Conv2d(7, 8, 3).load_state_dict(layer.state_dict())
    assert list(PartialConv2d(3, 8, 3, bias=False).state_dict()) == ["weight"]


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 1), ((3, 7), (2, 1))])
def test_same_keeps_the_size(kernel: Any, dilation: Any) -> None:
    layer = PartialConv2d(1, 1, kernel, padding="same", dilation=dilation)
    out, updated = layer(torch.ones(1, 1, 6, 9), torch.ones(1, 1, 6, 9))
    assert out.shape[-2:] == updated.shape[-2:] == (6, 9)


def test_values_in_holes_get_no_gradient_and_give_none() -> None:
    image = torch.full((1, 1, 3, 3), torch.nan, dtype=torch.float64)
    known = torch.zeros(1, 1, 3, 3)
    known[0, 0, 0, 0], image[0, 0, 0, 0] = 1, 2.0
    image.requires_grad_()
    weight = torch.ones(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    out, _ = partial_conv2d(image, known, weight)
    out.sum().backward()
    assert image.grad is not None and weight.grad is not None
    expected = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    expected[0, 0, 0, 0] = 9
    assert torch.equal(image.grad, expected) and torch.equal(weight.grad, 2 * expected)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_the_formula(mode: PaddingMode) -> None:
    rng = torch.Generator().manual_seed(3)
    known = (torch.rand(1, 2, 3, 4, generator=rng) < 0.4).double()
    image = torch.randn(1, 3, 3, 4, dtype=torch.float64, generator=rng, requires_grad=True)
    weight = torch.randn(2, 3, 3, 2, dtype=torch.float64, generator=rng, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, generator=rng, requires_grad=True)

    def layer(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return partial_conv2d(
            image, known, weight, bias, stride=(2, 1), padding=1, feature_groups=(2, 1), padding_mode=mode
        )[0]

    # Linear in each argument, so the difference quotient knows no error but rounding.
    assert torch.autograd.gradcheck(layer, (image, weight, bias))


@settings(deadline=None, max_examples=60)
@given(cases(("partial",)))
def test_backward_is_that_of_the_masked_convolution(case: Case) -> None:
    features = torch.nan_to_num(case.features).requires_grad_()
    weight = case.weight.clone().requires_grad_()
    where = {k: case.keywords[k] for k in ("stride", "padding", "dilation", "groups")}
    every = spread(case.known, case.keywords["feature_groups"]).expand_as(features)
    count = F.conv2d(every, torch.ones_like(weight), None, **where).round()
    scale = torch.where(count > 0, weight[0].numel() / count.clamp(min=1), 0.0)
    expected = F.conv2d(features * every, weight, None, **where) * scale
    out, _ = partial_conv2d(features, case.known, weight, None, **case.keywords)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    mine = torch.autograd.grad(out, (features, weight), upstream)
    theirs = torch.autograd.grad(expected, (features, weight), upstream)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def half_convolution(dtype: torch.dtype) -> None:
    """Skip where torch itself says that it cannot."""
    try:
        F.conv2d(torch.ones(1, 1, 3, 3, dtype=dtype), torch.ones(1, 1, 3, 3, dtype=dtype))
    except RuntimeError as error:  # pragma: no cover - depends on the build of torch
        if "not implemented" not in str(error):
            raise
        pytest.skip(str(error))


def test_one_pixel_under_a_stride_gives_the_weights_a_whole_gradient_in_half_precision() -> None:
    rng = torch.Generator().manual_seed(0)
    features, weight = torch.randn(4, 64, 1, 1, generator=rng), torch.randn(64, 64, 3, 3, generator=rng)
    layer = PartialConv2d(64, 64, 3, 2, 1, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer.weight.data.copy_(weight)
    given = features.bfloat16().contiguous(memory_format=torch.channels_last)
    for run in (lambda: layer(given, torch.ones(4, 1, 1, 1))[0], lambda: layer.convolve_known(given)):
        for _ in range(20):
            spoilt = [torch.full_like(weight, torch.nan, dtype=torch.bfloat16) for _ in range(4)]
            del spoilt  # what is not written keeps what stood there
            layer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                run().float().sum().backward()
            assert layer.weight.grad is not None and bool(layer.weight.grad.isfinite().all())
            beside = layer.weight.grad.clone()
            beside[..., 1, 1] = 0
            assert not beside.any()  # there is nothing but the pixel under the middle


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
def test_half_precision_survives_empty_windows(dtype: torch.dtype, mode: PaddingMode) -> None:
    half_convolution(dtype)
    rng = torch.Generator().manual_seed(1)
    image = torch.randn(2, 6, 9, 9, generator=rng)
    known = torch.zeros(2, 2, 9, 9)
    known[0, 0, 1, 1] = 1
    weight, bias = torch.randn(3, 6, 5, 5, generator=rng), torch.randn(3, generator=rng)
    args = (known.to(dtype), weight.to(dtype), bias.to(dtype))
    out, updated = partial_conv2d(image.to(dtype), *args, padding=2, feature_groups=(2, 4), padding_mode=mode)
    expected, mask = partial_conv2d(image, known, weight, bias, padding=2, feature_groups=(2, 4), padding_mode=mode)
    assert out.dtype == dtype and updated.dtype == torch.float32
    assert torch.equal(updated, mask)
    assert bool(out.isfinite().all())
    assert torch.equal(out == 0, (out == 0) | (updated == 0))
    # The ratio is 75 here: eight bits of it are left in bfloat16.
    torch.testing.assert_close(out.float(), expected, rtol=0.03, atol=3.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_computes_in_half_but_counts_in_whole(dtype: torch.dtype) -> None:
    half_convolution(dtype)
    torch.manual_seed(0)
    layer = PartialConv2d((3, 4), 5, 3, 2, 1)
    image, known = torch.randn(2, 7, 8, 8), torch.zeros(2, 2, 8, 8)
    known[0, 1, 2, 5] = 1
    with torch.autocast("cpu", dtype):
        out, updated = layer(image, known)
    expected, mask = layer(image, known)
    assert out.dtype == dtype and updated.dtype == torch.float32
    assert torch.equal(updated, mask) and 0 < float(updated.mean()) < 1
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out.float(), expected, rtol=0.03, atol=0.2)


@pytest.mark.parametrize("band", [1, 1 << 17])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("some_empty", [False, True])
def test_in_half_precision_scale_and_bias_are_those_of_float32_whatever_the_bands(
    dtype: torch.dtype, bias: bool, some_empty: bool, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_convolution(dtype)
    monkeypatch.setattr(module, "_BAND", band)
    rng = torch.Generator().manual_seed(1)
    features = torch.randn(2, 6, 21, 17, generator=rng).to(dtype)
    known = (torch.rand(2, 1, 21, 17, generator=rng) < 0.3).float()
    known[:, :, ::2, ::2] = 1
    known[:, :, 4:12, 3:9] *= not some_empty
    weight = torch.randn(4, 6, 3, 3, generator=rng).to(dtype)
    shift = torch.randn(4, generator=rng) if bias else None
    ratio, updated = known_ratio(known, (3, 3), padding=1)
    visible = hide(features, known)
    with torch.inference_mode():
        plain = F.conv2d(visible, weight, None, 1, 1)
        found = renormalised_conv2d(visible, ratio, weight, shift, padding=1, some_empty=some_empty)
    wanted = plain.float() * ratio
    if shift is not None:
        wanted = wanted + shift[:, None, None] * ratio.sign()
    torch.testing.assert_close(found, wanted.to(dtype), rtol=2e-2 if dtype == torch.bfloat16 else 2e-3, atol=1e-6)
    assert not found[(ratio == 0).expand_as(found)].any()
    assert bool((updated == 0).any()) is some_empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_of_an_empty_batch_it_makes_an_empty_batch(dtype: torch.dtype, training: bool) -> None:
    half_convolution(dtype)
    layer, image = PartialConv2d(3, 8, 3, dtype=dtype), torch.zeros(0, 3, 8, 9, dtype=dtype)
    for known in (None, torch.ones(0, 1, 8, 9)):
        with torch.set_grad_enabled(training):
            out, updated = layer(image, known)
        assert (out.shape, out.dtype, updated.shape) == ((0, 8, 6, 7), dtype, (0, 1, 6, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cast", [None, torch.float16, torch.bfloat16])
def test_counts_of_thousands_of_channels_are_exact(dtype: torch.dtype, cast: torch.dtype | None) -> None:
    sizes = (2049, 4099, 1)
    rng = np.random.default_rng(5)
    known = rng.random((1, 3, 6, 6)) < 0.6
    count = np.zeros((4, 4), np.int64)
    for y in range(4):
        for x in range(4):
            count[y, x] = sum(c * int(known[0, g, y : y + 3, x : x + 3].sum()) for g, c in enumerate(sizes))
    mask = torch.from_numpy(known).to(dtype)
    with torch.autocast("cpu", cast or torch.bfloat16, enabled=cast is not None):
        ratio, _ = known_ratio(mask, (3, 3), feature_groups=sizes)
    assert ratio.dtype == torch.float32
    # Rounded twice at most; one channel more or less would show a hundred times as large.
    np.testing.assert_allclose(ratio[0, 0].double().numpy(), sum(sizes) * 9 / count, rtol=2.5e-7)


def test_convolve_takes_a_ratio_for_each_convolution_group() -> None:
    visible, weight = torch.ones(1, 4, 1, 1), torch.ones(4, 2, 1, 1)
    ratio = torch.tensor([3.0, 0.0])[None, :, None, None]
    out = renormalised_conv2d(visible, ratio, weight, torch.tensor([1.0, 2.0, 3.0, 4.0]), groups=2)
    assert out.flatten().tolist() == [7, 8, 0, 0]


def test_ratio_carries_no_gradient() -> None:
    ratio, updated = known_ratio(torch.ones(1, 1, 3, 3, requires_grad=True), (3, 3))
    assert not ratio.requires_grad and not updated.requires_grad


def test_what_does_not_fit_is_refused() -> None:
    image, weight = torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3)
    for shape in ((1, 3, 4, 4), (1, 1, 4, 5), (2, 1, 4, 4)):
        with pytest.raises(ValueError, match="known is"):
            partial_conv2d(image, torch.ones(shape), weight)
    with pytest.raises(ValueError, match="sum to 4"):
        partial_conv2d(image, torch.ones(1, 2, 4, 4), weight, feature_groups=(2, 2))
    with pytest.raises(ValueError, match="divide"):
        known_ratio(torch.ones(1, 1, 4, 4), (3, 3), groups=2, feature_groups=(3,))
    with pytest.raises(ValueError, match="features must be"):
        partial_conv2d(image[0], torch.ones(1, 4, 4), weight)
    with pytest.raises(ValueError, match="features must be"):
        known_conv2d(image[0], weight)
    with pytest.raises(ValueError, match=r"float type, not torch\.uint8"):
        partial_conv2d(image.byte(), torch.ones(1, 1, 4, 4), weight)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_a_padding_mode_that_there_is_not_is_refused_wherever_it_is_named(mode: Any, padding: int) -> None:
    image, known, weight = torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4), torch.ones(2, 3, 3, 3)
    calls: list[Callable[[], Any]] = [
        lambda: PartialConv2d(3, 2, 3, padding_mode=mode),
        lambda: partial_conv2d(image, known, weight, padding=padding, padding_mode=mode),
        lambda: known_ratio(known, (3, 3), padding=padding, padding_mode=mode),
        lambda: renormalised_conv2d(image, known, weight, padding=padding, padding_mode=mode),
        lambda: known_conv2d(image, weight, padding=padding, padding_mode=mode),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"partial, zero, reflect, replicate, not '{mode}'"):
            call()


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"stride": 0}, "stride .0, 0. .* must be 1 or more"),
        ({"dilation": (1, 0)}, "dilation .1, 0. must be 1 or more"),
        ({"padding": -1}, "padding .-1, -1. 0 or more"),
        ({"padding": (1, 2, 3)}, "neither a whole number nor two"),
        ({"padding": "full"}, "'full' is neither a whole number nor two"),
        ({"kernel_size": 0}, "kernel_size .0, 0."),
        ({"kernel_size": 4, "padding": "same"}, "padding='same' needs"),
        ({"kernel_size": (3, 2), "padding": "same"}, "padding='same' needs"),
        ({"stride": 2, "padding": "same"}, "padding='same' needs"),
        ({"in_channels": 0}, "in_channels 0 and out_channels 2 must be 1 or more"),
        ({"in_channels": ()}, "in_channels .. and"),
        ({"in_channels": (3, 0)}, "in_channels .3, 0. and"),
        ({"in_channels": (4, -1)}, "in_channels .4, -1. and"),
        ({"out_channels": 0}, "out_channels 0 must be 1 or more"),
    ],
)
def test_a_layer_that_could_not_be_called_or_would_not_keep_the_size_is_refused(
    keywords: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        PartialConv2d(**({"in_channels": 3, "out_channels": 2, "kernel_size": 3} | keywords))


@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [1.5, (1.5, 2), (2, 1.0)])
def test_a_fraction_is_no_number_of_pixels_wherever_it_stands(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match="float"):
        PartialConv2d(**{"in_channels": 3, "out_channels": 2, "kernel_size": 3, name: value})  # type: ignore[arg-type]


def test_a_window_larger_than_what_there_is_is_refused_in_words() -> None:
    image, known, weight = torch.ones(1, 3, 4, 9), torch.ones(1, 1, 4, 9), torch.ones(2, 3, 3, 3)
    with pytest.raises(ValueError, match=r"dilation .4, 4., is larger than features of .4, 9. with padding .2, 2."):
        partial_conv2d(image, known, weight, padding=2, dilation=4)
    with pytest.raises(ValueError, match="must be 1 or more"):
        partial_conv2d(image, known, weight, stride=0)
    assert partial_conv2d(image, known, weight, padding=(3, 0), dilation=4)[0].shape == (1, 2, 2, 1)


def test_valid_is_no_padding_and_numpy_s_numbers_are_numbers() -> None:
    layer = PartialConv2d(np.int64(3), np.int64(4), np.int64(3), np.int64(2), "valid")
    assert layer.padding == (0, 0) and layer.feature_groups == (3,) and layer.stride == (2, 2)
    out, updated = layer(torch.ones(1, 3, 7, 9), torch.ones(1, 1, 7, 9))
    assert out.shape == (1, 4, 3, 4) and updated.shape == (1, 1, 3, 4)
    assert PartialConv2d(np.array([2, 1]), 4, 3).feature_groups == (2, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("keywords", [{}, {"stride": 2, "padding": (1, 2), "dilation": 3, "groups": 3, "bias": False}])
def test_print_shows_of_a_layer_what_it_shows_of_a_convolution_and_the_padding_mode(keywords: dict[str, Any]) -> None:
    told = repr(nn.Conv2d(3, 6, 3, **keywords))
    assert repr(PartialConv2d(3, 6, 3, **keywords)) == f"Partial{told[:-1]}, padding_mode=partial)"
    assert repr(PartialConv2d((2, 1), 6, 3)).startswith("PartialConv2d((2, 1), 6, kernel_size=")


def test_a_layer_is_made_of_the_type_and_where_it_is_asked_for() -> None:
    layer = PartialConv2d(3, 4, 3, device="meta", dtype=torch.float64)
    assert layer.bias is not None
    assert {(p.device.type, p.dtype) for p in (layer.weight, layer.bias)} == {("meta", torch.float64)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(4,), (1, 3)])
def test_a_mask_of_none_is_one_of_ones(mode: PaddingMode, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(sizes, 2, 3, 2, 4, groups=2, padding_mode=mode)  # windows beyond the border are empty
    image = torch.randn(2, 4, 5, 6)
    given = image.clone()
    for training in (True, False):
        with torch.set_grad_enabled(training):
            out, updated = layer(image, None)
            expected, mask = layer(image, torch.ones(2, len(sizes), 5, 6))
        assert torch.equal(out, expected) and torch.equal(updated, mask) and torch.equal(image, given)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("mode", MODES)
def test_whole_numbers_above_0_are_known_whatever_they_are(dtype: torch.dtype, mode: PaddingMode) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d((2, 1), 2, 3, padding=1, padding_mode=mode)
    image, known = torch.randn(2, 3, 5, 6), (torch.rand(2, 2, 5, 6) < 0.4).float()
    expected, updated = layer(image, known)
    for training in (True, False):
        with torch.set_grad_enabled(training):
            out, mask = layer(image, (known * 255).to(dtype))
        torch.testing.assert_close(out, expected)
        assert torch.equal(mask, updated)


@pytest.mark.parametrize("mask", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_with_and_without_gradients_the_same_is_hidden_whatever_the_mask_holds(
    dtype: torch.dtype, mask: torch.dtype
) -> None:
    values = torch.tensor([-2.0, -1.0, -0.3, -0.0, 0.0, 1e-5, 0.3, 0.9, 1.0, 1.7, 2.0, 127.0])
    known = values.to(mask)[None, None, None].requires_grad_(mask.is_floating_point)
    features = torch.linspace(1, 2, 24).to(dtype).view(1, 2, 1, 12)
    seen = hide(features, known)
    assert torch.equal(seen, hide(features.clone().requires_grad_(), known))
    assert torch.equal(seen, torch.where(known > 0, features, 0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_trace_is_right_of_other_masks_too(mode: PaddingMode, training: bool) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d((2, 1), 4, 3, 2, 1, padding_mode=mode)
    with torch.set_grad_enabled(training):
        traced = torch.jit.trace(layer, (torch.randn(1, 3, 7, 8), torch.ones(1, 2, 7, 8)))
        for share in (0.0, 0.1, 0.5):
            image, known = torch.randn(1, 3, 7, 8), (torch.rand(1, 2, 7, 8) < share).float()
            image[:, :2][known[:, :1].expand(-1, 2, -1, -1) == 0] = torch.nan
            for found, wanted in zip(traced(image, known), layer(image, known), strict=True):
                torch.testing.assert_close(found, wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.skipif(torch.__version__ < "2.9", reason="older torch takes sizes for constants")
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0), (2, 1)])
def test_exported_for_any_size_with_a_stride_too(stride: int, padding: int) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d((2, 1), 4, 3, stride, padding)
    sizes = {2: torch.export.Dim("height", min=6), 3: torch.export.Dim("width", min=6)}
    shapes = ((16, 17), (9, 30), (6, 7))
    given = [(torch.randn(1, 3, *shape), (torch.rand(1, 2, *shape) < 0.4).float()) for shape in shapes]
    exported = torch.export.export(layer, given[0], dynamic_shapes=(sizes, sizes)).module()
    for pair in given:
        for found, wanted in zip(exported(*pair), layer(*pair), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_mapped_over_pictures_it_gives_what_it_gives_of_the_batch(training: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(3, 4, 3, padding=1, bias=bias)
    image, known = torch.randn(5, 3, 7, 8), (torch.rand(5, 1, 7, 8) < 0.3).float()
    with torch.set_grad_enabled(training):
        found = torch.func.vmap(lambda a, b: layer(a[None], b[None]))(image, known)
        for mapped, wanted in zip(found, layer(image, known), strict=True):
            torch.testing.assert_close(mapped[:, 0], wanted)


@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
def test_the_border_s_ratio_is_the_same_by_counting_and_by_tensors(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    assume(size + 2 * padding >= dilation * (kernel - 1) + 1)
    try:
        counted = _axis_ratio(size, kernel, stride, padding, dilation)
    except ValueError:
        assume(False)
    traced = _traced_ratio(torch.zeros(1, dtype=torch.float64), size, kernel, stride, padding, dilation)
    assert traced.tolist() == pytest.approx(counted, rel=1e-15)
