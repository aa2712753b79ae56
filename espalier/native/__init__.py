"""Kernels in C++ where torch is the bottleneck: one file each, built on first use, never needed."""
