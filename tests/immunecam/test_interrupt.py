"""A real Ctrl-C, between frames and inside one."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from immunecam.commands.interrupt import FrameInterrupt


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


def test_another_thread_is_left_alone():
    found = []

    def work() -> None:
        with FrameInterrupt() as interrupt, interrupt.frame():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
