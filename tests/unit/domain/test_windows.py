"""Windows of a task: hours in a time zone, over changes of time."""

from __future__ import annotations

from datetime import datetime

import pytest

from muster.wire.messages import TaskPolicy
from muster.wire.messages.policy_parts import Window
from muster_coordinator.domain.windows import is_open, seconds_until_open, unknown_zones

HOUR, DAY = 3600.0, 86400.0
BERLIN = "Europe/Berlin"


def at(text):
    """Returns the POSIX seconds of a time with its offset."""
    return datetime.fromisoformat(text).timestamp()


def window(start, end, *days, zone=BERLIN):
    return Window(start=start, end=end, days=days, time_zone=zone)


def open_hours(windows, first, last, *, step=900):
    """Returns the hours in which windows are open between two times, and checks the waits."""
    hours, now = 0.0, at(first)
    while now < at(last):
        wait = seconds_until_open(windows, now=now)
        assert (wait == 0) is is_open(windows, now=now)
        if 0 < wait < 30 * DAY:
            assert is_open(windows, now=now + wait)
            assert not is_open(windows, now=now + wait - 1)
        hours += is_open(windows, now=now) * step / HOUR
        now += step
    return hours


def test_without_windows_the_task_is_always_open():
    assert is_open((), now=at("2026-03-02T12:00:00+01:00"))
    assert seconds_until_open((), now=0.0) == 0


def test_window_includes_its_start_and_excludes_its_end():
    night = (window("22:00", "06:00"),)
    assert not is_open(night, now=at("2026-03-02T21:59:59+01:00"))
    assert is_open(night, now=at("2026-03-02T22:00:00+01:00"))
    assert is_open(night, now=at("2026-03-03T05:59:59+01:00"))
    assert not is_open(night, now=at("2026-03-03T06:00:00+01:00"))
    assert seconds_until_open(night, now=at("2026-03-03T06:00:00+01:00")) == 16 * HOUR


def test_days_are_those_on_which_the_window_begins():
    weekend = (window("20:00", "04:00", "sat"),)
    assert is_open(weekend, now=at("2026-03-08T03:00:00+01:00"))  # a Sunday
    assert not is_open(weekend, now=at("2026-03-07T03:00:00+01:00"))  # a Saturday
    assert seconds_until_open(weekend, now=at("2026-03-08T04:00:00+01:00")) == 6 * DAY + 16 * HOUR


def test_time_zone_of_each_window_counts():
    both = (window("09:00", "10:00", zone="Asia/Tokyo"), window("09:00", "10:00", zone="America/New_York"))
    assert is_open(both, now=at("2026-03-02T09:30:00+09:00"))
    assert is_open(both, now=at("2026-03-02T09:30:00-05:00"))
    assert seconds_until_open(both, now=at("2026-03-02T10:00:00+09:00")) == 13 * HOUR
    assert open_hours(both, "2026-03-02T00:00:00+00:00", "2026-03-04T00:00:00+00:00") == 4


def test_equal_start_and_end_are_a_whole_day():
    assert open_hours((window("06:00", "06:00"),), "2026-03-02T00:00:00+01:00", "2026-03-04T00:00:00+01:00") == 48
    monday = (window("00:00", "24:00", "mon"),)
    assert open_hours(monday, "2026-03-01T12:00:00+01:00", "2026-03-08T12:00:00+01:00") == 24


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        ("01:00", "05:00", 3),  # the clock skips an hour of it
        ("02:15", "05:00", 2),  # begins as soon as the clock shows a later time
        ("01:00", "02:30", 1),  # ends as soon as the clock shows a later time
        ("02:15", "02:45", 0),  # never shown
        ("22:00", "06:00", 7),
    ],
)
def test_window_over_the_change_to_summer_time(start, end, hours):
    # In Berlin 02:00 to 03:00 of 2026-03-29, a Sunday, do not exist.
    day = "sat" if start == "22:00" else "sun"
    opened = open_hours((window(start, end, day),), "2026-03-28T12:00:00+01:00", "2026-03-29T22:00:00+02:00", step=300)
    assert opened == pytest.approx(hours)


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        ("01:00", "05:00", 5),  # the clock repeats an hour of it
        ("02:30", "03:00", 1.5),  # from the first 02:30
        ("02:00", "02:30", 0.5),  # once
        ("22:00", "06:00", 9),
    ],
)
def test_window_over_the_change_to_winter_time(start, end, hours):
    # In Berlin 02:00 to 03:00 of 2026-10-25, a Sunday, occur twice.
    day = "sat" if start == "22:00" else "sun"
    opened = open_hours((window(start, end, day),), "2026-10-24T12:00:00+02:00", "2026-10-25T22:00:00+01:00", step=300)
    assert opened == pytest.approx(hours)


def test_window_opens_at_the_same_local_time_in_summer_and_winter():
    night = (window("22:00", "06:00"),)
    assert seconds_until_open(night, now=at("2026-01-15T12:00:00+01:00")) == 10 * HOUR
    assert seconds_until_open(night, now=at("2026-07-15T12:00:00+02:00")) == 10 * HOUR
    # 20 hours of the clock are 19 hours of time.
    sunday = (window("08:00", "09:00", "sun"),)
    assert seconds_until_open(sunday, now=at("2026-03-28T12:00:00+01:00")) == 19 * HOUR


def test_weekly_window_in_the_skipped_hour_opens_a_week_later():
    weekly = (window("02:15", "02:45", "sun"),)
    wait = seconds_until_open(weekly, now=at("2026-03-22T12:00:00+01:00"))
    assert at("2026-03-22T12:00:00+01:00") + wait == at("2026-04-05T02:15:00+02:00")


@pytest.mark.parametrize("zone", ["Europe/Bonn", "Europe", "/etc/localtime", "../UTC", "Mars"])
def test_unknown_time_zone_is_named(zone):
    known = {"start": "09:00", "end": "10:00"}
    windows = (known, Window.model_construct(**known, days=(), time_zone=zone))
    policy = TaskPolicy().model_copy(update={"windows": (Window(**known), windows[1])})
    (fault,) = unknown_zones(policy)
    assert fault.path == "policy.windows.1.time_zone"
    assert repr(zone) in fault.reason
    assert not is_open((windows[1],), now=0.0)
    assert seconds_until_open((windows[1],), now=0.0) > 365 * DAY
