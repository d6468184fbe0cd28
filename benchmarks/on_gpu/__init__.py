"""The parts of benchmarks/gpu.py. Only pack.py imports TensorFlow, and only peer*.py import torch."""
