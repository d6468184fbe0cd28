"""Arrays of a compiled program as the TPU lays them out: their sizes, padding and memory traffic.

A TPU stores an array in tiles, usually 8 rows by 128 columns of its two minor dimensions, and pads
these dimensions to multiples of the tile. With few channels, the padded array can be many times as
large (tensorflow #30803). The compiler chooses which dimensions are minor, so the layout is read from
the compiled program.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

# The memory space of a layout. Those with other numbers are on the chip.
HBM = 0

# Opcodes of asynchronous operations that are counted when they are done.
_ASYNCHRONOUS = ("-start", "-update")
_WITHOUT_ARRAY = {"tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}
_CONTROL_FLOW = {"while", "conditional", "call"}

# Opcodes that only pass arrays on.
_PASSING = {"tuple", "get-tuple-element", "bitcast", "copy", "copy-start", "copy-done"}

# Opcodes of the operations in which devices exchange arrays.
_COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array that the program keeps in memory.

    Attributes:
      layer: the layer that it belongs to, such as "down0_1/residual/conv1".
      num_bytes: size without the padding of tiles.
      padded_bytes: size with the padding of tiles.
      in_hbm: whether it is in HBM rather than on the chip.
      is_state: whether it is an argument or a result of the program, or passed from one iteration of a
        loop to the next. In a training step, these are the variables and their new values.
    """

    layer: str
    num_bytes: int
    padded_bytes: int
    in_hbm: bool
    is_state: bool


def iter_arrays(module: hlo_pb2.HloModuleProto) -> Iterator[Array]:
    """Yield every array that a compiled program reads or makes.

    Loop bodies count once, and the inside of fusions is left out.
    """
    by_id, result_ids = _index_instructions(module), _find_result_ids(module)
    for instruction in _iter_executed(module):
        if instruction.opcode in _WITHOUT_ARRAY or instruction.opcode.endswith(_ASYNCHRONOUS):
            continue
        op_name = _find_op_name(instruction, by_id)
        is_state = instruction.opcode == "parameter" or instruction.id in result_ids
        for shape in _iter_leaf_shapes(instruction.shape):
            yield Array(
                layer=_parse_layer(op_name),
                num_bytes=_count_bytes(shape),
                padded_bytes=_count_padded_bytes(shape),
                in_hbm=shape.layout.memory_space == HBM,
                is_state=is_state,
            )


def padding_waste(arrays: Sequence[Array]) -> float:
    """Return the padded size divided by the unpadded size of the arrays in HBM."""
    in_hbm = [array for array in arrays if array.in_hbm]
    padded = sum(array.padded_bytes for array in in_hbm)
    return padded / max(1, sum(array.num_bytes for array in in_hbm))


def find_largest_temporaries(arrays: Sequence[Array], count: int = 8) -> list[tuple[str, int]]:
    """Return the layers that write the most to HBM and the bytes that they write, largest first.

    Not all of a layer's bytes are alive at the same time.
    """
    total = Counter()
    for array in arrays:
        if array.in_hbm and not array.is_state:
            total[array.layer] += array.padded_bytes
    return total.most_common(count)


def count_hbm_traffic(module: hlo_pb2.HloModuleProto) -> int:
    """Return the bytes that all instructions read from and write to HBM, with padding.

    Every operand is read once and every result written once.
    """
    total = 0
    by_id = _index_instructions(module)
    for instruction in _iter_executed(module):
        if instruction.opcode in {*_WITHOUT_ARRAY, "parameter", "constant"}:
            continue
        if instruction.opcode.endswith(_ASYNCHRONOUS):
            continue
        operand_ids = instruction.operand_ids
        if instruction.opcode.endswith("-done"):
            operand_ids = by_id[operand_ids[0]].operand_ids
        for shape in (instruction.shape, *(by_id[number].shape for number in operand_ids)):
            leaves = _iter_leaf_shapes(shape)
            total += sum(
                _count_padded_bytes(leaf) for leaf in leaves if leaf.layout.memory_space == HBM
            )
    return total


def sum_estimated_cycles(module: hlo_pb2.HloModuleProto) -> int:
    """Return the core's cycles, as the compiler estimates them. Loop bodies count once."""
    matches = (
        re.search(rb'"estimated_cycles":"(\d+)"', instruction.backend_config)
        for instruction in _iter_executed(module)
    )
    return sum(int(match[1]) for match in matches if match)


def count_exchanged_bytes(module: hlo_pb2.HloModuleProto) -> dict[str, int]:
    """Return the bytes of the arrays that devices sum or otherwise exchange, by the kind of operation.

    They are those of the complete array: before a reduce-scatter, and after an all-gather.
    """
    total = Counter()
    by_id = _index_instructions(module)
    for instruction in by_id.values():
        kind = instruction.opcode.removesuffix("-start")
        if kind in _COLLECTIVES:
            shapes = [by_id[number].shape for number in instruction.operand_ids]
            if kind == "all-gather":
                shapes = [instruction.shape]
            total[kind] += sum(_count_bytes(leaf) for s in shapes for leaf in _iter_leaf_shapes(s))
    return dict(total)


