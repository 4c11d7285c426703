"""Padding of finished networks: the formula at the border, every bit elsewhere, and all of it undone again."""

from __future__ import annotations

import copy
import io
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pconv_cli.nn import convert_padding
from pconv_cli.nn.partial_conv import PartialConv2d

SHAPES = [(13, 12), (8, 9), (21, 16)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(8, 6, 1, bias=False), nn.Conv2d(6, 6, (3, 5), padding="same", bias=False),
    ).eval()  # fmt: skip


def pictures(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, Tensor]:
    """A convolution none of whose windows lies beyond the border, and features for it, in float64."""
    groups = draw(st.integers(1, 2))
    kernel, stride, padding, dilation, size = [], [], [], [], []
    for _ in range(2):
        kernel.append(draw(st.integers(1, 5)))
        dilation.append(draw(st.integers(1, 3)))
        stride.append(draw(st.integers(1, 3)))
        padding.append(draw(st.integers(0, dilation[-1] * (kernel[-1] - 1))))
        # From the first window's last tap on, and as long as the taps' distance, no window falls between the pixels.
        size.append(dilation[-1] * (kernel[-1] - 1) + draw(st.integers(1, 4)))
    same = draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 1000)))
    convolution = nn.Conv2d(
        2 * groups, 3 * groups, (kernel[0], kernel[1]), 1 if same else (stride[0], stride[1]),
        "same" if same else (padding[0], padding[1]), (dilation[0], dilation[1]), groups, draw(st.booleans()),
    )  # fmt: skip
    return convolution.double(), torch.randn(2, 2 * groups, *size, dtype=torch.float64)


