"""Compiles serialized HLO with the TPU's own compiler, without a TPU.

compile.py runs this script in an environment that has jax and libtpu, but not TensorFlow:

  python -I compiler_process.py HLO TOPOLOGY CHIP_CONFIG FOLDER PARENT

It writes result.json and the compiled program, module.pb (an HloModuleProto), into FOLDER. It exits
when the process PARENT does.
"""

import json
import os
import sys
import threading
import time

os.environ.update(
    # Otherwise libtpu asks a metadata server for the type of this TPU, and jax looks for a TPU.
    TPU_SKIP_MDS_QUERY="1",
    JAX_PLATFORMS="cpu",
    TPU_WORKER_HOSTNAMES="localhost",
    # Otherwise libtpu blocks other compilations on this machine.
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    # This value has no effect, because the topology is given explicitly below.
    TPU_ACCELERATOR_TYPE="v4-8",
)

import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import _jax, xla_client
from jax._src.lib.mlir import ir
from jax.experimental import topologies


def write_results(compile_program, folder, parent):
    """Write the results of a function that returns a compiled program into `folder`.

    The result of a program that the compiler rejects is its error.
    """
    threading.Thread(target=exit_with_parent, args=(int(parent),), daemon=True).start()
    try:
        program = compile_program()
    except _jax.JaxRuntimeError as error:
        result = {"error": str(error)}
    else:
        module = program.hlo_modules()[0]
        with open(os.path.join(folder, "module.pb"), "wb") as file:
            file.write(module.as_serialized_hlo_module_proto())
        result = collect_figures(program)
    with open(os.path.join(folder, "result.json"), "w") as file:
        json.dump(result, file)


def exit_with_parent(parent):
    """Exit when the parent has died, because it can no longer stop this process or read the result."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def compile_hlo(path, topology, chip_config):
    """Compile the program at `path` for one replica on the first device of the topology."""
    with open(path, "rb") as file:
        computation = xla_client.XlaComputation(file.read())
    text = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
    # StableHLO has no mhlo.copy; an optimization barrier is an identity too.
    text = text.replace("mhlo.copy", "stablehlo.optimization_barrier")
    devices = list_devices(topology, chip_config)
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(
        np.array([[devices[0].id]], np.int32)
    )
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        return devices[0].client.compile(module, _jax.DeviceList((devices[0],)), options)


def list_devices(topology, chip_config):
    """Return the devices of a slice, on which nothing can run."""
    return topologies.get_topology_desc(
        platform="tpu", topology_name=topology, chip_config_name=chip_config
    ).devices


def collect_figures(program):
    """Return the memory use, in bytes, and the FLOPs of a compiled program."""
    memory, cost = program.get_compiled_memory_stats(), program.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "flops": cost["flops"],
    }


if __name__ == "__main__":
    *source, folder, parent = sys.argv[1:]
    write_results(lambda: compile_hlo(*source), folder, parent)
