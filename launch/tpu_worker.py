"""Run TensorFlow's TPU worker. launch/tpu_host.sh starts it on each host of a pod, without flags."""

import os

from t2i_tpu import installed

os.environ.update(installed.get_tpu_environment(computes_on_it=True))

from tensorflow.python.tools import grpc_tpu_worker

if __name__ == "__main__":
    grpc_tpu_worker.run()
