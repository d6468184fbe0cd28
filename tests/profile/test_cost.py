"""FLOPs of a traced function, against counts by hand."""

import time

import pytest
import tensorflow as tf

from t2i_tpu.profile.cost import activation_bytes, op_seconds, product_bytes, product_flops

BATCH, SIZE, CHANNELS, WIDTH, OUT = 2, 8, 3, 5, 7


def forward(x, kernel, matrix):
    """A convolution with stride 2 to [2, 4, 4, 5], then a product to [2, 7]."""
    x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME"))
    return tf.matmul(tf.reshape(x, [BATCH, -1]), matrix)


CONVOLUTION = 2 * (3 * 3 * CHANNELS) * (BATCH * 4 * 4 * WIDTH)
PRODUCT = 2 * (4 * 4 * WIDTH) * (BATCH * OUT)


@pytest.fixture
def variables():
    kernel = tf.Variable(tf.ones([3, 3, CHANNELS, WIDTH]))
    return kernel, tf.Variable(tf.ones([4 * 4 * WIDTH, OUT]))


def graph_of(function, *arguments):
    return tf.function(function).get_concrete_function(*arguments).graph


def test_forward(variables):
    graph = graph_of(lambda x: forward(x, *variables), tf.zeros([BATCH, SIZE, SIZE, CHANNELS]))
    assert product_flops(graph) == CONVOLUTION + PRODUCT


@pytest.mark.parametrize("nested", [False, True])
def test_gradients_inside_a_loop(variables, nested):
    """The body counts once. Each product has two more of its cost in its gradients, the first
    layer's convolution only one: nobody asks for the gradient of the image."""

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(forward(x, *variables) ** 2)
        return tape.gradient(loss, variables)

    inner = tf.function(step) if nested else step

    def loop(x, count):
        total = tf.zeros([])
        for _ in tf.range(count):
            total += sum(tf.reduce_sum(gradient) for gradient in inner(x))
        return total

    images = tf.zeros([BATCH, SIZE, SIZE, CHANNELS])
    graph = graph_of(loop, images, tf.constant(3))
    assert product_flops(graph) == 2 * CONVOLUTION + 3 * PRODUCT


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_batched_and_transposed_products(transpose_a, transpose_b):
    def product(a, b):
        return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)

    for lead in ((), (6,)):
        a = tf.zeros([*lead, *((4, 3) if transpose_a else (3, 4))])
        b = tf.zeros([*lead, *((5, 4) if transpose_b else (4, 5))])
        assert product_flops(graph_of(product, a, b)) == 2 * 3 * 4 * 5 * (lead[0] if lead else 1)


def test_bytes_of_products(variables):
    """Each reads its operands and writes its result, 4 bytes a value."""
    graph = graph_of(lambda x: forward(x, *variables), tf.zeros([BATCH, SIZE, SIZE, CHANNELS]))
    image, kernel, hidden = BATCH * SIZE * SIZE * CHANNELS, 9 * CHANNELS * WIDTH, BATCH * 16 * WIDTH
    convolution, product = image + kernel + hidden, hidden + 16 * WIDTH * OUT + BATCH * OUT
    assert product_bytes(graph) == 4 * (convolution + product)


def test_activations_that_the_backward_products_read(variables):
    """The gradient of a kernel reads the image, that of a matrix what came out of the relu, flattened
    (once, though it is read in two shapes); the weights are no activations."""

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(forward(x, *variables))
        return tape.gradient(loss, variables)

    graph = graph_of(step, tf.zeros([BATCH, SIZE, SIZE, CHANNELS]))
    image, hidden = BATCH * SIZE * SIZE * CHANNELS, BATCH * 16 * WIDTH
    assert activation_bytes(graph, BATCH) == 4 * (image + hidden)
    forward_only = graph_of(lambda x: forward(x, *variables), tf.zeros([BATCH, SIZE, SIZE, 3]))
    assert activation_bytes(forward_only, BATCH) == 0


def test_seconds_by_kind_of_op(tmp_path):
    """A matrix product takes most of the time here, and no more than there was."""
    matrix = tf.ones([1024, 1024])
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix) + 1.0))
    product()
    tf.profiler.experimental.start(str(tmp_path))
    begin = time.perf_counter()
    for _ in range(3):
        product().numpy()
    wall = time.perf_counter() - begin
    tf.profiler.experimental.stop()
    seconds = op_seconds(str(tmp_path))
    matmul = sum(value for op, value in seconds.items() if "MatMul" in op)
    assert matmul > 0.5 * sum(seconds.values())
    assert matmul <= 2 * wall  # threads
