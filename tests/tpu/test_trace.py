"""A TPU can run the graphs that TPUStrategy builds, and faults planted in them are found."""

import itertools
import json
import subprocess
import sys

import pytest
import tensorflow as tf

from t2i_tpu import config as config_lib
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.engines.tensorflow.engine import TensorFlowEngine
from t2i_tpu.engines.tensorflow.train_loop import make_device_loop
from t2i_tpu.tpu import trace
from t2i_tpu.tpu.stand_in import make_stand_in_strategy
from t2i_tpu.training.trainer import build_trainer
from tests import tiny
from tests.conftest import LOGICAL_DEVICES


@pytest.fixture(scope="module")
def strategy():
    return make_stand_in_strategy(LOGICAL_DEVICES)


def make_config(squares, **changes):
    return config_lib.resolve(tiny.make_config(squares, train__dtype_policy="auto", **changes))


@pytest.mark.parametrize(
    ("recipe", "conditioning"),
    [
        *itertools.product(["modern", "baseline"], ["embedding", "label", "tokens"]),
        ("modern", "sequence"),
    ],
)
def test_no_kind_of_model_has_problems(squares, strategy, recipe, conditioning):
    changes = {"model__widths": (16, 16), "model__attention_levels": (False, True)}
    config = make_config(squares, recipe=recipe, model__conditioning=conditioning, **changes)
    result = trace.trace_config(config, read_manifest(str(squares)), strategy)
    assert result.problems == []
    assert result.facts["replicas"] == LOGICAL_DEVICES
    assert result.facts["per_replica_batch_size"] == 2
    assert result.facts["dtype_policy"] == "mixed_bfloat16"


def make_faulty_loop(squares, strategy, fault):
    """Build the real loop with a step that also calls `fault`.

    Returns:
      The loop's graph, and the shapes that it must sum over the replicas.
    """
    config, manifest = make_config(squares), read_manifest(str(squares))
    engine = TensorFlowEngine(strategy)
    trainer = build_trainer(config, engine, manifest)

    def faulty_step(batch):
        with tf.control_dependencies([fault(batch)]):
            return trainer.loop.replica_step(batch)

    loop = make_device_loop(strategy, faulty_step, tf.Variable(False, trainable=False))
    batches = trace.make_zero_dataset(config, manifest, 2).repeat()
    iterator = engine.make_iterator(config, lambda *_: batches)
    graph = loop.get_concrete_function(iterator, tf.constant(1)).graph
    return graph, [weight.shape for weight in trainer.state.denoiser.trainable_variables]


def use_a_dynamic_shape(batch):
    return tf.boolean_mask(batch["slot"], batch["slot"] > 2)


def call_python(batch):
    return tf.numpy_function(lambda slot: slot, [batch["slot"]], tf.int32)


def print_slots(batch):
    tf.print(batch["slot"])
    return batch["slot"]


def read_a_file(batch):
    return tf.strings.length(tf.io.read_file("x")) + batch["slot"]


def compute_in_float64(batch):
    return tf.cast(tf.reduce_sum(tf.cast(batch["slot"], tf.float64)), tf.int32)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (use_a_dynamic_shape, ["Where", "static shapes"]),
        (call_python, ["PyFunc", "calls the host in every step"]),
        (print_slots, ["PrintV2", "calls the host"]),
        (read_a_file, ["ReadFile", "XLA cannot compile"]),
        (compute_in_float64, ["float64"]),
    ],
)
def test_planted_fault_is_found(squares, strategy, fault, words):
    graph, _ = make_faulty_loop(squares, strategy, fault)
    problems = trace.find_problems(graph)
    assert any(all(word in problem for word in words) for problem in problems), problems


def sum_zeros(batch):
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.zeros([3, 7]))


def test_planted_sum_over_replicas_is_found(squares, strategy):
    graph, shapes = make_faulty_loop(squares, strategy, sum_zeros)
    (problem,) = trace.find_reduction_problems(graph, LOGICAL_DEVICES, shapes)
    assert problem == (
        "the number of sums over the replicas of tensors of shape [3, 7] is 1, but it must be 0"
    )


def test_sum_over_some_of_the_replicas_is_found(squares, strategy):
    graph, shapes = make_faulty_loop(squares, strategy, sum_zeros)
    problems = trace.find_reduction_problems(graph, 2 * LOGICAL_DEVICES, shapes)
    assert "does not sum over all 8 replicas" in problems[0]


def test_graph_without_replicas_is_a_problem():
    graph = tf.function(lambda x: x + 1.0).get_concrete_function(tf.zeros([1])).graph
    assert trace.find_problems(graph) == ["nothing in the graph is replicated over the TPU's cores"]


# A program whose arguments are the number of replicas, the number of hosts and the folder of the data
# set. Its last line is a JSON list of the hosts that read data and of the slots of each replica.
PROGRAM = """
import json
import sys

from t2i_tpu.tpu.stand_in import make_stand_in_strategy

num_replicas, num_hosts, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
strategy = make_stand_in_strategy(num_replicas, num_hosts)

from t2i_tpu import config as config_lib
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.engines.tensorflow.engine import TensorFlowEngine
from t2i_tpu.tpu import trace
from tests import tiny

config = config_lib.resolve(tiny.make_config(folder, train__global_batch_size=2 * num_replicas))
result = trace.trace_config(config, read_manifest(folder), strategy)
assert result.problems == [], result.problems
assert result.facts["replicas"] == num_replicas and result.facts["hosts"] == num_hosts

dataset = open_dataset(folder, "embedding", 16)
hosts = []

def read_batches(*host_and_number):
    hosts.append(list(host_and_number))
    return dataset.batches(0, config.train.global_batch_size, 2, 0, *hosts[-1])

batch = next(TensorFlowEngine(strategy).make_iterator(config, read_batches))
slots = [value.numpy().tolist() for value in strategy.experimental_local_results(batch["slot"])]
print(json.dumps([sorted(hosts), slots]))
"""


@pytest.mark.parametrize(("num_replicas", "num_hosts"), [(4, 1), (8, 4)])
def test_each_host_reads_its_own_streams(squares, num_replicas, num_hosts):
    """Each host of a pod reads its streams with the real reader, in a separate server."""
    arguments = [str(num_replicas), str(num_hosts), str(squares)]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    hosts, slots = json.loads(result.stdout.splitlines()[-1])
    assert hosts == [[host, num_hosts] for host in range(num_hosts)]
    slots = list(itertools.chain(*slots))
    assert sorted(slots) == list(range(2 * num_replicas))
    # The data set has 4 streams. Host h reads the streams h, h + num_hosts, and so on.
    per_host = len(slots) // num_hosts
    for host in range(num_hosts):
        host_slots = slots[host * per_host : (host + 1) * per_host]
        assert {slot % 4 % num_hosts for slot in host_slots} == {host % num_hosts}
