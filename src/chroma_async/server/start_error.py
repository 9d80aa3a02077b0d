"""Why a server can't start."""


class StartError(Exception):
    """The server can't start; the message is one line for the person who started it, and says what to change."""
