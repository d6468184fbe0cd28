"""A U-Net in PyTorch in the style of diffusers' UNet2DModel, for comparison.

Like diffusers' networks, it works on pixels, adds the time embedding inside the residual blocks, has
one more residual block per level on the way up than on the way down, halves the resolution with
strided convolutions and doubles it by repeating pixels.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional


class PeerUNet(nn.Module):
    """Predicts an image from a noisy one, its noise level and its condition.

    Args:
      channels: channels of the image.
      widths: channels at each resolution, finest first, multiples of 16.
      depth: residual blocks per resolution on the way down.
      attention_levels: which resolutions have attention.
      num_classes: number of classes if the condition is a label, or else 0.
      embedding_dim: size of the embedding that is the condition, or 0.
    """

    def __init__(self, channels, widths, depth, attention_levels, num_classes=0, embedding_dim=0):
        super().__init__()
        # diffusers' default is 32 groups, which must divide the widths.
        dim, groups = 4 * widths[0], math.gcd(32, *widths)
        self.frequencies = widths[0] // 2
        self.time = nn.Sequential(nn.Linear(widths[0], dim), nn.SiLU(), nn.Linear(dim, dim))
        if num_classes:
            self.condition = nn.Embedding(num_classes + 1, dim)
        else:
            self.condition = nn.Sequential(
                nn.Linear(embedding_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
            )
        self.stem = _convolution(channels, widths[0])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = widths[0], [widths[0]]
        for level, next_width in enumerate(widths):
            for _ in range(depth):
                self.down.append(_Block(width, next_width, dim, groups, attention_levels[level]))
                width = next_width
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(_Downsample(width))
                skips.append(width)
        self.middle = nn.ModuleList(
            [
                _Block(width, width, dim, groups, attends=True),
                _Block(width, width, dim, groups, attends=False),
            ]
        )
        for level, next_width in reversed(list(enumerate(widths))):
            for _ in range(depth + 1):
                attends = attention_levels[level]
                self.up.append(_Block(width + skips.pop(), next_width, dim, groups, attends))
                width = next_width
            if level:
                self.up.append(_Upsample(width))
        self.norm = nn.GroupNorm(groups, width)
        self.head = _convolution(width, channels)

    def forward(self, x, noise_level, condition):
        """Return the prediction [B, C, H, W] for x [B, C, H, W] and a noise level [B]."""
        time = self.time(_sinusoids(noise_level, self.frequencies))
        vector = functional.silu(time + self.condition(condition))
        x = self.stem(x)
        skips = [x]
        for layer in self.down:
            x = layer(x, vector)
            skips.append(x)
        for block in self.middle:
            x = block(x, vector)
        for layer in self.up:
            if isinstance(layer, _Block):
                x = torch.cat([x, skips.pop()], 1)
            x = layer(x, vector)
        return self.head(functional.silu(self.norm(x)))


class _Block(nn.Module):
    """A residual block, followed by attention over all positions if `attends` is true."""

    def __init__(self, input_width, width, dim, groups, attends):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, input_width), nn.GroupNorm(groups, width)
        self.conv1, self.conv2 = _convolution(input_width, width), _convolution(width, width)
        self.project = nn.Linear(dim, width)
        self.shortcut = nn.Conv2d(input_width, width, 1) if input_width != width else nn.Identity()
        self.attention = _Attention(width, groups) if attends else None

    def forward(self, x, vector):
        residual = self.conv1(functional.silu(self.norm1(x)))
        residual = residual + self.project(vector)[:, :, None, None]
        residual = self.conv2(functional.silu(self.norm2(residual)))
        x = self.shortcut(x) + residual
        return x if self.attention is None else self.attention(x)


class _Attention(nn.Module):
    """Multi-head attention with torch's fused kernel, behind a norm, added to its input."""

    def __init__(self, width, groups):
        super().__init__()
        self.heads = width // math.gcd(64, width)
        self.norm = nn.GroupNorm(groups, width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        batch, channels, height, width = x.shape
        flat = self.norm(x).flatten(2).transpose(1, 2)

        def split(projected):
            return projected.view(batch, height * width, self.heads, -1).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            split(self.query(flat)), split(self.key(flat)), split(self.value(flat))
        )
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, height * width, channels))
        return x + mixed.transpose(1, 2).reshape(x.shape)


class _Downsample(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = _convolution(width, width, stride=2)

    def forward(self, x, vector):
        return self.conv(x)


class _Upsample(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = _convolution(width, width)

    def forward(self, x, vector):
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def _convolution(input_width, width, stride=1):
    return nn.Conv2d(input_width, width, 3, stride, padding=1)


def _sinusoids(noise_level, frequencies):
    """Return the embedding of 1000 times the noise level, as diffusers embeds a time step."""
    exponents = torch.arange(frequencies, device=noise_level.device) / frequencies
    angles = 1000.0 * noise_level[:, None] * torch.exp(-math.log(10_000.0) * exponents)[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], 1)


def count_parameters(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def choose_widths(widths, parameters: int, **options) -> tuple[int, ...]:
    """Scale widths until a `PeerUNet` has about the given number of parameters.

    Args:
      widths: channels at each resolution whose proportions to keep as far as possible.
      parameters: the number of parameters to have.
      **options: the other arguments of PeerUNet.

    Returns:
      Multiples of 32 near a common multiple of the widths. If no such combination has the number of
      parameters up to 5%, multiples of 16.
    """

    def distance(candidate):
        with torch.device("meta"):
            peer = PeerUNet(widths=candidate, **options)
        return abs(count_parameters(peer) / parameters - 1)

    for step in (32, 16):
        best = min(_list_candidates(widths, step), key=distance)
        if distance(best) < 0.05:
            break
    return best


def _list_candidates(widths, step: int) -> list[tuple[int, ...]]:
    """Return combinations of multiples of a step near common multiples of the widths."""
    candidates = set()
    for factor in (0.5 * 1.04**power for power in range(30)):
        near = [
            {step * max(1, rounded(width * factor / step)) for rounded in (math.floor, math.ceil)}
            for width in widths
        ]
        candidates |= set(itertools.product(*near))
    return sorted(candidate for candidate in candidates if list(candidate) == sorted(candidate))
