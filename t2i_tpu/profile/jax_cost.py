"""Counts the FLOPs of the convolutions and matrix products of a traced JAX function."""

import math

from jax.extend import core

from t2i_tpu.engines.jax.jaxprs import iter_inner


def count_product_flops(jaxpr: core.ClosedJaxpr) -> int:
    """Return the FLOPs of every convolution and matrix product of a jaxpr.

    A multiply-add counts as two. The body of a scan counts as often as it runs, and that of a while
    loop once. Zeros that a strided convolution's gradient inserts do not count.
    """
    return _count(jaxpr.jaxpr)


def _count(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _count_dot(equation)
        elif name == "conv_general_dilated":
            total += _count_convolution(equation)
        repeats = params["length"] if name == "scan" else 1
        total += repeats * sum(map(_count, iter_inner(equation)))
    return total


def _count_dot(equation) -> int:
    ((contracted, _), _) = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    inner = math.prod(left[axis] for axis in contracted)
    return 2 * inner * math.prod(equation.outvars[0].aval.shape)


def _count_convolution(equation) -> int:
    """Return 2 * kernel height * width * input channels for every output value."""
    kernel = equation.invars[1].aval.shape
    # The first axis of the specification is that of the output channels.
    axes = equation.params["dimension_numbers"].rhs_spec[1:]
    products = math.prod(kernel[axis] for axis in axes)
    inserted = math.prod(equation.params["lhs_dilation"])
    return 2 * products * math.prod(equation.outvars[0].aval.shape) // inserted
