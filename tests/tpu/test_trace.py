"""The graphs of TPUStrategy are what a TPU takes, and a fault in them is named."""

import itertools
import subprocess
import sys

import pytest
import tensorflow as tf

from t2i_tpu import config as config_lib
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.tpu import trace
from t2i_tpu.tpu.stand_in import stand_in_strategy
from t2i_tpu.train.state import TrainState
from t2i_tpu.train.step import make_device_loop, make_replica_step
from tests import tiny
from tests.conftest import LOGICAL_DEVICES


@pytest.fixture(scope="module")
def strategy():
    return stand_in_strategy(LOGICAL_DEVICES)


def auto(squares, **changes):
    return config_lib.resolve(tiny.config(squares, train__dtype_policy="auto", **changes))


@pytest.mark.parametrize(
    ("recipe", "conditioning"),
    [
        *itertools.product(["modern", "baseline"], ["embedding", "label", "tokens"]),
        ("modern", "sequence"),
    ],
)
def test_loop_and_sampler_of_every_kind_of_model(squares, strategy, recipe, conditioning):
    changes = {"model__widths": (16, 16), "model__attention_levels": (False, True)}
    config = auto(squares, recipe=recipe, model__conditioning=conditioning, **changes)
    traced = trace.trace(config, read_manifest(str(squares)), strategy)
    assert traced.problems == []
    assert traced.facts["replicas"] == LOGICAL_DEVICES
    assert traced.facts["per_replica_batch_size"] == 2
    assert traced.facts["dtype_policy"] == "mixed_bfloat16"


def where_loss_is(batch):
    return tf.boolean_mask(batch["slot"], batch["slot"] > 2)  # as long as the data want


def asks_python(batch):
    return tf.numpy_function(lambda slot: slot, [batch["slot"]], tf.int32)


def prints(batch):
    tf.print(batch["slot"])
    return batch["slot"]


def reads_a_file(batch):
    return tf.strings.length(tf.io.read_file("x")) + batch["slot"]


def in_double(batch):
    return tf.cast(tf.reduce_sum(tf.cast(batch["slot"], tf.float64)), tf.int32)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (where_loss_is, ["Where", "static shapes"]),
        (asks_python, ["PyFunc", "calls the host in every step"]),
        (prints, ["PrintV2", "calls the host"]),
        (reads_a_file, ["ReadFile", "XLA cannot compile"]),
        (in_double, ["float64"]),
    ],
)
def test_a_planted_fault_is_named(squares, strategy, fault, named):
    loop, iterator, _ = device_loop(squares, strategy, fault)
    problems = trace.check(loop.get_concrete_function(iterator, tf.constant(1)).graph)
    assert any(all(word in problem for word in named) for problem in problems), problems


def sums_twice(batch):
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.zeros([3, 7]))


def test_a_planted_second_reduction_is_named(squares, strategy):
    loop, iterator, shapes = device_loop(squares, strategy, sums_twice)
    graph = loop.get_concrete_function(iterator, tf.constant(1)).graph
    (problem,) = trace.check_reductions(graph, LOGICAL_DEVICES, shapes)
    assert problem == "1 sums over the replicas of tensors of shape [3, 7], but 0 are needed"
    # A reduction that lacks some of the replicas.
    assert "does not sum over all 8 replicas" in trace.check_reductions(graph, 8, shapes)[0]


def device_loop(squares, strategy, fault):
    """The real loop with a step that also does what `fault` does."""
    config = auto(squares)
    state = TrainState(config, read_manifest(str(squares)), "mixed_bfloat16", strategy)
    step = make_replica_step(config, state, jit_compile=False)

    def faulty(batch):
        with tf.control_dependencies([fault(batch)]):
            return step(batch)

    batches = trace.zeros(config, read_manifest(str(squares)), 2).repeat()
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: batches))
    waiting = tf.Variable(False, trainable=False)
    return make_device_loop(strategy, faulty, waiting), iterator, [w.shape for w in state.weights]


def test_a_graph_without_replicas_is_a_fault():
    graph = tf.function(lambda x: x + 1.0).get_concrete_function(tf.zeros([1])).graph
    assert trace.check(graph) == ["nothing in the graph is replicated over the TPU's cores"]


PROGRAM = """
import sys
from t2i_tpu.tpu.stand_in import stand_in_strategy
strategy = stand_in_strategy(int(sys.argv[1]), int(sys.argv[2]))
from t2i_tpu import config as config_lib
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.tpu import trace
from tests import tiny
config = config_lib.resolve(tiny.config(sys.argv[3], train__global_batch_size=2 * int(sys.argv[1])))
traced = trace.trace(config, read_manifest(sys.argv[3]), strategy)
assert traced.problems == [], traced.problems
assert traced.facts["replicas"] == int(sys.argv[1]) and traced.facts["hosts"] == int(sys.argv[2])

# Each host is fed by its own streams, through the real reader on that host's own server.
dataset = open_dataset(sys.argv[3], "embedding", 16)
asked = []
def batches(context):
    asked.append((context.input_pipeline_id, context.num_input_pipelines))
    return dataset.batches(0, config.train.global_batch_size, 2, 0, *asked[-1])
batch = next(iter(strategy.distribute_datasets_from_function(batches)))
slots = [value.numpy().tolist() for value in strategy.experimental_local_results(batch["slot"])]
print(sorted(asked), slots)
"""


@pytest.mark.parametrize(("replicas", "hosts"), [(8, 1), (32, 4)])
def test_a_host_of_eight_cores_and_a_pod_of_four(squares, replicas, hosts):
    command = [sys.executable, "-c", PROGRAM, str(replicas), str(hosts), str(squares)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    asked, slots = done.stdout.splitlines()[-1].split("] [[")
    assert asked == str([(host, hosts) for host in range(hosts)])[:-1]
    slots = [int(number) for number in slots.replace("[", "").replace("]", "").split(",")]
    assert sorted(slots) == list(range(2 * replicas))
    per_host = len(slots) // hosts
    for host in range(hosts):  # streams host, host + hosts, ... of 4
        mine = slots[host * per_host : (host + 1) * per_host]
        assert {slot % 4 % hosts for slot in mine} == {host % hosts}
