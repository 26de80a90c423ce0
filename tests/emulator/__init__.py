"""Runs kernels as Triton compiled them, on a CPU: PTX for sm_80 and sm_90 over numpy arrays. See README.md.

ptx.py           text to instructions and basic blocks        flow.py       where blocks join, what a product still owns
translation.py   a basic block to a Python function           opcodes.py    the table of opcodes
arithmetic.py    integers, floats, conversions, shuffles      fragments.py  registers of tensor cores and matrices
threads.py       the threads that run now                     machine.py    one launch: blocks, divergence, reports
global_memory.py, shared_memory.py   bytes, and who touched them
copies.py        cp.async, tensor copies, mbarriers           products.py   warp-group products
kernel.py        a compiled text with its arguments           driver.py     Triton's driver for a card that is not there
costs.py         what memory accesses cost                    rows.py       rows of the launch table
cost_report.py   the costs of shipped launches
"""