def sides(layer: nn.Conv2d) -> list[int]:
    """Left, right, top, bottom, as `F.pad` takes them."""
    if layer.padding == "same":
        reach = [layer.dilation[i] * (layer.kernel_size[i] - 1) for i in (1, 0)]
        return [side for pad in reach for side in (pad // 2, pad - pad // 2)]
    return [int(layer.padding[i]) for i in (1, 1, 0, 0)]


def formula(features: Tensor, layer: nn.Conv2d) -> Tensor:
    """Equations 4 and 5: `W^T X_p0 r + b` with `r = |1_p1| / |1_p0|`, window by window."""
    window = {"kernel_size": layer.kernel_size, "dilation": layer.dilation, "stride": layer.stride}
    pad, ones = sides(layer), torch.ones_like(features[:1, :1])
    zero_padded, one_padded = F.pad(ones, pad), F.pad(ones, pad, value=1.0)
    r = F.unfold(one_padded, **window).sum(1) / F.unfold(zero_padded, **window).sum(1)
    columns = F.unfold(F.pad(features, pad), **window)
    rows, parts = layer.weight.flatten(1).chunk(layer.groups), columns.chunk(layer.groups, dim=1)
    linear = torch.cat([row @ part for row, part in zip(rows, parts, strict=True)], dim=1)
    out = linear * r[:, None] + (0 if layer.bias is None else layer.bias[:, None])
    return out.view(*out.shape[:2], *layer(features).shape[2:])


@settings(deadline=None, max_examples=100)
@given(convolutions(), st.booleans())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_equals_equations_4_and_5_whatever_the_geometry(case: tuple[nn.Conv2d, Tensor], training: bool) -> None:
    layer, features = case
    with torch.set_grad_enabled(training):
        expected = formula(features, layer)
        plain = layer(features)
        out = convert_padding(layer)(features)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(convert_padding(layer, "zero")(features), plain)


@pytest.mark.parametrize(
    ("kernel", "line"), [(3, [1.5, 1, 1]), (5, [5 / 3, 1.25, 1]), (7, [1.75, 1.4, 7 / 6])]
)  # 1811.11718, of a picture of ones
def test_ratios_by_hand(kernel: int, line: list[float]) -> None:
    layer = nn.Conv2d(1, 1, kernel, padding=kernel // 2)
    nn.init.constant_(layer.weight, 1 / kernel**2)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, 10.0)
    convert_padding(layer)
    # Where zeros would darken the border, the mean of what is there is 1 everywhere; the bias is added as it is.
    torch.testing.assert_close(layer(torch.ones(1, 1, 9, 9)), torch.full((1, 1, 9, 9), 11.0))
    dot = torch.zeros(1, 1, 9, 9)
    dot[0, 0, 4, 4] = kernel**2
    wide = nn.Conv2d(1, 1, 9, padding=4, bias=False)  # each window holds the dot; 5 of 9 taps are inside in a corner
    nn.init.constant_(wide.weight, 1 / kernel**2)
    torch.testing.assert_close(convert_padding(wide)(dot)[0, 0, 0, 0], torch.tensor((9 / 5) ** 2))
    delta = nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False)
    nn.init.dirac_(delta.weight)
    seen = convert_padding(delta)(torch.ones(1, 1, 9, 9))[0, 0]
    torch.testing.assert_close(seen[4, :3], torch.tensor(line))
    torch.testing.assert_close(seen[:3, 4], torch.tensor(line))
    torch.testing.assert_close(seen[0, 0], torch.tensor(line[0] ** 2))  # 2.25 for a kernel of 3


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 2), (1, 2, 4)])
def test_equals_a_partial_convolution_under_a_full_mask(
    training: bool, stride: int, dilation: int, groups: int
) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(4, 8, 3, stride, dilation, dilation, groups, padding_mode="partial")
    plain = nn.Conv2d(4, 8, 3, stride, dilation, dilation, groups)
    plain.load_state_dict(layer.state_dict())
    features = torch.randn(2, 4, 9, 10)
    with torch.set_grad_enabled(training):
        expected, _ = layer(features, torch.ones(2, 1, 9, 10))
        torch.testing.assert_close(convert_padding(plain)(features), expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_inside_every_bit_is_that_of_zero_padding_and_back_again_everywhere(
    dtype: torch.dtype, layout: torch.memory_format, training: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 5, padding=2).to(dtype=dtype, memory_format=layout)
    features = torch.randn(2, 8, 11, 12).to(dtype=dtype, memory_format=layout)
    with torch.set_grad_enabled(training):
        plain = layer(features)
        out = convert_padding(layer)(features)
        assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
        assert torch.equal(out[..., 2:-2, 2:-2], plain[..., 2:-2, 2:-2])
        assert bool((out != plain)[..., 0, :].any())
        assert torch.equal(convert_padding(layer, "zero")(features), plain)


def test_the_model_is_changed_in_place_and_brought_back_exactly() -> None:
    model = network()
    before = [dict(vars(module)) for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert convert_padding(model) is model
    assert {name: torch.equal(value, state[name]) for name, value in model.state_dict().items()} == dict.fromkeys(
        state, True
    )
    assert "padding_mode=partial" in repr(model)
    assert convert_padding(model, "zero") is model
    assert [vars(module) for module in model.modules()] == before


def test_twice_is_once_and_one_padding_follows_another() -> None:
    model, x = network(), pictures(13, 12)
    plain = model(x)
    once = convert_padding(model)(x)
    assert torch.equal(convert_padding(model)(x), once) and not torch.equal(once, plain)
    assert not torch.equal(convert_padding(model, "reflect")(x), once)
    assert torch.equal(convert_padding(model, "partial")(x), once)
    assert torch.equal(convert_padding(convert_padding(model, "zero"), "zero")(x), plain)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_other_paddings_are_torchs_own(mode: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 5, 2, 2)
    theirs = nn.Conv2d(3, 4, 5, 2, 2, padding_mode=mode)
    theirs.load_state_dict(layer.state_dict())
    x = pictures(9, 10)
    torch.testing.assert_close(convert_padding(layer, mode)(x), theirs(x))


class Shifted(nn.Conv2d):
    """Calls what `torch.nn.Conv2d.forward` calls."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * 2, self.bias)


class Standardised(nn.Conv2d):
    """Convolves by itself, as convolutions with standardised weights do."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight - self.weight.mean(), self.bias, self.stride, self.padding)


class Centred(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean(), bias)


def test_a_subclass_that_calls_the_same_method_is_converted() -> None:
    torch.manual_seed(0)
    layer, plain, x = Shifted(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1), pictures(6, 7)
    plain.load_state_dict({"weight": layer.weight * 2, "bias": layer.bias})  # type: ignore[dict-item]
    assert torch.equal(convert_padding(layer)(x), convert_padding(plain)(x))
    assert type(layer) is Shifted


@pytest.mark.parametrize("kind", [Standardised, Centred])
def test_a_convolution_of_its_own_way_is_refused_by_name_and_nothing_is_changed(kind: type[nn.Conv2d]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(kind(3, 3, 3, padding=1)))
    with pytest.raises(ValueError, match=rf"^1\.0: {kind.__name__} convolves in a way of its own"):
        convert_padding(model)
    assert "partial" not in repr(model)
    convert_padding(model, "zero")
    convert_padding(kind(3, 3, 3))  # without padding there is nothing to change


def test_padding_without_a_pixel_in_it_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, (3, 5), padding=(3, 2)))
    with pytest.raises(ValueError, match=r"^1: padding \(3, 2\) is so wide that windows of \(3, 5\) lie beyond"):
        convert_padding(model)
    assert "partial" not in repr(model)
    convert_padding(model, "replicate")
    with pytest.raises(ValueError, match=r"^the model: padding \(2, 2\)"):
        convert_padding(nn.Conv2d(1, 1, 2, padding=2))


