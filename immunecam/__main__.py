"""``python -m immunecam``."""

from immunecam.cli import main

main()
