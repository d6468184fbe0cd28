"""The compiled programs of the JAX engine: several training steps, and the sampler.

The programs work on values instead of variables. They see the entire batch, and the compiler splits
them over the devices according to the sharding of their arguments.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import keras
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from keras import tree

from t2i_tpu.config import Config
from t2i_tpu.step.metrics import METRICS, measure_step
from t2i_tpu.step.objective import Batch, compute_losses, corrupt_batch, scale_loss
from t2i_tpu.step.optimizer import apply_update, prepare_update
from t2i_tpu.step.state import State

AXIS = "batch"


def replicate(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array of which every device has a copy."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding of an array that is split over the devices along an axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def choose_state_shardings(config: Config, state: State, mesh: Mesh) -> list[NamedSharding]:
    """Return the sharding of each variable of a state, in the order of `State.list_variables`.

    With config.train.shard_state, the moments and averages are split over the devices along their
    largest dimension that is a multiple of the number of devices (Rajbhandari et al., 2020, stage 1).
    """
    groups = (state.first_moments, state.second_moments, *state.averages)
    can_split = {id(variable) for group in groups for variable in group.values()}

    def choose(variable: keras.Variable) -> NamedSharding:
        axes = [axis for axis, size in enumerate(variable.shape) if size % mesh.size == 0]
        if not config.train.shard_state or id(variable) not in can_split or not axes:
            return replicate(mesh)
        return split_batch(mesh, max(axes, key=lambda axis: variable.shape[axis]))

    return [choose(variable) for variable in state.list_variables()]


def has_loop(mesh: Mesh) -> bool:
    """Return whether the compiled function trains several steps in a loop.

    XLA for CPUs computes the gradients of convolution kernels 50 times as slowly inside a loop.
    """
    return mesh.devices.flat[0].platform != "cpu"


def compile_train_steps(config: Config, state: State, mesh: Mesh) -> Callable:
    """Return a compiled function that trains several steps, or a single one; see `has_loop`.

    Args:
      config: resolved.
      state: the variables. Only their shapes matter.
      mesh: the devices, along the axis AXIS.

    Returns:
      A function (values, batches, first, count) -> (values, metrics). The values are those of
      `State.list_variables`; the old ones are overwritten. The batches are a batch whose arrays have
      an additional first dimension for the steps; `count` of them are trained, from `first` on. The
      metrics are those of `measure_step`, summed over these steps.
    """
    variables = state.list_variables()
    shardings, copied = choose_state_shardings(config, state, mesh), replicate(mesh)

    def run_steps(values, batches, first, count):
        def run_step(index, carry):
            values, total = carry
            batch = tree.map_structure(lambda steps: steps[index], batches)
            with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
                metrics = train_step(config, state, batch, copied)
            values = [scope.get_current_value(variable) for variable in variables]
            # Otherwise the compiler may split the weights like their moments, and then the layers.
            return jax.lax.with_sharding_constraint(values, shardings), total + metrics

        carry = values, jnp.zeros(len(METRICS))
        if not has_loop(mesh):
            return run_step(first, carry)
        return jax.lax.fori_loop(first, first + count, run_step, carry)

    return jax.jit(
        run_steps,
        in_shardings=(shardings, split_batch(mesh, axis=1), copied, copied),
        out_shardings=(shardings, copied),
        donate_argnums=0,
    )


def train_step(config: Config, state: State, batch: Batch, copied: NamedSharding) -> jax.Array:
    """Train one step inside a stateless scope, and return its metrics.

    Args:
      config: resolved.
      state: the variables.
      batch: the entire batch.
      copied: the sharding of the gradients.
    """
    denoiser = state.denoiser
    # Corrupt the images, denoise them, and differentiate the loss.
    examples = corrupt_batch(config, denoiser.diffusion_path, batch, state.step.value)
    fixed = [(variable, variable.value) for variable in denoiser.non_trainable_variables]

    def compute_loss(trained):
        weights = [*zip(denoiser.trainable_variables, trained, strict=True), *fixed]
        with keras.StatelessScope(weights):
            losses, statistics = compute_losses(config, denoiser, examples)
        return scale_loss(config, losses, state.loss_scale.value), (losses, statistics)

    trained = [variable.value for variable in denoiser.trainable_variables]
    gradients, (losses, statistics) = jax.grad(compute_loss, has_aux=True)(trained)
    gradients = jax.lax.with_sharding_constraint(gradients, copied)
    # Update the state, and compute the metrics.
    gradients, factors = prepare_update(state, config.train, gradients)
    apply_update(state, config.train, gradients, statistics, factors)
    skipped = 1.0 - factors["applied"]
    return measure_step(losses, examples["noise_level"], factors["norm"], skipped)


def compile_inference(
    function: Callable, variables: Sequence[keras.Variable], mesh: Mesh
) -> Callable:
    """Compile a function of a batch, and return it as a function (values, inputs, shared).

    Args:
      function: see `Engine.compile_inference`.
      variables: the variables that the function reads; the values replace theirs.
      mesh: the devices, over which the inputs are split.
    """
    copied = replicate(mesh)

    def infer(values, inputs, shared):
        # Averages may be split over the devices. Gather them, or the compiler may split the layers.
        values = jax.lax.with_sharding_constraint(values, copied)
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(inputs, shared)

    return jax.jit(infer, in_shardings=(None, split_batch(mesh), copied), out_shardings=copied)
