import os
import signal

import pytest

from mixcd.edge.train.stop_signals import Stopped, StopSignals


@pytest.fixture
def signals():
    return StopSignals((signal.SIGINT, signal.SIGTERM))


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_once_while_nothing_can_be_asked(signals, number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, signals.watch():
        send(number)
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) is before


def test_the_first_signal_asks_and_the_second_stops(signals, capfd):
    asked = []
    signals.ask = lambda: asked.append(1)
    with signals.watch():
        send(signal.SIGTERM)
        assert asked == [1]
        assert signals.received == signal.SIGTERM
        assert "stopping after this step, with a checkpoint" in capfd.readouterr().err
        with pytest.raises(Stopped):
            send(signal.SIGINT)
    assert asked == [1]


def test_a_stop_is_no_exception_that_a_library_might_swallow():
    assert not issubclass(Stopped, Exception)
