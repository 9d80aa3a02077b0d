"""What a data directory and its processes take, and how little they can do with, measured."""
