"""Random changes to a batch of training images, on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spaces.data import AugmentConfig


def augment(config: AugmentConfig, x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `shift` pixels and mirror half of them, drawn per image.

    Pixels that come from outside the image are 0. Tabular x, or a config that asks for nothing,
    is returned as it is and draws nothing. The draws are made on the generator's device.
    """
    if x_BCHW.dim() != 4 or (config.shift == 0 and not config.flip):
        return x_BCHW
    batch = len(x_BCHW)
    # Always three draws, so that `flip` does not change the shifts.
    down, right = (
        torch.randint(
            -config.shift,
            config.shift + 1,
            (batch,),
            generator=generator,
            device=generator.device,
        ).to(x_BCHW.device)
        for _ in range(2)
    )
    coin = torch.rand(batch, generator=generator, device=generator.device).to(x_BCHW.device)
    return shift_and_flip(x_BCHW, down, right, (coin < 0.5) & config.flip)


def shift_and_flip(x_BCHW: Tensor, down_B: Tensor, right_B: Tensor, flip_B: Tensor) -> Tensor:
    """Move image b by (down, right) pixels after mirroring it left to right where flip is true.

    out[b, :, i, j] = mirrored[b, :, i - down, j - right], and 0 outside the image.
    """
    batch, channels, height, width = x_BCHW.shape
    device = x_BCHW.device
    rows_BH = torch.arange(height, device=device) - down_B[:, None]
    columns_BW = torch.arange(width, device=device) - right_B[:, None]
    columns_BW = torch.where(flip_B[:, None], width - 1 - columns_BW, columns_BW)
    # One ring of zeros stands for everything outside.
    padded = F.pad(x_BCHW, (1, 1, 1, 1))
    rows_BH = rows_BH.clamp(-1, height) + 1
    columns_BW = columns_BW.clamp(-1, width) + 1
    picked = padded.gather(2, rows_BH[:, None, :, None].expand(-1, channels, -1, width + 2))
    return picked.gather(3, columns_BW[:, None, None, :].expand(-1, channels, height, -1))