def test_where_that_depends_on_the_picture_the_call_refuses_it_by_name() -> None:
    model = convert_padding(nn.Sequential(nn.Conv2d(3, 3, 2, padding=1, dilation=4)))
    model(pictures(9, 9))
    with pytest.raises(ValueError, match=r"^0: a window of 2 taps lies beyond the border"):
        model(pictures(3, 9))  # between the two taps


def test_an_unknown_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="partial, zero, reflect, replicate, not 'zeros'"):
        convert_padding(network(), "zeros")  # type: ignore[arg-type]


def test_what_is_not_padded_with_zeros_in_a_plane_is_left_alone() -> None:
    model = nn.ModuleList(
        [
            nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding="valid"), nn.Conv1d(3, 3, 3, padding=1),
            nn.Conv2d(3, 3, 1, padding="same"), nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
            nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.Conv3d(3, 3, 3, padding=1),
            nn.ConvTranspose2d(3, 3, 3, padding=1), nn.ZeroPad2d(1), nn.Conv2d(3, 3, 3, padding=1),
        ]
    )  # fmt: skip
    before = [dict(vars(module)) for module in model]
    convert_padding(model)
    assert [vars(module) == was for module, was in zip(model, before, strict=True)] == [True] * 10 + [False]
    convert_padding(model, "zero")
    assert [vars(module) for module in model] == before


def test_what_was_converted_can_be_counted_and_a_warning_says_where_nothing_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = convert_padding(network())
    assert sum(getattr(module, "padding_mode", None) == "partial" for module in model.modules()) == 3
    convert_padding(nn.Conv2d(3, 3, 3), "zero")
    assert caplog.records == []
    convert_padding(nn.ModuleList([nn.Conv1d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3)]))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pconv_cli.nn.padding", logging.WARNING)
    assert record.getMessage() == "ModuleList has no Conv2d that pads with zeros: nothing was converted"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_refuses_by_name_what_it_would_not_see() -> None:
    model, x = network(), pictures(13, 12)
    plain = model(x)
    with pytest.raises(RuntimeError, match=r"^0: a convolution with partial padding cannot be scripted: use torch"):
        torch.jit.script(nn.Sequential(nn.ReLU(), convert_padding(model)))
    for mode in ("reflect", "zero"):  # those torch has itself
        convert_padding(model, mode)
        torch.testing.assert_close(torch.jit.script(model)(x), model(x))
    assert torch.equal(model(x), plain)


def test_a_convolution_used_twice_is_converted_once_and_pads_each_size() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.MaxPool2d(2), shared)
    alone = convert_padding(copy.deepcopy(shared))
    x = pictures(8, 10)
    expected = alone(F.max_pool2d(alone(x), 2))
    assert torch.equal(convert_padding(model)(x), expected)


def test_a_picture_without_a_batch_is_taken_as_torch_takes_it() -> None:
    layer, x = convert_padding(nn.Conv2d(3, 4, 3, padding=1)), pictures(6, 7)
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


@pytest.mark.filterwarnings("ignore::UserWarning")  # lazy modules warn that they are new
def test_a_lazy_convolution_is_converted_before_it_knows_its_channels() -> None:
    torch.manual_seed(0)
    lazy = convert_padding(nn.Sequential(nn.LazyConv2d(4, 3, padding=1)))
    x = pictures(6, 7)
    out = lazy(x)
    plain = nn.Conv2d(3, 4, 3, padding=1)
    plain.load_state_dict(lazy[0].state_dict())
    assert torch.equal(out, convert_padding(plain)(x))


def test_a_geometry_changed_afterwards_counts() -> None:
    layer, x = convert_padding(nn.Conv2d(3, 3, 3, 2, 1)), pictures(9, 9)
    layer.stride, layer.dilation, layer.padding = (1, 1), (2, 2), (2, 2)  # as is done to dilate a trained network
    torch.testing.assert_close(layer(x), formula(x, layer))


