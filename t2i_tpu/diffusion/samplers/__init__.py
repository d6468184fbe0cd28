"""Samplers: solvers that turn noise into an image. Each is a function that returns a table.

To add a sampler, write a function from noise levels, float64 [N + 1], and a path to a `Table` and
register it in SAMPLERS; its name must also be a choice of `SampleConfig.sampler`. Levels descend;
they may start at 1, where alpha is 0, and end at 0, where sigma is 0.
"""

from t2i_tpu.diffusion.samplers.dpmpp import dpmpp_2m, dpmpp_2m_sde
from t2i_tpu.diffusion.samplers.first_order import ddim, euler, euler_ancestral
from t2i_tpu.diffusion.samplers.heun import heun
from t2i_tpu.diffusion.samplers.unipc import unipc

SAMPLERS = {
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc": unipc,
}
