"""The network: the paper's table, any size, what it returns where it cannot reach, and the floor it stands on."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn

from pconv_cli.nn import partial_conv
from pconv_cli.nn.partial_conv import PartialConv2d
from pconv_cli.nn.pyramid import pyramid_fill
from pconv_cli.nn.restraint import restrained
from pconv_cli.nn.unet import COMPACT, DEEP, PAPER, PartialConvUNet, UNetConfig, _doubled

PLAIN = UNetConfig(encoder=((6, 7), (8, 5), (9, 3)))
FLOOR = UNetConfig(encoder=((6, 5), (8, 3), (9, 3)), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), floor=2, head=4)
GREY = UNetConfig(encoder=((4, 3), (5, 2)), channels=1, mean=(0.4,), std=(0.2,), floor=1)
RESIDUAL = replace(PLAIN, blocks=(0, 1, 2))
RESIDUAL_FLOOR = replace(FLOOR, blocks=(1, 2, 0))
CONFIGS = {
    "plain": PLAIN,
    "plain with head": replace(PLAIN, head=3, padding_mode="replicate"),
    "floor": FLOOR,
    "grey": GREY,
    "bilinear": replace(FLOOR, upsample="bilinear"),
    "residual": RESIDUAL,
    "residual on a floor": RESIDUAL_FLOOR,
}
SIZES = [(1, 1), (3, 5), (37, 64), (129, 65)]
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def trained(config: UNetConfig, seed: int = 0) -> PartialConvUNet:
    """A network in which no weight and no batch statistic has the value that it starts with."""
    torch.manual_seed(seed)
    network = PartialConvUNet(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.2, 3)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.3, 2)
            nn.init.uniform_(module.bias, -1, 1)
        elif isinstance(module, PartialConv2d):
            nn.init.normal_(module.weight, 0, 0.2)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -1, 1)
    for name, weight in network.named_parameters():
        if ".second." in name:  # residual blocks that add much add up to more than half precision holds
            weight.data.mul_(0.1)
    return network.eval()


def scene(
    config: UNetConfig, n: int, height: int, width: int, share: float = 0.6, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise with a rectangle missing and specks lost."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(n, config.channels, height, width, generator=rng)
    known = (torch.rand(n, 1, height, width, generator=rng) < share).float()
    known[..., height // 3 : 2 * height // 3 + 1, width // 4 : 3 * width // 4 + 1] = 0
    known[..., 0, 0] = 1
    return image, known


def reached(config: UNetConfig, known: Tensor) -> Tensor:
    """The mask of a network without a floor by the paper's rule alone: whatever a window sees is known after it."""
    blocks = config.blocks or (0,) * len(config.encoder)

    def grown(mask: Tensor, by: int) -> Tensor:
        return F.max_pool2d(mask, 2 * by + 1, 1, by)

    masks = [known]
    for (_, kernel), count in zip(config.encoder, blocks, strict=True):
        masks.append(grown(F.max_pool2d(masks[-1], kernel, 2, kernel // 2), 2 * count))
    mask = masks.pop()
    for skip, count in zip(reversed(masks), (*reversed(blocks[:-1]), 0), strict=True):
        joined = torch.maximum(F.interpolate(mask, skip.shape[-2:], mode="nearest"), skip)
        mask = grown(joined, 1 + 2 * count)
    return mask


def paper_forward(network: PartialConvUNet, image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The network from its formulas: masks as wide as the features, a second convolution of ones to count."""
    config = network.config

    def layer(conv: PartialConv2d, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        pad = conv.weight.shape[-1] // 2
        count = F.conv2d(m, torch.ones_like(conv.weight), None, conv.stride, pad)
        linear = F.conv2d(x * m, conv.weight, None, conv.stride, pad)
        bias = 0.0 if conv.bias is None else conv.bias[:, None, None]
        ratio = conv.weight[0].numel() / count.clamp(min=1)
        return torch.where(count > 0, linear * ratio + bias, 0.0), (count > 0).to(x.dtype)

    def normed(norm: nn.Module, x: Tensor) -> Tensor:
        if not isinstance(norm, nn.BatchNorm2d):
            return x
        assert norm.running_mean is not None and norm.running_var is not None
        shape = (-1, 1, 1)
        scaled = (x - norm.running_mean.view(shape)) / torch.sqrt(norm.running_var.view(shape) + norm.eps)
        return scaled * norm.weight.view(shape) + norm.bias.view(shape)

    mean, std = (torch.tensor(v, dtype=image.dtype)[:, None, None] for v in (config.mean, config.std))
    picture = (image - mean) / std * known
    floor = None if config.floor is None else pyramid_fill(picture, known, config.floor)
    x, m = picture, known.expand_as(picture)
    if floor is not None:  # beside the picture: the floor and the mask, known wherever anything is
        some = known.amax((1, 2, 3), keepdim=True).expand(-1, config.channels + 1, *known.shape[-2:])
        x, m = torch.cat([picture, floor, known], 1), torch.cat([m, some], 1)

    def level(block: nn.Module, x: Tensor, m: Tensor, slope: float) -> tuple[Tensor, Tensor]:
        first, *residual = block if isinstance(block, nn.ModuleList) else [block]
        x, m = layer(first.conv, x, m)
        x = F.leaky_relu(normed(first.norm, x), slope) * m
        for one in residual:
            inner, m = layer(one.first.conv, x, m)
            inner, m = layer(one.second, F.leaky_relu(normed(one.first.norm, inner), config.slope) * m, m)
            x = x + inner
        return x, m

    skips = []
    for block in network.encoder:
        skips.append((x, m))
        x, m = level(block, x, m, 0)
    for block in [*network.decoder, network.head]:
        skip, skip_mask = skips.pop()
        size = skip.shape[-2:]
        x = torch.cat([F.interpolate(x, size, mode="nearest"), skip], 1)  # the decoder's features come first
        m = torch.cat([F.interpolate(m, size, mode="nearest"), skip_mask], 1)
        if block is not None:
            x, m = level(block, x, m, config.slope)
    x, m = layer(network.out, x, m)
    if floor is not None:
        x = floor + restrained(x * (1 - known), floor, known) * (1 - known)
    return x * std + mean, m[:, :1]


@pytest.mark.parametrize(
    "config",
    [PLAIN, FLOOR, GREY, RESIDUAL, RESIDUAL_FLOOR],
    ids=["plain", "floor", "grey", "residual", "residual on a floor"],
)
@pytest.mark.parametrize(("height", "width"), [*SIZES, (64, 64)])
def test_equals_the_paper_with_masks_as_wide_as_the_features(config: UNetConfig, height: int, width: int) -> None:
    network = trained(config).double()
    image, known = scene(config, 2, height, width, 0.01)
    image, known = image.double(), known.double()
    with torch.no_grad():
        output, mask = network(image, known)
        expected, expected_mask = paper_forward(network, image, known)
    assert torch.equal(mask.double(), expected_mask)
    where = expected_mask.expand_as(expected) > 0
    tolerance = 2e-6 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(output[where].double(), expected[where], rtol=0, atol=tolerance)


def test_the_paper_s_table() -> None:
    with torch.device("meta"):
        network = PartialConvUNet(PAPER)
    convs = [m for m in network.modules() if isinstance(m, PartialConv2d)]
    shapes = [tuple(conv.weight.shape) for conv in convs]
    assert shapes == [
        (64, 3, 7, 7), (128, 64, 5, 5), (256, 128, 5, 5), (512, 256, 3, 3),
        (512, 512, 3, 3), (512, 512, 3, 3), (512, 512, 3, 3), (512, 512, 3, 3),
        (512, 1024, 3, 3), (512, 1024, 3, 3), (512, 1024, 3, 3), (512, 1024, 3, 3),
        (256, 768, 3, 3), (128, 384, 3, 3), (64, 192, 3, 3), (3, 67, 3, 3),
    ]  # fmt: skip
    assert [conv.stride for conv in convs] == [(2, 2)] * 8 + [(1, 1)] * 8
    assert [conv.feature_groups for conv in convs[8:]] == [
        (512, 512), (512, 512), (512, 512), (512, 512), (512, 256), (256, 128), (128, 64), (64, 3),
    ]  # fmt: skip
    assert {conv.padding_mode for conv in convs} == {"partial"}
    # All but the first and the last have batch norm, and it takes the place of their bias.
    assert [conv.bias is None for conv in convs] == [False, *[True] * 14, False]
    blocks = [*network.encoder, *network.decoder]
    assert [isinstance(block.norm, nn.BatchNorm2d) for block in blocks] == [False, *[True] * 14]
    assert [block.slope for block in blocks] == [0.0] * 8 + [0.2] * 7
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 32.86


@pytest.mark.parametrize(("config", "millions"), [(COMPACT, 3.82), (DEEP, 9.86)])
def test_networks_for_photographs_fit_20_mb_in_half_precision(config: UNetConfig, millions: float) -> None:
    with torch.device("meta"):
        network = PartialConvUNet(config)
    assert 2 * sum(t.numel() for t in network.state_dict().values()) < 20e6
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert config.floor is not None


@configs
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_height_and_width(config: UNetConfig, height: int, width: int) -> None:
    network = trained(config)
    image, known = scene(config, 2, height, width)
    with torch.inference_mode():
        output, mask = network(image, known)
    assert output.shape == image.shape and output.dtype == torch.float32
    assert mask.shape == known.shape and mask.dtype == torch.float32
    assert bool(output.isfinite().all()) and set(mask.unique().tolist()) <= {0.0, 1.0}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 5), st.integers(0, 2**31))
def test_without_a_floor_the_mask_is_what_the_windows_reach(height: int, width: int, pixels: int, seed: int) -> None:
    config = UNetConfig(encoder=((2, 5), (2, 3), (3, 3)))
    rng = torch.Generator().manual_seed(seed)
    known = torch.zeros(1, 1, height, width)
    for place in torch.randint(height * width, (pixels,), generator=rng):
        known.view(-1)[place] = 1
    with torch.inference_mode():
        output, mask = PartialConvUNet(config).eval()(torch.rand(1, 3, height, width), known)
    assert torch.equal(mask, reached(config, known))
    assert bool(output.isfinite().all())


def test_a_hole_beyond_reach_stays_a_hole_in_the_mask() -> None:
    known = torch.zeros(1, 1, 32, 96)
    known[..., :2] = 1
    image = torch.rand(1, 3, 32, 96)
    with torch.inference_mode():
        _, mask = trained(PLAIN)(image, known)
        _, floored = trained(FLOOR)(image, known)
    assert mask[..., :16].min() == 1 and mask[..., 64:].max() == 0
    assert floored.min() == 1


@pytest.mark.parametrize("config", [FLOOR, GREY])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_with_a_floor_the_mask_says_which_samples_have_a_known_pixel(
    config: UNetConfig, height: int, width: int
) -> None:
    known = torch.zeros(3, 1, height, width)
    known[1, 0, height - 1, 0] = 1
    image = torch.rand(3, config.channels, height, width)
    with torch.inference_mode():
        output, mask = trained(config)(image, known)
    assert torch.equal(mask, torch.tensor([0.0, 1.0, 0.0])[:, None, None, None].expand_as(known))
    assert bool(output.isfinite().all())


@pytest.mark.parametrize("config", [FLOOR, GREY])
def test_an_untrained_network_returns_the_floor(config: UNetConfig) -> None:
    torch.manual_seed(0)
    network = PartialConvUNet(config)
    image, known = scene(config, 2, 33, 47)
    for mode in (True, False):
        with torch.no_grad():
            output, _ = network.train(mode)(image, known)
        where = (known > 0).expand_as(image)
        torch.testing.assert_close(output[where], image[where], rtol=0, atol=1e-6)
        floor = pyramid_fill(image, known, config.floor or 0)
        torch.testing.assert_close(output, floor, rtol=0, atol=1e-5)
        normal = pyramid_fill((image - network.mean) / network.std, known, config.floor or 0)
        assert torch.equal(output, normal * network.std + network.mean)


@pytest.mark.parametrize("config", [FLOOR, GREY])
def test_on_a_floor_known_pixels_are_answered_with_themselves_whatever_was_learned(config: UNetConfig) -> None:
    image, known = scene(config, 2, 33, 47)
    with torch.inference_mode():
        output, _ = trained(config)(image, known)
    where = (known > 0).expand_as(image)
    torch.testing.assert_close(output[where], image[where], rtol=0, atol=1e-6)
    floor = pyramid_fill(image, known, config.floor or 0)
    assert float((output - floor)[~where].abs().mean()) > 0.01


def test_without_a_floor_nothing_starts_at_zero() -> None:
    torch.manual_seed(0)
    assert bool((PartialConvUNet(PLAIN).out.weight.abs().amax((1, 2, 3)) > 0).all())


@configs
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_folded_equals_the_network_that_it_was_folded_from(config: UNetConfig, height: int, width: int) -> None:
    network = trained(config, height)
    folded = network.folded()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters()) and not folded.training
    image, known = scene(config, 3, height, width, 0.02)
    known[2] = 0
    with torch.no_grad():
        (output, mask), (twin, twin_mask) = network(image, known), folded(image, known)
    assert torch.equal(mask, twin_mask)
    scale = float(output.abs().max())
    torch.testing.assert_close(twin, output, rtol=1e-4, atol=1e-5 * max(1.0, scale))
    assert float(output.std() if output.numel() > 9 else 1) > 0.05  # a comparison of something


def test_folding_leaves_the_network_as_it_was() -> None:
    network = trained(FLOOR).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = network.folded()
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert network.training and all(p.requires_grad for p in network.parameters())


@configs
def test_values_in_holes_do_not_matter(config: UNetConfig) -> None:
    network = trained(config)
    image, known = scene(config, 2, 21, 34)
    with torch.inference_mode():
        output, mask = network(image, known)
        for rubbish in (torch.nan, torch.inf, -1e30):
            other, other_mask = network(torch.where(known > 0, image, rubbish), known)
            assert torch.equal(other, output) and torch.equal(other_mask, mask)


@configs
def test_the_samples_of_a_batch_do_not_see_each_other(config: UNetConfig) -> None:
    network = trained(config)
    image, known = scene(config, 2, 21, 34)
    known[1] = 0
    known[1, 0, 3, 3] = 1
    with torch.inference_mode():
        output, mask = network(image, known)
        for i in range(2):
            alone, alone_mask = network(image[i : i + 1], known[i : i + 1])
            torch.testing.assert_close(alone[0], output[i], rtol=1e-4, atol=1e-4)
            assert torch.equal(alone_mask[0], mask[i])


@configs
def test_frozen_statistics_of_the_encoder_stay_and_those_of_the_decoder_move(config: UNetConfig) -> None:
    network = trained(config).train()
    network.freeze_encoder_norm()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    image, known = scene(config, 2, 24, 24)
    network(image, known)
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {k for k in before if k.startswith("decoder.") and ("running_" in k or "num_batches" in k)}
    assert moved
    network.train()
    network(image, known)
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.startswith("encoder.") for key in moved)


@configs
def test_every_weight_gets_a_gradient(config: UNetConfig) -> None:
    network = trained(config).train()
    image, known = scene(config, 2, 24, 24)
    network(image, known)[0].square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


@configs
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_finite_float32_and_the_same_mask(config: UNetConfig, dtype: torch.dtype) -> None:
    network = trained(config).folded()
    image, known = scene(config, 2, 40, 56, 0.01)
    known[1] = 0
    with torch.inference_mode():
        output, mask = network(image, known)
        try:
            with torch.autocast("cpu", dtype):
                half, half_mask = network(image, known)
        except RuntimeError as error:  # pragma: no cover - depends on the build of torch
            if "not implemented" not in str(error):
                raise
            pytest.skip(str(error))
    assert half.dtype == torch.float32 and bool(half.isfinite().all())
    assert torch.equal(half_mask, mask)
    torch.testing.assert_close(half, output, rtol=0.1, atol=0.1 * float(output.abs().max()))


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_convolutions_take_half_precision_also_where_a_device_would_interpolate_in_float32(
    monkeypatch: pytest.MonkeyPatch, upsample: str
) -> None:
    """As autocast does on a GPU; only the picture, which comes first, is not narrowed before."""
    taken: list[torch.dtype] = []
    interpolate, convolved = F.interpolate, partial_conv._convolved

    def widening(features: Tensor, *arguments: Any, **named: Any) -> Tensor:
        features = features.float() if torch.is_autocast_enabled("cpu") else features
        return interpolate(features, *arguments, **named)

    def convolving(features: Tensor, *arguments: Any) -> Any:
        taken.append(features.dtype)
        return convolved(features, *arguments)

    network = trained(replace(RESIDUAL_FLOOR, upsample=upsample)).folded()  # type: ignore[arg-type]
    image, known = scene(network.config, 1, 37, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected, _ = network(image, known)
        monkeypatch.setattr(F, "interpolate", widening)
        monkeypatch.setattr(partial_conv, "_convolved", convolving)
        output, _ = network(image, known)
    assert taken[0] == torch.float32 and set(taken[1:]) == {torch.bfloat16}
    assert torch.equal(output, expected)


def test_mean_and_scale_are_part_of_the_architecture_not_of_the_weights() -> None:
    assert not {"mean", "std"} & set(PartialConvUNet(FLOOR).state_dict())


def test_a_picture_brighter_by_the_scale_gives_a_picture_brighter_by_the_scale() -> None:
    # What the network sees is (image - mean) / std: two configurations that differ in these alone see the same.
    image, known = scene(PLAIN, 1, 16, 16)
    bright = replace(PLAIN, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    one, other = trained(PLAIN), trained(bright)
    normal = (image - one.mean) / one.std
    with torch.inference_mode():
        a, _ = one(image, known)
        b, _ = other(normal * other.std + other.mean, known)
    torch.testing.assert_close((a - one.mean) / one.std, (b - other.mean) / other.std, rtol=1e-3, atol=1e-3)


def test_levels_halve_rounding_up() -> None:
    masks = torch.ones(1, 1, 129, 65)
    sizes = [(129, 65)]
    for block in trained(PLAIN).encoder:
        _, masks = block.conv.ratio(masks)
        sizes.append(tuple(masks.shape[-2:]))  # type: ignore[arg-type]
    assert all(b == tuple(-(-side // 2) for side in a) for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": ()}, "at least one level"),
        ({"mean": (0.5,)}, "3 values"),
        ({"std": (0.5, 0.5, 0.5, 0.5)}, "3 values"),
        ({"channels": 1}, "1 values"),
        ({"last_kernel": 2}, "must be odd"),
        ({"upsample": "bilinear"}, "on a floor bilinear"),
        ({"floor": 1, "upsample": "cubic"}, "must be nearest"),
        ({"coarse": PLAIN}, "on a floor has a coarse part"),  # itself on none
        ({"floor": 1, "coarse": replace(PLAIN, floor=1, coarse=FLOOR)}, "has none of its own"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)  # type: ignore[arg-type]


def test_a_coarse_part_is_a_network_of_its_own_that_the_other_does_not_call() -> None:
    torch.manual_seed(0)
    pair, alone = PartialConvUNet(replace(FLOOR, coarse=FLOOR)), PartialConvUNet(FLOOR)
    assert pair.coarse is not None and not pair.coarse.out.weight.any() and pair.coarse.encoder[0].conv.weight.any()
    alone.load_state_dict({k: v for k, v in pair.state_dict().items() if not k.startswith("coarse.")})
    image, known = torch.rand(1, 3, 20, 20), (torch.rand(1, 1, 20, 20) < 0.5).float()
    for key, value in pair.coarse.state_dict().items():
        if value.is_floating_point() and not key.endswith("var"):
            value.normal_(0, 0.3)
    with torch.inference_mode():
        assert torch.equal(pair.eval()(image, known)[0], alone.eval()(image, known)[0])
        folded = pair.folded()
        assert folded.coarse is not None and pair.coarse is not folded.coarse
        torch.testing.assert_close(folded.coarse(image, known)[0], pair.coarse(image, known)[0], rtol=1e-3, atol=1e-2)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


def test_an_unknown_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="padding_mode"):
        PartialConvUNet(replace(PLAIN, padding_mode="mirror"))  # type: ignore[arg-type]


# What training runs on GPUs


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (5, 7)])
def test_doubling_is_bilinear_interpolation_and_so_is_its_gradient(height: int, width: int) -> None:
    rng = torch.Generator().manual_seed(1)
    features = torch.rand(2, 3, height, width, generator=rng, dtype=torch.float64).requires_grad_()
    expected = F.interpolate(features, scale_factor=2, mode="bilinear")
    made = _doubled(features)
    torch.testing.assert_close(made, expected)
    weight = torch.rand(expected.shape, generator=rng, dtype=torch.float64)
    gradients = (torch.autograd.grad((out * weight).sum(), features)[0] for out in (made, expected))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("side", [32, 37])
def test_a_network_that_learns_sees_what_it_sees_at_work(side: int) -> None:
    """Sides that double exactly take another way up while there are gradients."""
    network = trained(CONFIGS["bilinear"])
    network.bands = None  # what is learned from is not held to what is around
    image, known = scene(network.config, 2, side, side)
    with torch.no_grad():
        expected, _ = network(image, known)
    torch.testing.assert_close(network(image, known)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("learning", [True, False])
def test_the_body_compiles_whole_and_gives_the_same(learning: bool) -> None:
    network = trained(RESIDUAL_FLOOR)
    image, known = scene(network.config, 2, 32, 48)
    with torch.set_grad_enabled(learning):
        expected, _ = network(image, known)
        network.body = torch.compile(network.body, fullgraph=True, dynamic=False, backend="eager")  # type: ignore[method-assign]
        output, _ = network(image, known)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_blocks_that_do_not_fit_the_levels_are_refused() -> None:
    for blocks in ((1,), (1, 2, 3, 4), (0, -1, 0)):
        with pytest.raises(ValueError, match="blocks must be 3 numbers"):
            replace(PLAIN, blocks=blocks)


def test_residual_blocks_add_nothing_before_training() -> None:
    torch.manual_seed(0)
    with_blocks = PartialConvUNet(replace(RESIDUAL_FLOOR, norm=False)).eval()
    without = PartialConvUNet(replace(RESIDUAL_FLOOR, norm=False, blocks=())).eval()
    given = with_blocks.state_dict()

    def named(key: str) -> str:
        """A level that has blocks is a list, and what brings features there is its first."""
        level, number, *rest = key.split(".")
        return key if key in given else ".".join([level, number, "0", *rest])

    without.load_state_dict({key: given[named(key)] for key in without.state_dict()})
    for network in (with_blocks, without):
        torch.manual_seed(1)
        nn.init.normal_(network.out.weight)
    image, known = scene(RESIDUAL_FLOOR, 1, 20, 20)
    with torch.no_grad():
        torch.testing.assert_close(with_blocks(image, known)[0], without(image, known)[0])


def test_what_is_learned_from_is_not_held_to_what_is_around_and_what_is_shown_is() -> None:
    network = trained(FLOOR)
    image, known = scene(FLOOR, 1, 72, 96, share=1.0)
    image = 0.5 + 0.001 * image  # next to flat
    learned, _ = network(image, known)
    with torch.no_grad():
        shown, _ = network(image, known)
        network.bands = None
        unheld, _ = network(image, known)
    torch.testing.assert_close(learned, unheld)
    assert learned.requires_grad
    assert float((shown - image).abs().max()) < 0.2 * float((unheld - image).abs().max())
