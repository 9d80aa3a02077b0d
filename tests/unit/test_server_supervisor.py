"""When children are started again, and how they are spoken to."""

from __future__ import annotations

import signal
import socket

import pytest

from chroma_async.server.child import Orders
from chroma_async.server.listen import ListenError, listen, url_of
from chroma_async.server.supervisor import ONE_STOP_SECONDS, Asked, RestartPolicy
from chroma_async.settings import EngineSettings, ServerSettings


def test_child_that_lived_long_is_started_again_at_once() -> None:
    assert RestartPolicy().delay(quick_deaths=0) == 0


def test_pauses_grow_up_to_a_limit_while_a_child_keeps_dying() -> None:
    policy = RestartPolicy(delay_seconds=1.0, delay_seconds_max=4.0, quick_deaths_max=6)
    assert [policy.delay(deaths) for deaths in range(1, 6)] == [2.0, 4.0, 4.0, 4.0, 4.0]


def test_child_that_keeps_dying_is_given_up() -> None:
    assert RestartPolicy(quick_deaths_max=3).delay(2) is not None
    assert RestartPolicy(quick_deaths_max=3).delay(3) is None


class Signals:
    """What was asked for by signals, at times of ours."""

    def __init__(self) -> None:
        self._now = 0.0
        self.asked = Asked(lambda: self._now)

    def send(self, number: signal.Signals, after_seconds: float = 0.0) -> tuple[bool, bool]:
        self._now += after_seconds
        self.asked.note(number)
        return self.asked.stop.is_set(), self.asked.hurry.is_set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_hurries_and_one_that_came_twice_does_not(number: signal.Signals) -> None:
    signals = Signals()
    assert signals.send(signal.SIGINT) == (True, False)
    assert signals.send(number, ONE_STOP_SECONDS / 2) == (True, False)
    assert signals.send(number, ONE_STOP_SECONDS) == (True, True)


def test_the_end_of_a_terminal_hurries_nobody() -> None:
    signals = Signals()
    signals.send(signal.SIGTERM)
    assert signals.send(signal.SIGHUP, 10 * ONE_STOP_SECONDS) == (True, False)


def test_only_workers_are_given_the_listening_socket() -> None:
    assert 7 in Orders(role="worker", path="", socket=7, lifeline=8, status=9).descriptors
    assert 7 not in Orders(role="compactor", path="", socket=7, lifeline=8, status=9).descriptors


def test_orders_reach_a_child_as_they_were_given() -> None:
    orders = Orders(
        role="compactor",
        path="/data/\u2603",
        socket=7,
        lifeline=8,
        status=9,
        engine=EngineSettings(durability="off", allow_reset=True),
        server=ServerSettings(workers=5, cors_origins=("http://a", "http://b"), graceful_seconds=0.5),
    )
    assert Orders.from_argument(orders.to_argument()) == orders


def test_socket_listens_where_its_url_says() -> None:
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert url_of(bound) == f"http://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port)).close()


def test_port_that_is_taken_is_refused() -> None:
    with listen("127.0.0.1", 0) as bound, pytest.raises(ListenError, match="choose another --port"):
        listen("127.0.0.1", bound.getsockname()[1])


def test_host_that_is_unknown_is_refused() -> None:
    with pytest.raises(ListenError, match="unknown host"):
        listen("no-such-host.invalid", 0)