def padded_elements(
    dimensions: Sequence[int], minor_to_major: Sequence[int], tiles: Sequence[Sequence[int]]
) -> int:
    """Return the number of elements that an array takes in a tiled layout.

    In the layout {3,2,1,0:T(8,128)(2,1)}, the last dimension is in rows of 128 and the one before
    it in columns of 8. Each further tile subdivides the tile before it.

    Args:
      dimensions: shape of the array.
      minor_to_major: indices of the dimensions, the most minor one first.
      tiles: the sides of each tile.
    """
    physical = [dimensions[index] for index in reversed(minor_to_major)] or [1]
    for tile in tiles:
        physical = [1] * (len(tile) - len(physical)) + physical
        outer, inner = physical[: -len(tile)], physical[-len(tile) :]
        counts = [-(-size // side) for size, side in zip(inner, tile, strict=True)]
        physical = [*outer, *counts, *tile]
    return math.prod(physical)


def _iter_executed(module) -> Iterator:
    """Yield the instructions of the program and of its loop bodies, not of fusions or reducers."""
    for computation in _iter_computations(module):
        for instruction in computation.instructions:
            if instruction.opcode != "parameter" or computation.id == module.entry_computation_id:
                yield instruction


def _iter_computations(module) -> Iterator:
    """Yield the program's computation and those of its loops and branches."""
    computations = {computation.id: computation for computation in module.computations}
    waiting = [module.entry_computation_id]
    while waiting:
        computation = computations[waiting.pop()]
        yield computation
        for instruction in computation.instructions:
            if instruction.opcode in _CONTROL_FLOW:
                waiting += instruction.called_computation_ids


def _index_instructions(module) -> dict:
    """Return the instructions of all computations by their ids."""
    return {
        instruction.id: instruction
        for computation in module.computations
        for instruction in computation.instructions
    }


def _find_op_name(instruction, by_id) -> str:
    """Return the name of the op that an instruction belongs to.

    An instruction without a name, such as a copy, belongs to the op of its first operand.
    """
    while not instruction.metadata.op_name and instruction.operand_ids:
        instruction = by_id[instruction.operand_ids[0]]
    return instruction.metadata.op_name


def _find_result_ids(module) -> set[int]:
    """Return the ids of the instructions that make the results of the program and of loop bodies."""
    by_id, result_ids = _index_instructions(module), set()
    waiting = [by_id[computation.root_id] for computation in _iter_computations(module)]
    while waiting:
        instruction = waiting.pop()
        result_ids.add(instruction.id)
        if instruction.opcode in _PASSING:
            waiting += [by_id[number] for number in instruction.operand_ids]
    return result_ids


def _count_bytes(shape) -> int:
    return math.prod(shape.dimensions) * _count_element_bits(shape) // 8


def _count_padded_bytes(shape) -> int:
    tiles = [tile.dimensions for tile in shape.layout.tiles]
    elements = padded_elements(shape.dimensions, shape.layout.minor_to_major, tiles)
    return elements * _count_element_bits(shape) // 8


def _iter_leaf_shapes(shape) -> Iterator:
    """Yield the shapes of the arrays in a possibly nested tuple."""
    if shape.element_type == xla_data_pb2.TUPLE:
        for inner in shape.tuple_shapes:
            yield from _iter_leaf_shapes(inner)
    elif _count_element_bits(shape):
        yield shape


def _count_element_bits(shape) -> int:
    """Return the number of bits of an element, or 0 if the type has no size.

    It is the first number in the name of the type, such as F32, BF16, S8 or F8E5M2, and 8 for PRED.
    """
    name = xla_data_pb2.PrimitiveType.Name(shape.element_type)
    if name == "PRED":
        return 8
    number = re.search(r"\d+", name)
    return int(number[0]) if number else 0


def _parse_layer(op_name: str) -> str:
    """Return the layer in the name of an op, or only the op if it is outside the network.

    StatefulPartitionedCall/gradient_tape/denoiser_1/unet_1/up0_0_1/residual_1/norm1_1/Sum of TensorFlow and
    jit(step)/transpose(jvp(denoiser))/unet/up0_0/residual/norm1/reduce_sum of JAX both become
    up0_0/residual/norm1 (gradient).
    """
    # The compiler joins the names of the ops that it fuses.
    parts = op_name.split(";")[0].split("/")
    if not op_name.startswith("jit("):
        parts = [re.sub(r"_\d+$", "", part) for part in parts]
    is_gradient = any(part.startswith(("gradient_tape", "transpose(jvp(")) for part in parts)
    gradient = " (gradient)" if is_gradient else ""
    is_in_network = "unet" in parts[:-2]
    layers = parts[parts.index("unet") + 1 : -1] if is_in_network else parts[-1:]
    return "/".join(layers) + gradient
