"""What one GPU makes of the house: right numbers, compiled graphs, speed, memory, time to a loss.

`benchmarks/gpu.sh` is the way in. `conduct` runs each section in a process of its own, against the
clock; a section is a generator of rows; `table` makes pages of them.
"""
