"""Load on a running server: what ``bench`` and ``evaluate`` send, time and count."""
