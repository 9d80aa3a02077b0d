"""The engine: the one place that knows all parts."""

from chroma_async.engine.engine import Engine, open_engine, run_compactor

__all__ = ["Engine", "open_engine", "run_compactor"]
