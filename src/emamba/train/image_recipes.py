"""The image models that ship: sizes, and how long each learns."""

from __future__ import annotations

from emamba.config import ModelConfig
from emamba.data import DATASETS
from emamba.train.images import ImageRecipe
from emamba.train.images_data import ImageAugmentation
from emamba.train.loop import Schedule

__all__ = ["RECIPES"]

_TEACHERS_EPOCHS = {"fashion-mnist": 10, "cifar10": 20}
# Moving pictures pays where a network is large enough to learn that things move.
_TEACHERS_AUGMENTATIONS = {
    "fashion-mnist": ImageAugmentation(shift=1),
    "cifar10": ImageAugmentation(shift=4),
}


def _recipe(
    dataset: str,
    epochs: int,
    d_model: int,
    n_layer: int,
    head_width: int,
    dt_rank: int = 1,
    shift: int = 1,
    teacher_views: int = 8,
    integers_epochs: int = 1,
) -> ImageRecipe:
    height, width, channels = DATASETS[dataset].shape
    config = ModelConfig(
        input_height=height,
        input_width=width,
        input_channels=channels,
        n_outputs=len(DATASETS[dataset].classes),
        d_model=d_model,
        n_layer=n_layer,
        d_state=4,
        d_conv=4,
        expand=2,
        dt_rank=dt_rank,
        patch=4,
        head_width=head_width,
    )
    return ImageRecipe(
        dataset=dataset,
        config=config,
        augmentation=ImageAugmentation(shift),
        teacher_augmentation=_TEACHERS_AUGMENTATIONS[dataset],
        teacher_schedule=Schedule(_TEACHERS_EPOCHS[dataset], lr=4e-3, weight_decay=0.02),
        float_schedule=Schedule(
            epochs=epochs, lr=5e-3, weight_decay=0.02, evaluate_every=2, muon=True
        ),
        integers_schedule=Schedule(integers_epochs, lr=3e-4, weight_decay=0.0, ema=0.99),
        teacher_views=teacher_views,
    )


# By the package's name.
RECIPES = {
    "fashion-mnist": _recipe("fashion-mnist", 56, d_model=32, n_layer=4, head_width=18),
    "fashion-mnist-medium": _recipe("fashion-mnist", 16, 24, 2, head_width=12, shift=0),
    "fashion-mnist-small": _recipe("fashion-mnist", 16, 16, 2, head_width=10, shift=0),
    # Seen in 8 ways only, so large a network learns its teacher's answers by heart.
    "cifar10": _recipe(
        "cifar10", 44, 72, 4, 20, dt_rank=2, shift=2, teacher_views=24, integers_epochs=2
    ),
    "cifar10-medium": _recipe("cifar10", 16, d_model=48, n_layer=3, head_width=16),
    "cifar10-small": _recipe("cifar10", 14, d_model=32, n_layer=2, head_width=12),
}
