"""What can go wrong in a load test, told apart by what the reader should look at."""


class LoadTestError(Exception):
    """Base of all errors that end a run; the message says what to change."""


class Unavailable(LoadTestError):
    """Something the run needs is not there: data, an executable, a server. Install or name it."""


class RequestFailed(LoadTestError):
    """A server refused a request, dropped it or did not answer in time. Read the server's log."""


class WrongAnswer(LoadTestError):
    """A server answered, but not with what the data says. A speed measured on it means nothing."""
