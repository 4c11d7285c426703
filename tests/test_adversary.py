"""The judge of texture: what it looks at, what its losses are, and that the two sides pull against each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pconv_cli.training.adversary import STRIDE, Adversary, fill_loss, judge_loss


class Fixed(nn.Module):
    """Believes a picture by its mean red, at every patch alike."""

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        size = hole.shape[-2] // STRIDE, hole.shape[-1] // STRIDE
        return image[:, :1].mean((2, 3), keepdim=True).expand(-1, 1, *size)


def hole_in_the_corner(size: int = 32) -> Tensor:
    hole = torch.zeros(1, 1, size, size)
    hole[..., :3, :3] = 1
    return hole


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 48)])
def test_a_patch_is_judged_every_eight_pixels(height: int, width: int) -> None:
    judged = Adversary()(torch.rand(2, 3, height, width), torch.zeros(2, 1, height, width))
    assert judged.shape == (2, 1, height // STRIDE, width // STRIDE)


@pytest.mark.parametrize(("truth", "filled", "loss"), [(1.0, -1.0, 0.0), (0.0, 0.0, 2.0), (-0.5, 0.25, 2.75)])
def test_the_judge_s_loss_is_the_hinge_on_both_sides(truth: float, filled: float, loss: float) -> None:
    true, made = (torch.full((1, 3, 32, 32), value) for value in (truth, filled))
    assert float(judge_loss(Fixed(), true, made, hole_in_the_corner())) == pytest.approx(loss)  # type: ignore[arg-type]


def test_the_fill_s_loss_is_what_the_judge_does_not_believe() -> None:
    made = torch.full((1, 3, 32, 32), 0.75)
    assert float(fill_loss(Fixed(), made, hole_in_the_corner())) == pytest.approx(-0.75)  # type: ignore[arg-type]


def test_only_patches_that_hold_a_part_of_a_hole_count() -> None:
    """Whatever the judge thinks elsewhere."""

    class Elsewhere(nn.Module):
        def forward(self, image: Tensor, hole: Tensor) -> Tensor:
            judged = torch.full((len(image), 1, 4, 4), 100.0)
            judged[..., 0, 0] = 0.5
            return judged

    made = torch.rand(1, 3, 32, 32)
    assert float(fill_loss(Elsewhere(), made, hole_in_the_corner())) == pytest.approx(-0.5)  # type: ignore[arg-type]
    assert float(fill_loss(Elsewhere(), made, torch.zeros(1, 1, 32, 32))) == 0  # type: ignore[arg-type]


def test_the_judge_teaches_the_fill_and_not_the_other_way_round() -> None:
    judge = Adversary(8)
    truth, made = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32, requires_grad=True)
    fill_loss(judge, made, hole_in_the_corner()).backward()
    assert made.grad is not None and float(made.grad.abs().sum()) > 0
    made.grad = None
    judge_loss(judge, truth, made, hole_in_the_corner()).backward()
    assert made.grad is None


def test_a_judge_learns_to_tell_noise_from_flat_fills() -> None:
    judge, hole = Adversary(8), torch.ones(4, 1, 32, 32)
    optimiser = torch.optim.Adam(judge.parameters(), 1e-3)
    made = torch.full((4, 3, 32, 32), 0.5)
    for _ in range(60):
        loss = judge_loss(judge, torch.rand(4, 3, 32, 32), made, hole)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        believed, doubted = judge(torch.rand(4, 3, 32, 32), hole).mean(), judge(made, hole).mean()
    assert float(believed) > float(doubted) + 0.5
