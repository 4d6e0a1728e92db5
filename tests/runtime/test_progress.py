"""Progress lines: share, rate, time left; silent when the work is short; stderr only."""

from __future__ import annotations

import pytest

from xclass.runtime import progress
from xclass.runtime.progress import Progress, duration, say


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_line(clock: Clock) -> None:
    bar = Progress("read", 4000, "rows")
    clock.now += 2.0
    bar.advance(1000, note="file 1")
    assert bar.line() == "read: 1,000/4,000 rows (25%), 500 rows/s, 6s left, file 1"


def test_the_line_without_a_total(clock: Clock) -> None:
    bar = Progress("read", None, "rows")
    clock.now += 2.0
    bar.advance(1000)
    assert bar.line() == "read: 1,000 rows, 500 rows/s"


def test_a_total_of_zero_divides_nothing(clock: Clock) -> None:
    bar = Progress("read", 0, "rows")
    clock.now += 1.0
    bar.advance(0)
    assert bar.line() == "read: 0 rows, 0 rows/s"


def test_short_work_is_silent_long_work_is_not(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("read", 100, "rows") as bar:
        bar.advance(1)
        assert capsys.readouterr().err == ""
        clock.now += progress.PLAIN_INTERVAL_S
        bar.advance(1)
        clock.now += 1.0
        bar.advance(1)
    captured = capsys.readouterr()
    assert captured.err == "read: 2/100 rows (2%), 0 rows/s, 8m10s left\n"
    assert captured.out == ""


def test_more_than_the_total_has_no_time_left(clock: Clock) -> None:
    bar = Progress("read", 10, "rows")
    clock.now += 1.0
    bar.advance(20)
    assert "0s left" in bar.line()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (90061, "25h01m")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_say_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")
