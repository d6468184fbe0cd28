"""Compiles serialized HLO with the TPU's own compiler, without a TPU. Run by compile.py, in an
environment that has jax and libtpu and no TensorFlow:

  python -I compiler_process.py HLO TOPOLOGY CHIP_CONFIG FOLDER PARENT

It leaves result.json in FOLDER, and the compiled program as module.pb (an HloModuleProto). It ends
with the process PARENT.
"""

import json
import os
import sys
import threading
import time

# libtpu would ask a metadata server which TPU this is, and jax would look for it.
os.environ.update(
    TPU_SKIP_MDS_QUERY="1",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # or it locks out other compilations on the machine
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_ACCELERATOR_TYPE="v4-8",  # of no consequence: the topology is named below
    JAX_PLATFORMS="cpu",
)

import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import _jax, xla_client
from jax._src.lib.mlir import ir
from jax.experimental import topologies


def main(path, topology, chip_config, folder, parent):
    threading.Thread(target=end_with, args=(int(parent),), daemon=True).start()
    try:
        program = compiled(path, topology, chip_config)
    except _jax.JaxRuntimeError as error:
        result = {"error": str(error)}
    else:
        module = program.hlo_modules()[0]
        with open(os.path.join(folder, "module.pb"), "wb") as file:
            file.write(module.as_serialized_hlo_module_proto())
        result = figures(program)
    with open(os.path.join(folder, "result.json"), "w") as file:
        json.dump(result, file)


def end_with(parent):
    """A parent that is killed cannot stop us, and nobody would read the result."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def compiled(path, topology, chip_config):
    """The program for one replica on the first device of the topology."""
    with open(path, "rb") as file:
        computation = xla_client.XlaComputation(file.read())
    text = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
    # An identity that StableHLO has no word for.
    text = text.replace("mhlo.copy", "stablehlo.optimization_barrier")
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=topology, chip_config_name=chip_config
    ).devices
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(
        np.array([[devices[0].id]], np.int32)
    )
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        return devices[0].client.compile(module, _jax.DeviceList((devices[0],)), options)


def figures(program):
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
    main(*sys.argv[1:])
