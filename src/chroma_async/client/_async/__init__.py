"""The clients as written by hand; `scripts/unasync.py` derives their sync twins from them."""
