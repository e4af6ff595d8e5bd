"""The other families of image networks: they give logits, and learn with all their parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra: make train-env")

from bench.image_rivals import Mixer, ResNet, VisionTransformer  # noqa: E402

from emamba.model import count_parameters  # noqa: E402

SHAPE = (28, 24, 3)
RIVALS: dict[str, Callable[[], torch.nn.Module]] = {
    "CNN": lambda: ResNet(3, 10, 4),
    "ViT": lambda: VisionTransformer(SHAPE, 10, 16, 2),
    "ViT, our head": lambda: VisionTransformer(SHAPE, 10, 16, 2, head_width=12),
    "MLP-Mixer": lambda: Mixer(SHAPE, 10, 16, 2),
}


@pytest.mark.parametrize("family", RIVALS)
def test_a_rival_learns_with_all_its_parts(family: str) -> None:
    torch.manual_seed(0)
    network = RIVALS[family]()
    logits = network(torch.randn(8, *SHAPE))
    assert logits.shape == (8, 10)
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_sizes_are_those_of_the_papers() -> None:
    """ResNet-8 at width 16 has 78 thousand parameters; a block of attention 4 w^2 + 4 w for
    attention, 4 w^2 + 3 w for its MLP and 4 w for its norms."""
    assert count_parameters(ResNet(3, 10, 16)) == 78_042
    one, two = (count_parameters(VisionTransformer(SHAPE, 10, 16, depth)) for depth in (1, 2))
    assert two - one == 8 * 16**2 + 11 * 16


def test_patches_are_squares_of_the_picture() -> None:
    """Of a picture that is bright in one square, only that square's token is."""
    patches = VisionTransformer(SHAPE, 10, 16, 1).patches
    torch.nn.init.zeros_(patches.embed.bias)
    picture = torch.zeros(1, *SHAPE)
    picture[0, 8:12, 20:24] = 1
    assert patches(picture)[0].abs().sum(1).nonzero().flatten().tolist() == [2 * 6 + 5]
