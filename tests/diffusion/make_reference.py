"""Writes samplers.json, the images that k-diffusion and diffusers draw with the denoiser `toy`.

Run it in an environment with k-diffusion 0.1.1 and diffusers 0.42: python tests/diffusion/make_reference.py
"""

import functools
import importlib.util
import json
import pathlib
import sys
import types

import numpy as np

PATH = pathlib.Path(__file__).with_name("samplers.json")
X = np.random.default_rng(0).standard_normal((2, 6))
# Noise levels of the linear path, at uneven distances.
LEVELS = np.append(np.linspace(0.98, 0.04, 9) ** 1.3, 0.0)
NOISE = np.random.default_rng(1).standard_normal((20, *X.shape))


def draw(index):
    """Return the noise that a row adds."""
    return NOISE[index]


def toy(x, level):
    """Return the estimate of a denoiser that is linear in neither argument, in NumPy."""
    return np.tanh(1.5 * x + 0.2) * (1 - 0.5 * level) + 0.1 * level**2


def run_k_diffusion(name: str):
    """Return the image of a sampler of k-diffusion, which keeps x / alpha at noise sigma / alpha."""
    import torch

    sampling = _load_k_diffusion()
    ratios = torch.from_numpy(LEVELS / (1 - LEVELS))
    draws = iter(NOISE)

    def model(x, ratio):
        level = float(ratio[0] / (1 + ratio[0]))
        return torch.from_numpy(toy((1 - level) * x.numpy(), level))

    options = {}
    if name != "dpmpp_2m":
        options["noise_sampler"] = lambda *_: torch.from_numpy(next(draws))
    x = torch.from_numpy(X / (1 - LEVELS[0]))
    return getattr(sampling, f"sample_{name}")(model, x, ratios, disable=True, **options).numpy()


@functools.cache
def _load_k_diffusion():
    """Import k_diffusion/sampling.py alone, without the package's many requirements."""
    folder = importlib.util.find_spec("k_diffusion").submodule_search_locations[0]
    sys.modules["k_diffusion"] = types.ModuleType("k_diffusion")
    # Its function that adds trailing dimensions has nothing to add to a scalar.
    utils = types.SimpleNamespace(append_dims=lambda x, dims: x)
    sys.modules["k_diffusion"].utils = sys.modules["k_diffusion.utils"] = utils
    spec = importlib.util.spec_from_file_location("k_diffusion.sampling", f"{folder}/sampling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_diffusers(scheduler, levels, output):
    """Return the image of a scheduler of diffusers for the linear path.

    Args:
      scheduler: the scheduler.
      levels: the noise level of each call, with a final 0.
      output: a function (x, denoised, level) -> the network's output.
    """
    import torch

    scheduler.set_timesteps(len(LEVELS) - 1)
    scheduler.sigmas = torch.from_numpy(levels)
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000
    scheduler.set_begin_index(0)
    x = torch.from_numpy(X)
    for level, timestep in zip(levels[:-1], scheduler.timesteps, strict=True):
        denoised = torch.from_numpy(toy(x.numpy(), level))
        x = scheduler.step(output(x, denoised, level), timestep, x).prev_sample
    return x.numpy()


def compute_reference() -> dict[str, list[float]]:
    """Return the image of each sampler."""
    from diffusers import FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler

    images = {
        name: run_k_diffusion(name) for name in ("euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde")
    }
    unipc = UniPCMultistepScheduler(
        prediction_type="sample", use_flow_sigmas=True, solver_order=2, solver_type="bh2"
    )
    images["unipc"] = run_diffusers(unipc, LEVELS, lambda x, denoised, level: denoised)
    called_twice = np.concatenate([LEVELS[:1], np.repeat(LEVELS[1:-1], 2), LEVELS[-1:]])
    images["heun"] = run_diffusers(
        FlowMatchHeunDiscreteScheduler(),
        called_twice,
        lambda x, denoised, level: (x - denoised) / level,
    )
    return {name: image.tolist() for name, image in images.items()}


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute_reference(), indent=1) + "\n")
