"""A real Ctrl-C, between frames and inside one."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from immunecam.runtime.frame_interrupt import FrameInterrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_frame_is_finished_first():
    done = []
    with pytest.raises(KeyboardInterrupt), FrameInterrupt() as interrupt:
        for number in range(3):
            with interrupt.frame():
                if number == 1:
                    press()
                done.append(number)
    assert done == [0, 1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_between_frames_it_works_at_once():
    with pytest.raises(KeyboardInterrupt), FrameInterrupt() as interrupt:
        with interrupt.frame():
            pass
        press()
        pytest.fail("the interrupt was held back")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_does_not_wait():
    with pytest.raises(KeyboardInterrupt), FrameInterrupt() as interrupt, interrupt.frame():
        press()
        press()
        pytest.fail("the second interrupt was held back")


def test_an_error_of_the_frame_comes_first():
    with pytest.raises(ValueError, match="frame"), FrameInterrupt() as interrupt, interrupt.frame():
        press()
        raise ValueError("frame")


def test_a_service_manager_asks_as_ctrl_c_does():
    done = []
    with pytest.raises(KeyboardInterrupt), FrameInterrupt(signal.SIGINT, signal.SIGTERM) as interrupt:
        with interrupt.frame():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("the frame")
        done.append("more")
    assert done == ["the frame"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_else_stays():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with FrameInterrupt(signal.SIGTERM) as interrupt, interrupt.frame():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_is_left_alone():
    found = []

    def work() -> None:
        with FrameInterrupt() as interrupt, interrupt.frame():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
