"""The commands of ``immunecam``, one a module."""
