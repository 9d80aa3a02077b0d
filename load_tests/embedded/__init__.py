"""Libraries that search in the caller's process, each in a process of its own: ours, and peers.

`runner.py` and `engines.py` run there, perhaps with another interpreter, and import nothing but numpy and the library.
"""