def test_hooks_run_as_before_and_see_the_new_result() -> None:
    model, seen = network(), []
    x, alone = pictures(13, 12), convert_padding(copy.deepcopy(model[0]))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[0].register_forward_hook(lambda module, args, out: seen.append(out))
    convert_padding(model)
    model[0].register_forward_hook(lambda module, args, out: seen.append(out))
    model(x)
    assert len(seen) == 2 and all(torch.equal(out, alone(x * 2)) for out in seen)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations_come_and_go_before_and_after(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    x, plain = pictures(6, 7), nn.Conv2d(3, 4, 3, padding=1)
    weighted = norm(copy.deepcopy(plain)).eval()
    before = weighted(x)
    converted = convert_padding(weighted)(x)
    parametrize.remove_parametrizations(weighted, "weight")  # torch puts the class back that it finds below its own
    assert type(weighted) is nn.Conv2d
    torch.testing.assert_close(weighted(x), converted)
    torch.testing.assert_close(convert_padding(weighted, "zero")(x), before)
    weighted = norm(convert_padding(plain)).eval()
    same = nn.Conv2d(3, 4, 3, padding=1)
    same.load_state_dict({"weight": weighted.weight.detach(), "bias": weighted.bias.detach()})
    assert torch.equal(weighted(x), convert_padding(same)(x))
    assert torch.equal(convert_padding(weighted, "zero")(x), convert_padding(same, "zero")(x))
    assert not torch.equal(before, converted)


def pickled(model: nn.Module) -> nn.Module:
    copied: nn.Module = pickle.loads(pickle.dumps(model))
    return copied


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copied: nn.Module = torch.load(file, weights_only=False)
    return copied


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
def test_a_copy_pads_alike_and_is_a_network_of_its_own(copied: Callable[[nn.Module], nn.Module]) -> None:
    model, x = convert_padding(network()), pictures(13, 12)
    expected = model(x)
    other = copied(model)
    assert torch.equal(other(x), expected)
    first = next(other.children())
    assert isinstance(first, nn.Conv2d)
    first.padding = (1, 1)  # of the copy alone
    assert torch.equal(model(x), expected) and not torch.equal(first(x), model[0](x))
    convert_padding(model, "zero")
    assert "partial" in repr(other)


def test_a_state_dict_fits_a_network_of_either_padding() -> None:
    converted, plain = convert_padding(network()), network()
    assert list(converted.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(converted.state_dict())
    converted.load_state_dict(plain.state_dict())


def test_a_batch_norm_folds_into_the_weights_as_before() -> None:
    model, x = convert_padding(network()), pictures(13, 12)
    expected = model[:2](x)
    torch.testing.assert_close(fuse_conv_bn_eval(model[0], model[1])(x), expected)


def test_gradients_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, 2, 1).double()
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())
    upstream = torch.randn(2, 4, 4, 3, dtype=torch.float64)
    expected = torch.autograd.grad(formula(x, layer), inputs, upstream)
    mine = torch.autograd.grad(convert_padding(layer)(x), inputs, upstream)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_autocast_computes_in_half_precision() -> None:
    model, x = convert_padding(network()), pictures(13, 12)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), model(x), rtol=0.05, atol=0.03)


def test_data_parallel_takes_it() -> None:
    model, x = convert_padding(network()), pictures(13, 12)
    assert torch.equal(nn.DataParallel(model)(x), model(x))
    replica = model[0]._replicate_for_data_parallel()  # what it makes on each of several devices
    replica.weight, replica.bias = model[0].weight.detach() * 2, model[0].bias.detach()
    torch.testing.assert_close(
        replica(x) - replica.bias[:, None, None], 2 * (model[0](x) - replica.bias[:, None, None])
    )


def test_a_symbolic_trace_and_a_training_step_keep_it() -> None:
    model, x = convert_padding(network()), pictures(13, 12)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))
    model.train()(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_whole_for_any_size() -> None:
    model = convert_padding(network())
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for size in SHAPES:
        torch.testing.assert_close(compiled(pictures(*size)), model(pictures(*size)))
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.skipif(torch.__version__ < "2.9", reason="older torch takes sizes for constants")
def test_exported_for_any_size() -> None:
    model = convert_padding(network())
    sizes = {2: torch.export.Dim("height", min=5, max=4096), 3: torch.export.Dim("width", min=5, max=4096)}
    exported = torch.export.export(model, (pictures(*SHAPES[0]),), dynamic_shapes=(sizes,)).module()
    for size in SHAPES:
        torch.testing.assert_close(exported(pictures(*size)), model(pictures(*size)))


def test_the_example_of_the_readme() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1))
    convert_padding(network)  # partial convolution based padding; `print(network)` shows it
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(network(torch.rand(2, 3, 32, 32)), torch.zeros(2, 32, 32, dtype=torch.long))
    loss.backward()
    optimiser.step()
    assert "padding_mode=partial" in repr(network)
    convert_padding(network, "zero")  # and back; the weights and the state dict never change
    assert "partial" not in repr(network)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_network_pads_as_the_network_does_at_the_size_of_the_trace() -> None:
    network = convert_padding(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 5, 2, padding=2)).eval())
    example = torch.rand(1, 3, 9, 12)
    traced = torch.jit.trace(network, example)
    torch.testing.assert_close(traced(example), network(example))
