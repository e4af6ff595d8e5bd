"""Engines away from the event loop: in threads, or in a process of their own."""

from emamba_service.lanes.lane import Lane
from emamba_service.lanes.room import EngineFactory, EngineRoom, ProcessRoom, ThreadRoom

__all__ = ["EngineFactory", "EngineRoom", "Lane", "ProcessRoom", "ThreadRoom"]
