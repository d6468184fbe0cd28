"""Reads the programs that JAX traces."""

from collections.abc import Iterator

from jax.extend import core


def iter_inner(equation) -> Iterator[core.Jaxpr]:
    """Yield the programs that an equation of a jaxpr runs, such as the body of a loop."""
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
