"""FLOPs and bytes of a traced function agree with counts by hand."""

import time

import pytest
import tensorflow as tf

from t2i_tpu.profile.cost import (
    count_activation_bytes,
    count_product_bytes,
    count_product_flops,
    read_op_seconds,
)

BATCH, SIZE, CHANNELS, WIDTH, OUT = 2, 8, 3, 5, 7


def run_layers(x, kernel, matrix):
    """Apply a convolution with stride 2, to [2, 4, 4, 5], then a matrix product, to [2, 7]."""
    x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME"))
    return tf.matmul(tf.reshape(x, [BATCH, -1]), matrix)


CONVOLUTION = 2 * (3 * 3 * CHANNELS) * (BATCH * 4 * 4 * WIDTH)
PRODUCT = 2 * (4 * 4 * WIDTH) * (BATCH * OUT)
IMAGES = tf.zeros([BATCH, SIZE, SIZE, CHANNELS])


@pytest.fixture
def variables():
    kernel = tf.Variable(tf.ones([3, 3, CHANNELS, WIDTH]))
    return kernel, tf.Variable(tf.ones([4 * 4 * WIDTH, OUT]))


def trace(function, *arguments):
    return tf.function(function).get_concrete_function(*arguments).graph


def test_flops_of_the_forward_pass_are_counted(variables):
    graph = trace(lambda x: run_layers(x, *variables), IMAGES)
    assert count_product_flops(graph) == CONVOLUTION + PRODUCT


@pytest.mark.parametrize("nested", [False, True])
def test_flops_of_gradients_inside_a_loop_count_once(variables, nested):
    """The body of the loop counts once.

    The gradients of a product are two more products of the same cost. The convolution of the first
    layer has only one, because the gradient of the image is not computed.
    """

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(run_layers(x, *variables) ** 2)
        return tape.gradient(loss, variables)

    body = tf.function(step) if nested else step

    def loop(x, count):
        total = tf.zeros([])
        for _ in tf.range(count):
            total += sum(tf.reduce_sum(gradient) for gradient in body(x))
        return total

    graph = trace(loop, IMAGES, tf.constant(3))
    assert count_product_flops(graph) == 2 * CONVOLUTION + 3 * PRODUCT


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("batch_shape", [[], [6]])
def test_flops_of_batched_and_transposed_products_are_counted(
    transpose_a, transpose_b, batch_shape
):
    def multiply(a, b):
        return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)

    a = tf.zeros(batch_shape + ([4, 3] if transpose_a else [3, 4]))
    b = tf.zeros(batch_shape + ([5, 4] if transpose_b else [4, 5]))
    num_products = 6 if batch_shape else 1
    assert count_product_flops(trace(multiply, a, b)) == num_products * 2 * 3 * 4 * 5


def test_bytes_of_products_are_counted(variables):
    """Each product reads its operands and writes its result, with 4 bytes per value."""
    graph = trace(lambda x: run_layers(x, *variables), IMAGES)
    image, kernel, hidden = BATCH * SIZE * SIZE * CHANNELS, 9 * CHANNELS * WIDTH, BATCH * 16 * WIDTH
    convolution, product = image + kernel + hidden, hidden + 16 * WIDTH * OUT + BATCH * OUT
    assert count_product_bytes(graph) == 4 * (convolution + product)


def test_activations_that_the_backward_pass_reads_are_counted(variables):
    """The gradient of the kernel reads the image, and that of the matrix the flattened activations.

    Activations that are read in two shapes count once, and weights do not count.
    """

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(run_layers(x, *variables))
        return tape.gradient(loss, variables)

    image, hidden = BATCH * SIZE * SIZE * CHANNELS, BATCH * 16 * WIDTH
    assert count_activation_bytes(trace(step, IMAGES), BATCH) == 4 * (image + hidden)
    forward_only = trace(lambda x: run_layers(x, *variables), IMAGES)
    assert count_activation_bytes(forward_only, BATCH) == 0


def test_seconds_are_summed_by_kind_of_op(tmp_path):
    """A large matrix product takes most of the time, and no more than the elapsed time."""
    matrix = tf.ones([1024, 1024])
    multiply = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix) + 1.0))
    multiply()
    tf.profiler.experimental.start(str(tmp_path))
    begin = time.perf_counter()
    for _ in range(3):
        multiply().numpy()
    wall_seconds = time.perf_counter() - begin
    tf.profiler.experimental.stop()
    seconds = read_op_seconds(str(tmp_path))
    in_products = sum(value for op, value in seconds.items() if "MatMul" in op)
    assert in_products > 0.5 * sum(seconds.values())
    # Several threads may work at the same time.
    assert in_products <= 2 * wall_seconds
