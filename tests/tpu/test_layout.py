"""Sizes of tiled arrays agree with XLA's documentation and with figures computed by hand."""

import pytest
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

from t2i_tpu.tpu import layout

F32, BF16 = xla_data_pb2.F32, xla_data_pb2.BF16


@pytest.mark.parametrize(
    ("dimensions", "minor_to_major", "tiles", "elements"),
    [
        ([3, 5], [1, 0], [[2, 2]], 24),  # the example F32[3,5] of XLA's page "Tiled layout"
        ([128, 32, 32, 128], [3, 0, 2, 1], [[8, 128], [2, 1]], 128 * 32 * 32 * 128),
        ([32, 16, 16, 96], [3, 0, 2, 1], [[8, 128], [2, 1]], 32 * 16 * 16 * 128),
        ([32, 16, 16, 3], [3, 2, 1, 0], [[8, 128]], 32 * 16 * 16 * 128),  # 43 times as large
        ([32, 16, 16, 3], [0, 3, 2, 1], [[4, 128]], 16 * 16 * 4 * 128),
        ([224], [0], [[256], [128], [2, 1]], 256),
        ([300], [0], [[128]], 384),
        ([], [], [[128]], 128),
        ([7, 9], [1, 0], [], 63),
    ],
)
def test_padded_elements_are_counted(dimensions, minor_to_major, tiles, elements):
    assert layout.padded_elements(dimensions, minor_to_major, tiles) == elements


def make_shape(element_type, dimensions, space=layout.HBM):
    shape = xla_data_pb2.ShapeProto(element_type=element_type, dimensions=dimensions)
    shape.layout.minor_to_major.extend(reversed(range(len(dimensions))))
    shape.layout.tiles.add(dimensions=[8, 128])
    shape.layout.memory_space = space
    return shape


@pytest.fixture
def module():
    """A module with an argument, a fusion and two copies.

    The fusion reads the argument and has two results, one of them in the core's memory. The copies
    are of its first result and of the argument. The program returns the second copy.
    """
    module = hlo_pb2.HloModuleProto(entry_computation_id=1)
    entry, fused = module.computations.add(id=1, root_id=7), module.computations.add(id=2)
    pair = xla_data_pb2.ShapeProto(element_type=xla_data_pb2.TUPLE)
    pair.tuple_shapes.extend([make_shape(BF16, [8, 64]), make_shape(F32, [8, 128], space=1)])

    def add(computation, number, opcode, shape, operands=(), op_name="", calls=()):
        instruction = computation.instructions.add(
            id=number, opcode=opcode, shape=shape, operand_ids=operands
        )
        instruction.metadata.op_name = op_name
        instruction.called_computation_ids.extend(calls)

    norm = "Call/gradient_tape/denoiser_1/unet_1/up0_0_1/norm1_1/Sum_2"
    add(entry, 1, "parameter", make_shape(F32, [16, 128]))
    add(entry, 2, "fusion", pair, [1], norm, [2])
    add(entry, 3, "get-tuple-element", make_shape(BF16, [8, 64]), [2])
    add(entry, 4, "copy", make_shape(BF16, [8, 64]), [3])
    add(entry, 5, "copy", make_shape(F32, [16, 128]), [1], "AssignAddVariableOp_7")
    add(entry, 7, "tuple", xla_data_pb2.ShapeProto(element_type=xla_data_pb2.TUPLE), [5])
    add(fused, 6, "add", make_shape(F32, [1024, 1024]))
    return module


def test_arrays_of_a_module_are_listed(module):
    arrays = list(layout.iter_arrays(module))
    weights, half, on_chip, copy, updated = arrays
    assert (weights.num_bytes, weights.padded_bytes, weights.is_state) == (8192, 8192, True)
    assert (half.num_bytes, half.padded_bytes, half.in_hbm) == (1024, 2048, True)
    assert (on_chip.num_bytes, on_chip.in_hbm) == (4096, False)
    assert half.layer == "up0_0/norm1 (gradient)"
    assert copy.layer == half.layer
    assert updated.is_state and not copy.is_state
    assert layout.padding_waste(arrays) == pytest.approx((16384 + 4096) / (16384 + 2048))
    assert layout.find_largest_temporaries(arrays) == [("up0_0/norm1 (gradient)", 4096)]


def test_traffic_is_counted(module):
    """The fusion reads 8192 bytes and writes 2048; the copies read and write 2048 and 8192 each.

    An array in the core's own memory costs nothing.
    """
    assert layout.count_hbm_traffic(module) == 8192 + 2048 + 2 * 2048 + 2 * 8192


def test_exchanged_arrays_are_counted(module):
    """A sum of 16x128 float32, and a gather of 8x64 bfloat16 from the parts of the devices."""
    assert layout.count_exchanged_bytes(module) == {}
    entry = module.computations[0]
    shapes = {
        "all-reduce-start": make_shape(F32, [16, 128]),
        "all-gather": make_shape(BF16, [8, 64]),
    }
    for number, (opcode, shape) in enumerate(shapes.items(), 10):
        entry.instructions.add(id=number, opcode=opcode, shape=shape, operand_ids=[1])
    entry.instructions.add(id=12, opcode="all-reduce-done", operand_ids=[10])
    assert layout.count_exchanged_bytes(module) == {"all-reduce": 8192, "all-gather": 1024}


@pytest.mark.parametrize(
    ("op_name", "layer"),
    [
        ("jit(step)/jvp(denoiser)/unet/up0_0/residual/norm1/div", "up0_0/residual/norm1"),
        (
            "jit(step)/transpose(jvp(denoiser))/unet/up0_0/residual/norm1/div;jit(step)/add",
            "up0_0/residual/norm1 (gradient)",
        ),
        ("jit(step)/transpose(jvp(denoiser))/conditioner/project/dot", "dot (gradient)"),
        ("jit(step)/while/body/jvp(denoiser)/unet/down0_0/conv/transpose", "down0_0/conv"),
        ("Call/denoiser_1/unet_1/up0_0_1/norm1_1/Sum_2", "up0_0/norm1"),
        ("", ""),
    ],
)
def test_layer_of_an_op_is_found(op_name, layer):
    assert layout._parse_layer(op_name) == layer


def test_estimated_cycles_are_summed(module):
    """The compiler writes an estimate into each instruction. A fusion's includes its inside."""
    for computation, cycles in zip(module.computations, (40, 7), strict=True):
        last = computation.instructions[-1]
        last.backend_config = f'{{"window":[],"estimated_cycles":"{cycles}"}}'.encode()
    assert layout.sum_estimated_cycles(module) == 40
