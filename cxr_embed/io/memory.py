"""Memory of this machine."""

from __future__ import annotations


def available_memory() -> int | None:
    """Bytes that can be had without swapping, as Linux says; None where nobody says."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
