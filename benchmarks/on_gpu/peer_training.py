"""Trains the peer, a network in PyTorch, on a case: the other half of the comparison."""

import time

import torch
from torch.nn import functional

from benchmarks.on_gpu.cases import Case, read_pack
from benchmarks.on_gpu.peer import PeerUNet, choose_widths, count_parameters
from benchmarks.on_gpu.timing import time_steps
from t2i_tpu.errors import UserError

EMA_SHARE = 1e-3
# Batches that the timed steps alternate between.
NUM_BATCHES = 4
EAGER = "eager"


class PeerWorker:
    """The methods that benchmarks/gpu.py calls in the process of PyTorch.

    Args:
      data: path of the file that --pack wrote.
      memory_share: the share of the GPU's memory that this process may use.
    """

    def __init__(self, data: str, memory_share: float):
        self.pack, self.runs = read_pack(data), {}
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cuda":
            torch.cuda.set_per_process_memory_fraction(memory_share)
            torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        # Every case and batch size is compiled separately. Newer versions call this recompile_limit.
        torch._dynamo.config.cache_size_limit = 64

    def describe(self) -> dict[str, str]:
        """Return the device and the versions of the packages that compute."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        return {
            "device": name,
            "torch": torch.__version__,
            "CUDA of torch": str(torch.version.cuda),
        }

    def prepare(self, case: str, batch_size: int, mode: str) -> dict[str, object]:
        """Build and compile a case's training step, which `time` then measures.

        Args:
          case: the name of the case.
          batch_size: number of images of a step.
          mode: a mode of torch.compile, or "eager" for none.
        """
        begin = time.monotonic()
        parameters = self.pack.about["cases"][case]["parameters"]
        run = PeerRun(self.pack.case(case), batch_size, parameters, mode, self.device)
        run.do_steps(2)
        self.runs[case, batch_size, mode] = run
        return {
            "parameters": count_parameters(run.net),
            "widths": run.widths,
            "flops_per_image": run.count_flops() / batch_size,
            "compile_seconds": time.monotonic() - begin,
        }

    def time(self, case: str, batch_size: int, mode: str, seconds: float) -> float:
        """Return the seconds per step of a prepared case, timed for about `seconds`."""
        return time_steps(self.runs[case, batch_size, mode].do_steps, seconds)


class PeerRun:
    """A network, its optimizer, the average of its weights, and batches on the device."""

    def __init__(self, case: Case, batch_size: int, parameters: int, mode: str, device: str):
        check_recipe(case)
        model, self.train = case.config.model, case.config.train
        ((shape, dtype),) = case.fields.values()
        options = dict(
            channels=case.channels,
            depth=model.block_depth,
            attention_levels=model.attention_levels,
            num_classes=case.num_ids if dtype == "int32" else 0,
            embedding_dim=0 if dtype == "int32" else shape[0],
        )
        self.widths = choose_widths(model.widths, parameters, **options)
        self.device = device
        with torch.device(device):
            self.net = PeerUNet(widths=self.widths, **options)
        self.net = self.net.to(memory_format=torch.channels_last)
        self.weights = list(self.net.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=self.train.learning_rate,
            betas=(0.9, self.train.beta_2),
            weight_decay=self.train.weight_decay,
            fused=True,
        )
        self.batches, self.steps = _put_batches(case, batch_size, device), 0
        config = case.config
        is_mixed = config.train.dtype_policy == "mixed_bfloat16"

        def compute_step_loss(image, condition):
            draws = draw(config, image)
            with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
                return compute_loss(self.net, config, image, condition, *draws)

        self.eager_loss = compute_step_loss
        self.compute_loss = compute_step_loss
        if mode != EAGER:
            options = {} if mode == "default" else {"mode": mode}
            self.compute_loss = torch.compile(compute_step_loss, dynamic=False, **options)

    def do_steps(self, count: int) -> None:
        """Train for some steps, and wait until they are done."""
        for _ in range(count):
            image, condition = self.batches[self.steps % len(self.batches)]
            self.compute_loss(image, condition).backward()
            if self.train.clip_norm:
                torch.nn.utils.clip_grad_norm_(self.weights, self.train.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.weights, EMA_SHARE)
            self.steps += 1
        if self.device == "cuda":
            torch.cuda.synchronize()

    def count_flops(self) -> int:
        """Return the FLOPs of the convolutions and matrix products of a step."""
        from torch.utils.flop_counter import FlopCounterMode

        image, condition = self.batches[0]
        few = min(4, len(image))
        with FlopCounterMode(display=False) as counter:
            self.eager_loss(image[:few], condition[:few]).backward()
        self.optimizer.zero_grad(set_to_none=True)
        return counter.get_total_flops() * len(image) // few


def check_recipe(case: Case) -> None:
    """Raise UserError if the config's method is not the one that `compute_loss` implements."""
    diffusion = case.config.diffusion
    method = (
        *(diffusion.path, diffusion.prediction_type, diffusion.noise_levels),
        *(diffusion.loss, diffusion.loss_weight),
    )
    if method != ("linear", "denoised", "shifted", "squared", "velocity"):
        raise UserError(f"the peer implements only the recipe modern, not {', '.join(method)}")


def draw(config, image):
    """Return a batch's random numbers: noise, and uniform draws for level, condition and flip."""
    count, device = len(image), image.device
    noise = torch.randn(image.shape, device=device)
    return noise, *(torch.rand(count, device=device) for _ in range(3))


def compute_loss(net, config, image, condition, noise, level_draw, keep_draw, flip_draw):
    """Return the mean loss of a batch; see corrupt_batch and compute_losses in t2i_tpu.

    Args:
      net: the network.
      config: resolved, with the recipe modern.
      image: uint8 [B, C, H, W].
      condition: float32 [B, dim], or labels, int64 [B]. Zeros are the null condition.
      noise, level_draw, keep_draw, flip_draw: see `draw`.
    """
    image = image.float() / 127.5 - 1.0
    if config.data.horizontal_flip:
        image = torch.where(flip_draw[:, None, None, None] < 0.5, image.flip(3), image)
    level = 3.0 * level_draw / (1.0 + 2.0 * level_draw)
    keep = keep_draw >= config.diffusion.cond_dropout_rate
    condition = condition * keep.to(condition.dtype).view(-1, *[1] * (condition.ndim - 1))
    wide = level[:, None, None, None]
    noisy = ((1.0 - wide) * image + wide * noise).contiguous(memory_format=torch.channels_last)
    output = net(noisy, level, condition).float()
    weight = 1.0 / level.clamp(min=0.1).square()
    errors = functional.mse_loss(output, image, reduction="none").mean((1, 2, 3))
    return (weight * errors).mean()


def _put_batches(case: Case, batch_size: int, device: str):
    """Return a few batches on the device, as (image, condition)."""
    stacked = case.make_batches(batch_size, 0, NUM_BATCHES)
    (condition,) = stacked["condition"].values()
    batches = []
    for index in range(NUM_BATCHES):
        image = torch.from_numpy(stacked["image"][index]).to(device).permute(0, 3, 1, 2)
        values = torch.from_numpy(condition[index]).to(device)
        batches.append((image, values if values.is_floating_point() else values.long()))
    return batches
