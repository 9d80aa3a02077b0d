"""Entry point of ``python -m load_tests``.

Spawned load generators import this module again under another name, so it imports nothing at the top: a generator
needs neither numpy nor the command line.
"""

if __name__ == "__main__":
    from load_tests.cli import app

    app(prog_name="python -m load_tests")
