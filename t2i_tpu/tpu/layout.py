"""The arrays of a compiled program as the TPU lays them out: their padding, and the largest.

A TPU stores an array in tiles, of 8 rows by 128 columns of its two minor dimensions as a rule, and
fills up what does not divide; narrow channels can make an array many times its size (tensorflow
#30803). The compiler chooses which dimensions are minor; its own program says what it came to.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

HBM = 0  # a layout's memory space; 1 is the core's own memory
_ASYNCHRONOUS = ("-start", "-update")  # counted when they are done
_NO_ARRAY = {"tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}
_IN_PLACE = ("Assign", "ResourceApply")  # TensorFlow's ops that update a variable


@dataclasses.dataclass(frozen=True)
class Array:
    """Something that the program keeps in memory.

    Attributes:
      layer: where it comes from, "down0_1/residual/conv1".
      num_bytes, padded_bytes: without and with what tiles add.
      in_hbm: or in the core's own memory.
      is_state: a weight or the like, or its new value in its place.
    """

    layer: str
    num_bytes: int
    padded_bytes: int
    in_hbm: bool
    is_state: bool


def arrays(module: hlo_pb2.HloModuleProto) -> Iterator[Array]:
    """Every array that a compiled program reads or makes, loop bodies once, what is inside of
    fusions left out."""
    by_id = _by_id(module)
    for instruction in _executed(module):
        if instruction.opcode in _NO_ARRAY or instruction.opcode.endswith(_ASYNCHRONOUS):
            continue
        op = _origin(instruction, by_id)
        is_state = instruction.opcode == "parameter" or op.startswith(_IN_PLACE)
        for shape in _leaves(instruction.shape):
            in_hbm = shape.layout.memory_space == HBM
            bare = math.prod(shape.dimensions) * _bits(shape) // 8
            yield Array(_layer(op), bare, _padded_bytes(shape), in_hbm, is_state)


def padding_waste(found: Sequence[Array]) -> float:
    """Bytes with tiles over bytes without, of the arrays in HBM; 1 is none."""
    kept = [array for array in found if array.in_hbm]
    return sum(array.padded_bytes for array in kept) / max(
        1, sum(array.num_bytes for array in kept)
    )


def largest_temporaries(found: Sequence[Array], count: int = 8) -> list[tuple[str, int]]:
    """Layers and the bytes of what they leave in HBM, largest first; not all of it at one time."""
    total = Counter()
    for array in found:
        if array.in_hbm and not array.is_state:
            total[array.layer] += array.padded_bytes
    return total.most_common(count)


def hbm_traffic(module: hlo_pb2.HloModuleProto) -> int:
    """Bytes that go from and to HBM: of every instruction's operands and results, tiles included."""
    total = 0
    by_id = _by_id(module)
    for instruction in _executed(module):
        if instruction.opcode in {*_NO_ARRAY, "parameter", "constant"}:
            continue
        if instruction.opcode.endswith(_ASYNCHRONOUS):
            continue
        read = instruction.operand_ids
        if instruction.opcode.endswith("-done"):
            read = by_id[read[0]].operand_ids
        for shape in (instruction.shape, *(by_id[number].shape for number in read)):
            total += sum(
                _padded_bytes(leaf) for leaf in _leaves(shape) if leaf.layout.memory_space == HBM
            )
    return total


def estimated_cycles(module: hlo_pb2.HloModuleProto) -> int:
    """The core's cycles by the compiler's own model of it, loop bodies once."""
    found = (
        re.search(rb'"estimated_cycles":"(\d+)"', instruction.backend_config)
        for instruction in _executed(module)
    )
    return sum(int(cycles[1]) for cycles in found if cycles)


def _executed(module):
    """The instructions of the program itself and of its loop bodies, not of fusions or reducers."""
    computations = {computation.id: computation for computation in module.computations}
    waiting = [module.entry_computation_id]
    while waiting:
        number = waiting.pop()
        for instruction in computations[number].instructions:
            if instruction.opcode in ("while", "conditional", "call"):
                waiting += instruction.called_computation_ids
            if instruction.opcode != "parameter" or number == module.entry_computation_id:
                yield instruction


def _by_id(module):
    return {
        item.id: item for computation in module.computations for item in computation.instructions
    }


def _origin(instruction, by_id) -> str:
    """The name of the op that an instruction is of; of a copy, that of what it copies."""
    while not instruction.metadata.op_name and instruction.operand_ids:
        instruction = by_id[instruction.operand_ids[0]]
    return instruction.metadata.op_name


def _padded_bytes(shape) -> int:
    tiles = [tile.dimensions for tile in shape.layout.tiles]
    elements = padded_elements(shape.dimensions, shape.layout.minor_to_major, tiles)
    return elements * _bits(shape) // 8


def padded_elements(
    dimensions: Sequence[int], minor_to_major: Sequence[int], tiles: Sequence[Sequence[int]]
) -> int:
    """Elements that an array takes in a tiled layout: {3,2,1,0:T(8,128)(2,1)} has the last dimension
    in rows of 128 and the one before it in columns of 8; each further tile is one of the tile before."""
    physical = [dimensions[index] for index in reversed(minor_to_major)] or [1]
    for tile in tiles:
        physical = [1] * (len(tile) - len(physical)) + physical
        outer, inner = physical[: -len(tile)], physical[-len(tile) :]
        counts = [-(-size // side) for size, side in zip(inner, tile, strict=True)]
        physical = [*outer, *counts, *tile]
    return math.prod(physical)


def _leaves(shape):
    if shape.element_type == xla_data_pb2.TUPLE:
        for inner in shape.tuple_shapes:
            yield from _leaves(inner)
    elif _bits(shape) and shape.layout.memory_space <= 1:  # others hold semaphores
        yield shape


def _bits(shape) -> int:
    """Of an element: its type's name tells, F32, BF16, S8, F8E5M2; PRED takes a byte."""
    name = xla_data_pb2.PrimitiveType.Name(shape.element_type)
    number = re.search(r"\d+", name)
    return int(number[0]) if number else 8 * (name == "PRED")


def _layer(op_name: str) -> str:
    """StatefulPartitionedCall/gradient_tape/denoiser_1/unet_1/up0_0_1/residual_1/norm1_1/Sum ->
    up0_0/residual/norm1 (gradient); outside of the network, the op itself."""
    first = op_name.split(";")[0]  # the compiler joins the names of what it fuses
    parts = [re.sub(r"_\d+$", "", part) for part in first.split("/")]
    gradient = " (gradient)" if "gradient_tape" in parts else ""
    inside = "unet" in parts[:-2]
    layers = parts[parts.index("unet") + 1 : -1] if inside else parts[-1:]
    return "/".join(layers) + gradient
