"""Padding of any network: what its convolutions take to lie beyond the border, changed in the finished network.

Knows: torch's 2-D convolutions, where they stand in a network, and how to have them pad in another way. Does not know:
the formula (`nn.partial_conv` has it), masks, what the network is for, or how it is trained.

Source: Liu et al., "Partial Convolution based Padding", arXiv 1811.11718, equations 4 and 5.

A converted convolution stays the object and the class that it was. One entry in its `__dict__` stands before the method
that torch's own `forward` calls with the weight of the moment, and all else (hooks, parametrizations, copies, devices)
goes on as before; swapping the class would be in the way of parametrizations, which swap it too. Scripting alone would
not see the entry, since it compiles what the class says; a second one refuses it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import NoReturn, TypeVar

from torch import Tensor, nn

from pconv_cli.nn.partial_conv import PaddingMode, check_padding_mode, known_conv2d

Network = TypeVar("Network", bound=nn.Module)
_LOG = logging.getLogger(__name__)
CALLED = "_conv_forward"  # by `torch.nn.Conv2d.forward`, with the features, the weight and the bias
SCRIPTED = "__prepare_scriptable__"  # by `torch.jit.script`, before it compiles a module


def convert_padding(model: Network, padding_mode: PaddingMode = "partial") -> Network:
    """Change, in place, the padding of each `torch.nn.Conv2d` that was made with zeros beyond the border.

    With `partial`, windows that reach over the border are scaled up by how few of their taps lie inside (1811.11718,
    equations 4 and 5; the bias is not), and all others give bit for bit what they gave. Weights, state-dict keys, hooks
    and parametrizations stay. Weights that were trained with another padding are used to it: they lose accuracy until
    they have been fine-tuned with this one. `print(model)` shows the padding of each layer.

    Converted: `torch.nn.Conv2d` and its subclasses, wherever they are in the model, with padding and
    `padding_mode="zeros"`, or converted before. Left as they are: convolutions without padding, those made with
    `padding_mode` reflect, replicate or circular, 1-D, 3-D and transposed ones (`Conv1d`, `Conv3d`,
    `ConvTranspose2d`). Zeros put there by `torch.nn.ZeroPad2d` or `torch.nn.functional.pad` cannot be seen from the
    convolution behind them, and stay too. To count what was converted:
    `sum(getattr(m, "padding_mode", None) == "partial" for m in model.modules())`. Where that is nothing at all, the
    logger `pconv_cli.nn.padding` warns.

    `torch.compile`, `torch.export`, `torch.jit.trace` and `torch.fx` take a converted network; convert first, for what
    they make holds no convolutions that could be. `torch.jit.script` compiles torch's own code, which knows no
    `partial`, so it raises a `RuntimeError`.

    Args:
        model: Any network, or one convolution.
        padding_mode: `partial`; `reflect` or `replicate`, for comparison; `zero` brings back what was there.

    Returns:
        The same model.

    Raises:
        ValueError: If the mode is unknown, a convolution has a `forward` that does not call `_conv_forward`, or, with
            `partial`, padding is so wide that a window lies beyond the border entirely. The model is unchanged then.
            Where that depends on the size of the input, the call raises it (a compiled graph gives NaN instead).
    """
    check_padding_mode(padding_mode)
    every = [(name or "the model", m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    if padding_mode == "zero":
        for _, module in every:
            if _is_converted(module):
                del vars(module)[CALLED]
                vars(module).pop(SCRIPTED, None)
                module.padding_mode = "zeros"
        return model
    found = [(name, m) for name, m in every if _is_converted(m) or (m.padding_mode == "zeros" and _pads(m))]
    for name, module in found:
        _check(name, module, padding_mode)
    if not found:
        _LOG.warning("%s has no Conv2d that pads with zeros: nothing was converted", type(model).__name__)
    for name, module in found:
        vars(module)[CALLED] = partial(_convolve, name, module, padding_mode)
        vars(module).pop(SCRIPTED, None)
        if padding_mode == "partial":  # the others torch has itself
            vars(module)[SCRIPTED] = partial(_refuse_script, name)
        # Shown by `print`; and whoever builds another convolution from this one's attributes is stopped by it.
        module.padding_mode = padding_mode  # type: ignore[assignment]
    return model


def _is_converted(module: nn.Conv2d) -> bool:
    return getattr(vars(module).get(CALLED), "func", None) is _convolve


def _pads(module: nn.Conv2d) -> bool:
    return any(sum(sides) for sides in _sides(module))


def _sides(module: nn.Conv2d) -> list[tuple[int, int]]:
    """Pixels of padding before and after, vertical and horizontal; they differ by 1 for `same` and an even reach."""
    if not isinstance(module.padding, str):
        return [(pad, pad) for pad in module.padding]
    reach = [far * (taps - 1) for far, taps in zip(module.dilation, module.kernel_size, strict=True)]
    return [(pad // 2, pad - pad // 2) if module.padding == "same" else (0, 0) for pad in reach]


def _check(name: str, module: nn.Conv2d, padding_mode: PaddingMode) -> None:
    kind = type(module)
    calls = CALLED in kind.forward.__code__.co_names
    taken = kind._conv_forward is not nn.Conv2d._conv_forward or CALLED in vars(module)
    if not _is_converted(module) and (taken or not calls):
        raise ValueError(
            f"{name}: {kind.__name__} convolves in a way of its own, so its padding cannot be changed; convert the "
            f"parts around it, or let its forward call self.{CALLED}(input, weight, bias)"
        )
    geometry = zip(_sides(module), module.dilation, module.kernel_size, strict=True)
    if padding_mode == "partial" and any(max(sides) > far * (taps - 1) for sides, far, taps in geometry):
        raise ValueError(
            f"{name}: padding {module.padding} is so wide that windows of {module.kernel_size} lie beyond the border "
            "entirely, where nothing is known; use less padding"
        )


def _convolve(
    name: str, module: nn.Conv2d, padding_mode: PaddingMode, features: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Stand for `torch.nn.Conv2d._conv_forward`; takes features without a batch dimension as that does."""
    if features.dim() == 3:
        return _convolve(name, module, padding_mode, features[None], weight, bias)[0]
    (top, bottom), (left, right) = _sides(module)
    try:
        out = known_conv2d(
            features, weight, bias, stride=_two(module.stride), padding=(bottom, right), dilation=_two(module.dilation),
            groups=module.groups, padding_mode=padding_mode,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return out[..., bottom - top :, right - left :]  # `same`, which may pad less before than after, has no stride


def _refuse_script(name: str) -> NoReturn:
    raise RuntimeError(
        f"{name}: a convolution with partial padding cannot be scripted: use torch.jit.trace, torch.export or "
        'torch.compile, or bring back its own with convert_padding(model, "zero")'
    )


def _two(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second
