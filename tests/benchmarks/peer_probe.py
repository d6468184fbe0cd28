"""Computes with the peer of benchmarks/gpu.py, for test_gpu_peer.py: python peer_probe.py NAME."""

import json
import sys

import torch

from benchmarks.on_gpu.peer import PeerUNet, choose_widths, count_parameters

# Widths, attention, parameters and condition of emoji32, clip64, cifar10 and fashion_mnist.
NETWORKS = [
    ((96, 160, 224), (False, True, True), 12_132_428, {"embedding_dim": 128}),
    ((128, 256, 384), (False, True, True), 40_503_116, {"embedding_dim": 768}),
    ((128, 256, 256), (False, True, False), 21_197_763, {"num_classes": 10}),
    ((96, 192), (False, True), 7_304_932, {"num_classes": 10}),
]


def compute_ratios():
    """Return the peer's number of parameters, divided by ours, for each of NETWORKS."""
    ratios = []
    for widths, attention_levels, parameters, condition in NETWORKS:
        options = dict(channels=3, depth=2, attention_levels=attention_levels, **condition)
        chosen = choose_widths(widths, parameters, **options)
        ratios.append(count_parameters(PeerUNet(widths=chosen, **options)) / parameters)
    return ratios


@torch.no_grad()
def compare_with_diffusers():
    """Return the largest difference to diffusers' output with equal weights, and the output's std."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    ours = PeerUNet(3, (32, 96), 2, (False, True), embedding_dim=128)
    theirs = UNet2DModel(
        sample_size=16,
        layers_per_block=2,
        block_out_channels=(32, 96),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        class_embed_type="timestep",
        freq_shift=0,
    )
    # The two encode conditions differently, so both encoders return zero.
    for last in (ours.condition[2], theirs.class_embedding.linear_2):
        last.weight.zero_()
        last.bias.zero_()
    x, level = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.7])

    def call_ours():
        return ours(x, level, torch.randn(2, 128))

    def call_theirs():
        return theirs(x, 1000 * level, class_labels=torch.zeros(2)).sample

    # The layers are used in the same order, and have the same shapes.
    mine = list_used(ours, ours.condition, call_ours)
    others = list_used(theirs, theirs.class_embedding, call_theirs)
    for module, other in zip(mine, others, strict=True):
        for weight, value in zip(module.parameters(), other.parameters(), strict=True):
            assert weight.shape == value.shape
            weight.copy_(value)
    expected = call_theirs()
    return (call_ours() - expected).abs().max().item(), expected.std().item()


def list_used(model, without, call):
    """Return the modules with weights of their own that a call uses, in this order."""
    used, excluded = [], set(without.modules())
    hooks = [
        module.register_forward_pre_hook(lambda module, *_: used.append(module))
        for module in model.modules()
        if list(module.parameters(recurse=False)) and module not in excluded
    ]
    call()
    for hook in hooks:
        hook.remove()
    return used


if __name__ == "__main__":
    probes = {"ratios": compute_ratios, "diffusers": compare_with_diffusers}
    print(json.dumps(probes[sys.argv[1]]()))
